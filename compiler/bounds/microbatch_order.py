"""x ≼ y: a chain of edges within one micro-batch leads from an operation of op class x to one of op
class y, or x = y. The theorems on memory speak of it."""

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
    """For every op class y the set, as bits, of the op classes x ≼ y."""
    found = [1 << c for c in range(len(relaxed.classes))]
    before = predecessors(relaxed)
    for c in sorted_classes(relaxed):
        for tail in before[c]:
            found[c] |= found[tail]
    return found
