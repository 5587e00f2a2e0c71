"""View → `CrowdedRow`s: a plan of more operations or ranks than a picture holds, as shares of time.

A row is a stream of a rank, or of several neighbours where there are more than `ROWS`; its time is
cut into equal cells, and of each is said how much of it goes into each colour. All that takes time
is counted, and no more is kept than the picture shows.
"""

from bisect import bisect_right
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

from stretto.compiler.problem.spec import NONE
from stretto.compiler.show.palette import Shade
from stretto.compiler.show.view import View

ROWS = 128
CELLS = 283


class CrowdedRow(NamedTuple):
    """A stream of the ranks `first` to `last`; for every colour and cell the ticks that they spend
    in it, the halves of a pair half of theirs; with the first stream, the grains that one rank
    holds at most, cell by cell."""

    first: int
    last: int
    stream: int
    ticks: dict[Shade, list[Fraction | int]]
    held: list[int]

    @property
    def many(self) -> int:
        """How many ranks it stands for."""
        return self.last - self.first + 1


def edges(view: View) -> list[int]:
    """The ticks at which cells begin, and the end of the last one."""
    makespan = max(1, view.claims.makespan)
    cells = min(CELLS, makespan)
    return [makespan * k // cells for k in range(cells + 1)]


def crowded_rows(view: View, cuts: list[int]) -> Iterator[CrowdedRow]:
    """All rows, from the first rank on."""
    many = -(-view.spec.ranks // ROWS)
    for first in range(0, view.spec.ranks, many):
        last = min(first + many, view.spec.ranks) - 1
        for stream in used(view, first, last):
            row = CrowdedRow(first, last, stream, {}, [0] * (len(cuts) - 1))
            for rank in range(first, last + 1):
                count(view, rank, cuts, row)
                if many == 1 and not stream:
                    hold(view, rank, cuts, row.held)
            yield row


def used(view: View, first: int, last: int) -> list[int]:
    """The streams on which these ranks have something, `compute` always."""
    if not view.spec.streams:
        return [0]
    return sorted({0, *(bar.stream for r in range(first, last + 1) for bar in view.lanes[r])})


def count(view: View, rank: int, cuts: list[int], row: CrowdedRow) -> None:
    """Adds the time of the rank's operations on the row's stream."""
    cells = len(cuts) - 1
    for bar in (bar for bar in view.lanes[rank] if bar.stream == row.stream):
        kind, pipeline, stage = bar.operation[:3]
        shade = kind, pipeline, view.chunks[pipeline, stage]
        ticks = row.ticks.setdefault(shade, [0] * cells)
        share = 1 if bar.unit == NONE else Fraction(1, 2)
        cell, at = bisect_right(cuts, bar.start) - 1, bar.start
        while at < bar.end:
            until = min(bar.end, cuts[cell + 1])
            ticks[cell] += (until - at) * share
            cell, at = cell + 1, until


def hold(view: View, rank: int, cuts: list[int], held: list[int]) -> None:
    """Enters the most that the rank holds in every cell."""
    curve = view.memory[rank]
    for k, level in enumerate(curve):
        cell = min(bisect_right(cuts, level.tick), len(held)) - 1
        until = curve[k + 1].tick if k + 1 < len(curve) else level.tick + 1
        while cell < len(held) and cuts[cell] < until:
            held[cell] = max(held[cell], level.grains)
            cell += 1
