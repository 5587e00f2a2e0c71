"""Megatron-LM's interleaved order: `1` a forward of the first chunk of the rank, `-1` its backward,
as `convert_schedule_table_to_order` has them. Micro-batches go in index order on each chunk, and
chunk c of rank r is stage (c - 1) * ranks + r.
"""

import re
from collections import defaultdict

from stretto.compiler.diagnostics.source import Source
from stretto.compiler.imports.sizes import stage_of
from stretto.compiler.imports.table import ImportedTable, PlacementWord
from stretto.compiler.imports.words import Dialect, Meaning, read_words

WORD = re.compile(r"(-?)([1-9][0-9]{0,5})")


def read(source: Source, most: int, placement: PlacementWord | None) -> ImportedTable:
    """The table of the text; Megatron places chunks as a loop, unless another is said."""
    seen: defaultdict[tuple[int, str, int], int] = defaultdict(int)

    def meaning(word: re.Match[str], rank: int, ranks: int) -> Meaning:
        sign, chunk = word.groups()
        microbatch = seen[rank, sign, int(chunk)]
        seen[rank, sign, int(chunk)] += 1
        stage = stage_of(placement or "loop", int(chunk) - 1, rank, ranks)
        return Meaning(("B",) if sign else ("F",), stage, microbatch)

    return read_words(source, most, Dialect(WORD, meaning, "`1` or `-2`"))
