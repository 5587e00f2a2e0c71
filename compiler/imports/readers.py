"""The systems whose tables are read: a reader for each, from a text to its `ImportedTable`, and how
many filled cells it may have, and where the user says that stages are."""

from collections.abc import Callable

from stretto.compiler.diagnostics.source import Source
from stretto.compiler.imports import (
    dualpipe,
    jaxpp,
    megatron,
    primus,
    torch_csv,
    zero_bubble,
)
from stretto.compiler.imports.table import ImportedTable, PlacementWord

READERS: dict[str, Callable[[Source, int, PlacementWord | None], ImportedTable]] = {
    "torch-csv": torch_csv.read,
    "zero-bubble": zero_bubble.read,
    "megatron": megatron.read,
    "dualpipe": dualpipe.read,
    "primus": primus.read,
    "jaxpp": jaxpp.read,
}
"""By the name that `--from` takes."""
