"""The trace of a step of DeepSeek's DualPipe: `F0.3` the forward of micro-batch 3 of direction 0,
which runs from the first rank to the last, direction 1 the other way; `B` a whole backward, `I` one
whose weight gradient is put off, `W` the weight gradient that has waited longest; `F0.3+B1.2` an
overlapped unit. The two directions have copies of the same stages.
"""

import re
from collections import defaultdict, deque

from stretto.compiler.diagnostics.source import Source
from stretto.compiler.imports.table import ImportedTable, PlacementWord
from stretto.compiler.imports.words import Dialect, Meaning, read_words

WORD = re.compile(r"([FBI])([01])\.([0-9]{1,9})|W")
DIRECTIONS = ("down", "up")


def read(source: Source, most: int, placement: PlacementWord | None) -> ImportedTable:
    """The table of the text: two pipelines over the same stages."""
    waiting: defaultdict[int, deque[Meaning]] = defaultdict(deque)

    def meaning(word: re.Match[str], rank: int, ranks: int) -> Meaning | None:
        kind, direction, microbatch = word.groups()
        if kind is None:
            return waiting[rank].popleft() if waiting[rank] else None
        way = int(direction)
        stage = ranks - 1 - rank if way else rank
        found = Meaning((kind,), stage, int(microbatch), way)
        if kind == "I":
            waiting[rank].append(found._replace(words=("W",)))
        return found

    return read_words(source, most, Dialect(WORD, meaning, "`F0.3` or `F0.3+B1.2`", DIRECTIONS))
