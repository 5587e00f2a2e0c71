"""B7: the span of a rank.

The span of a rank r, from its first start to its last end, is at least Jackson's value of
the operations of any rank, r or another, with heads measured from the start of r's first operation
and tails to the end of r's last.

Proof. The first start and the last end of r bracket all that a chain connects to both, and all of
r's own operations, whose heads and tails count at least 0; among those of one rank B1 holds. ∎

Which operation is first on r is not known. Where micro-batches run first in, first out, it is a
forward of micro-batch 0 whose op class follows no other of r within a micro-batch; the bound is the
least over these. Else heads are 0.
"""

from stretto.compiler.bounds.longest_paths import UNREACHED, PrecedenceGraph, heads_from
from stretto.compiler.bounds.microbatch_order import ClassOrder
from stretto.compiler.bounds.relaxation import OpKey, Relaxation, TickTable


def first_candidates(
    relaxed: Relaxation, order: ClassOrder | None, rank: int, fifo: list[bool]
) -> list[OpKey] | None:
    """The operations that may be the first of `rank`; None where they are too many to tell."""
    own = [c for c in relaxed.on(rank) if relaxed.classes[c].size]
    if order is None or not all(fifo[relaxed.classes[c].pipeline] for c in own):
        return None
    there = sum(1 << order.at[c] for c in own)
    return [(c, 0) for c in own if order.before[c] & there == 1 << order.at[c]]


def span_heads(graph: PrecedenceGraph, rank: int, first: OpKey | None) -> TickTable:
    """Heads from the start of `first`, the first operation of `rank`: 0 for what it does not reach
    on the rank, negative for what it does not reach elsewhere. (Tails: `tails_to`.)"""
    classes = graph.relaxed.classes
    if first is None:
        return [[0 if one.rank == rank else UNREACHED] * one.size for one in classes]
    head = heads_from(graph, first)
    for c in graph.relaxed.on(rank):
        head[c] = [max(0, ticks) for ticks in head[c]]
    return head
