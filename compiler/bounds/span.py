"""B7. The span of a rank r, from its first start to its last end, is at least Jackson's value of
the operations of any rank, r or another, with heads measured from the start of r's first operation
and tails to the end of r's last.

Proof. The first start and the last end of r bracket all that a chain connects to both, and all of
r's own operations, whose heads and tails count at least 0; among those of one rank B1 holds. ∎

Which operation is first on r is not known. Where micro-batches run first in, first out, it is a
forward of micro-batch 0 whose strand follows no other of r within a micro-batch; the bound is the
least over these. Else heads are 0.
"""

from collections.abc import Iterator

from stretto.compiler.bounds.longest_paths import UNREACHED, PrecedenceGraph, TickTable, heads
from stretto.compiler.bounds.memory import ancestors
from stretto.compiler.bounds.relaxation import OpKey, Relaxation


def first_candidates(relaxed: Relaxation, rank: int, fifo: list[bool]) -> list[OpKey] | None:
    """The operations that may be the first of `rank`; None where they are too many to tell."""
    lower = ancestors(relaxed)
    own = [c for c in relaxed.on(rank) if relaxed.classes[c].size]
    if not all(fifo[relaxed.classes[c].pipeline] for c in own):
        return None
    mine = sum(1 << c for c in own)
    return [(c, 0) for c in own if not lower[c] & mine & ~(1 << c)]


def bracketed(
    graph: PrecedenceGraph, rank: int, first: OpKey | None, tail: TickTable
) -> tuple[TickTable, TickTable]:
    """Heads from `first` (0 for what it does not reach on the rank), and the same for tails; what
    is not connected keeps a negative number."""
    classes = graph.relaxed.classes
    if first is None:
        head = [[0 if op_class.rank == rank else UNREACHED] * op_class.size for op_class in classes]
    else:
        head = heads(graph, first)
        for c in graph.relaxed.on(rank):
            head[c] = [max(0, ticks) for ticks in head[c]]
    return head, tail


def connected(
    relaxed: Relaxation, rank: int, head: TickTable, tail: TickTable
) -> Iterator[tuple[int, int]]:
    """The operations of `rank` that lie between."""
    for c in relaxed.on(rank):
        for i in range(relaxed.classes[c].size):
            if head[c][i] >= 0 and tail[c][i] >= 0:
                yield c, i
