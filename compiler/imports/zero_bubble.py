"""The schedule lists of sail-sg's zero-bubble runtime: `3F0`, the layer group (a stage), the type
of the node and the micro-batch. Its `B` is the input gradient, `BW` the whole backward; what is not
computed (messages, validations, offloading) may be left in, and is passed over.
"""

import re

from stretto.compiler.diagnostics.source import Source
from stretto.compiler.imports.table import ImportedTable, PlacementWord
from stretto.compiler.imports.words import Dialect, Meaning, read_words

KINDS = {"F": ("F",), "B": ("I",), "W": ("W",), "BW": ("B",)}
OTHERS = "(?:SEND|RECV)_(?:FORWARD|BACKWARD|POST_VALIDATION)|POST_VALIDATION|OFFLOAD_[A-Z_]+"
WORD = re.compile(rf"([0-9]{{1,9}})(F|BW|B|W)([0-9]{{1,9}})|(?:[0-9]+|None)(?:{OTHERS})[0-9]*")


def read(source: Source, most: int, placement: PlacementWord | None) -> ImportedTable:
    """The table of the text; the stages stand in it."""
    return read_words(source, most, Dialect(WORD, _meaning, "`3F0`, `3B0`, `3W0` or `3BW0`"))


def _meaning(word: re.Match[str], rank: int, ranks: int) -> Meaning:
    stage, kind, microbatch = word.groups()
    return Meaning(KINDS[kind], int(stage), int(microbatch)) if kind else Meaning(())
