"""The tasks of NVIDIA's JaxPP: `3FWD0`, the stage, the type of the task and the micro-batch; `+`
between those of a fused task. `BWD` is the whole backward, `BWD_I` and `BWD_W` its halves.
"""

import re

from stretto.compiler.diagnostics.source import Source
from stretto.compiler.imports.table import ImportedTable, PlacementWord
from stretto.compiler.imports.words import Dialect, Meaning, read_words

KINDS = {"FWD": ("F",), "BWD": ("B",), "BWD_I": ("I",), "BWD_W": ("W",)}
WORD = re.compile(r"([0-9]{1,9})(FWD|BWD_I|BWD_W|BWD)([0-9]{1,9})")


def read(source: Source, most: int, placement: PlacementWord | None) -> ImportedTable:
    """The table of the text; the stages stand in it."""
    return read_words(source, most, Dialect(WORD, _meaning, "`3FWD0` or `0FWD3+7BWD2`"))


def _meaning(word: re.Match[str], rank: int, ranks: int) -> Meaning:
    stage, kind, microbatch = word.groups()
    return Meaning(KINDS[kind], int(stage), int(microbatch))
