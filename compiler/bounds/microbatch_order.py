"""x ≼ y: a chain of edges within one micro-batch leads from an operation of op class x to one of op
class y, or x = y. The theorems on memory speak of it."""

from collections.abc import Iterator
from typing import NamedTuple

from stretto.compiler.bounds.relaxation import Relaxation, TickTable
from stretto.compiler.problem.topological import topological


def predecessors(relaxed: Relaxation) -> list[list[int]]:
    """For every op class those from which an edge within a micro-batch leads to it."""
    before: list[list[int]] = [[] for _ in relaxed.classes]
    for edge in relaxed.edges:
        if not edge.shift:
            before[edge.head].append(edge.tail)
    return before


def sorted_classes(relaxed: Relaxation) -> list[int]:
    """The op classes, each after its predecessors; those on a circle, and behind one, are left
    out."""
    before = predecessors(relaxed)
    after: list[list[int]] = [[] for _ in before]
    for c, tails in enumerate(before):
        for tail in tails:
            after[tail].append(c)
    return topological(after, [len(tails) for tails in before])


class Chains(NamedTuple):
    """What chains within a micro-batch are made of: the least ticks of every op class, the ticks
    between two of them, those before each, all in order, and the place of each there."""

    ticks: list[int]
    lags: dict[tuple[int, int], int]
    before: list[list[int]]
    order: list[int]
    at: dict[int, int]


def chains(relaxed: Relaxation, path: TickTable) -> Chains:
    """The chains of the Relaxation, where operations take as long as `path` says."""
    lags: dict[tuple[int, int], int] = {}
    for tail, head, lag, shift in relaxed.edges:
        if not shift:
            lags[tail, head] = max(lag, lags.get((tail, head), 0))
    order = sorted_classes(relaxed)
    ticks = [min(row, default=0) for row in path]
    return Chains(ticks, lags, predecessors(relaxed), order, {c: k for k, c in enumerate(order)})


def ancestors(relaxed: Relaxation) -> list[int]:
    """For every op class y the set, as bits, of the op classes x ≼ y: a number of as many bits as
    there are classes, for each of them."""
    return _walked(relaxed, [1 << c for c in range(len(relaxed.classes))])


class ClassOrder(NamedTuple):
    """x ≼ y for op classes of one rank: `at[x]` is the place of x on its rank, and of y `before[y]`
    are those x ≼ y of its rank, as bits by their places."""

    at: list[int]
    before: list[int]

    def precedes(self, x: int, y: int) -> bool:
        """Whether x ≼ y, of two op classes of one rank."""
        return bool(self.before[y] >> self.at[x] & 1)


MOST_BITS = 1 << 31
"""How large a ClassOrder may be."""
AT_ONCE = 8192
"""Op classes that are followed together through all others."""


def rank_order(relaxed: Relaxation) -> ClassOrder | None:
    """The order within a micro-batch on every rank, in memory for the classes of one rank times
    themselves; None where so many share a rank that this is too much."""
    if sum(len(relaxed.on(rank)) ** 2 for rank in relaxed.ranks) > MOST_BITS:
        return None
    at = [0] * len(relaxed.classes)
    for rank in relaxed.ranks:
        for place, c in enumerate(relaxed.on(rank)):
            at[c] = place
    before = _walked(relaxed, [1 << place for place in at], across=False)
    for ranks in _together(relaxed, [r for r in relaxed.ranks if not _in_line(relaxed, r, before)]):
        bits, start = [0] * len(at), 0
        for rank in ranks:
            for c in relaxed.on(rank):
                bits[c] = 1 << start + at[c]
            start += len(relaxed.on(rank))
        found, start = _walked(relaxed, bits), 0
        for rank in ranks:
            own = relaxed.on(rank)
            for c in own:
                before[c] = found[c] >> start & (1 << len(own)) - 1
            start += len(own)
    return ClassOrder(at, before)


def _walked(relaxed: Relaxation, bits: list[int], across: bool = True) -> list[int]:
    """For every op class the bits of all that lead to it, its own too; along edges within a rank
    alone, or `across` ranks as well."""
    found, classes = list(bits), relaxed.classes
    before = predecessors(relaxed)
    for c in sorted_classes(relaxed):
        for tail in before[c]:
            if across or classes[tail].rank == classes[c].rank:
                found[c] |= found[tail]
    return found


def _in_line(relaxed: Relaxation, rank: int, before: list[int]) -> bool:
    """Whether of any two classes of the rank one is known to precede the other; then nothing that
    runs elsewhere between them adds to it."""
    own = relaxed.on(rank)
    return sum(before[c].bit_count() for c in own) == len(own) * (len(own) + 1) // 2


def _together(relaxed: Relaxation, ranks: list[int]) -> Iterator[list[int]]:
    """The ranks in groups of no more than `AT_ONCE` op classes, if they have no more themselves."""
    group: list[int] = []
    room = AT_ONCE
    for rank in ranks:
        many = len(relaxed.on(rank))
        if group and many > room:
            yield group
            group, room = [], AT_ONCE
        group.append(rank)
        room -= many
    if group:
        yield group
