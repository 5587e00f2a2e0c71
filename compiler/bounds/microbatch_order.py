"""x ≼ y: a chain of edges within one micro-batch leads from an operation of op class x to one of op
class y, or x = y. The theorems on memory speak of it."""

from stretto.compiler.bounds.relaxation import Relaxation
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


def ancestors(relaxed: Relaxation) -> list[int]:
    """For every op class y the set, as bits, of the op classes x ≼ y."""
    found = [1 << c for c in range(len(relaxed.classes))]
    before = predecessors(relaxed)
    for c in sorted_classes(relaxed):
        for tail in before[c]:
            found[c] |= found[tail]
    return found
