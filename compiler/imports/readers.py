"""The systems whose tables are read: a reader for each, from a text to its `ImportedTable`, and how
many filled cells it may have."""

from collections.abc import Callable

from stretto.compiler.diagnostics.source import Source
from stretto.compiler.imports import torch_csv
from stretto.compiler.imports.table import ImportedTable

READERS: dict[str, Callable[[Source, int], ImportedTable]] = {
    "torch-csv": torch_csv.read,
}
"""By the name that `--from` takes."""
