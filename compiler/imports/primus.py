"""The schedule table of AMD's Primus: `(F|0|1)`, the type of the node, its micro-batch and its
chunk, as the nodes print themselves. `B` is the input gradient, `BW` the whole backward; messages
are passed over. Which stage a chunk is, `--placement` says.
"""

import re
from functools import partial

from stretto.compiler.diagnostics.source import Source
from stretto.compiler.imports.sizes import stage_of
from stretto.compiler.imports.table import ImportedTable, PlacementWord
from stretto.compiler.imports.words import Dialect, Meaning, read_words

KINDS = {"F": ("F",), "B": ("I",), "W": ("W",), "BW": ("B",)}
COMPUTED = r"(F|BW|B|W)\|(-?[0-9]{1,9})\|([0-9]{1,6})"
SENT = r"(?:SF|SB|RF|RB|O|R)\|-?[0-9]{1,9}\|[0-9]{1,6}(?:\|[0-9]{1,9}){0,3}"
WORD = re.compile(rf"\((?:{COMPUTED}|{SENT})\)")


def read(source: Source, most: int, placement: PlacementWord | None) -> ImportedTable:
    """The table of the text; chunks are placed as said, by default as a loop."""
    understand = partial(_meaning, placement or "loop")
    return read_words(source, most, Dialect(WORD, understand, "`(F|0|1)`"))


def _meaning(
    placement: PlacementWord, word: re.Match[str], rank: int, ranks: int
) -> Meaning | None:
    kind, microbatch, chunk = word.groups()
    if kind is None:  # a message, or activations that are moved away and back
        return Meaning(())
    if microbatch.startswith("-"):  # Primus makes such ones at some sizes
        return None
    return Meaning(KINDS[kind], stage_of(placement, int(chunk), rank, ranks), int(microbatch))
