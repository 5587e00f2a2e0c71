"""Amounts of memory on one rank over a step, at given times: which are free before which are taken,
and the most that is held at once."""

from collections.abc import Iterator, Sequence
from heapq import heappop, heappush
from itertools import groupby
from typing import NamedTuple


class Amount(NamedTuple):
    """So many `grains`: taken in the operation that has the place `taken` in the rank's list, at
    the time `start`. Of the operations that free it `end` is the latest end, and `freed` the last
    place; the last of them to end frees it. `number` is whatever the caller knows it by."""

    grains: int
    start: int
    taken: int
    end: int
    freed: int
    number: int


def moments(amounts: Sequence[Amount]) -> Iterator[tuple[list[Amount], list[Amount]]]:
    """For each operation that takes something, by place, along which starts do not fall: what it
    takes, and what has become free since the one before it. An amount is free before an operation
    starts where all that frees it has ended by then, and stands before it in the list."""
    ending: list[tuple[int, int, int]] = []  # by end: its end, its last place, where it stands here
    ended: list[tuple[int, int]] = []  # of those that have ended: the last place, where it stands
    rows = sorted(range(len(amounts)), key=lambda k: amounts[k].taken)
    for place, group in groupby(rows, key=lambda k: amounts[k].taken):
        taken = list(group)
        start = amounts[taken[0]].start
        while ending and ending[0][0] <= start:
            _, last, k = heappop(ending)
            heappush(ended, (last, k))
        freed = []
        while ended and ended[0][0] < place:
            freed.append(amounts[heappop(ended)[1]])
        yield [amounts[k] for k in taken], freed
        for k in taken:
            heappush(ending, (amounts[k].end, amounts[k].freed, k))


def peak(amounts: Sequence[Amount]) -> int:
    """The most grains that are held at once."""
    held = most = 0
    for taken, freed in moments(amounts):
        held += sum(one.grains for one in taken) - sum(one.grains for one in freed)
        most = max(most, held)
    return most
