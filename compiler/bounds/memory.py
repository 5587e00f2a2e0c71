"""B3: what a memory limit forces.

Let the micro-batches of a pipeline run first in, first out (B0), X a
forward and Y a backward or weight gradient of it on one rank with limit L. Write x ≼ y for
the order within one micro-batch (`microbatch_order`). For the smallest K with

    (K + 1) · held + more > L    or    K · held + own > L

micro-batch i + K of X starts only after micro-batch i of Y has ended, where

    held = Σ memory that is taken by some x ≼ X and given back by some y ≽ Y,
    more = Σ memory that is taken by some x ≼ Y, not ≼ X, and given back by some y ≽ Y,
    own  = Σ memory that is taken by some x ≼ X and given back by some y ≽ X.

Proof. Say X of i + K starts at τ and Y of i has not ended. Micro-batches i … i + K have taken
what X needs, first in first out, and none of them has given back what only Y or what follows it
gives: each holds `held`; the last holds all of `own`. At τ, or when Y of i starts, whichever is
later, micro-batch i holds `more` besides, and the others still hold theirs. ∎

For a chain of stages, s <= t on one rank, I of t, whole activations a: K = ⌊(L − Σ_{s<u<=t} a_u) /
Σ_{u<=s} a_u⌋, sums over stages of the rank. With t = s that is why a limit of k lets at most k
micro-batches in; with partial release, W of s: K = ⌊(L − a_s) / a'_s⌋ + 1.

A third form where s < t and Y is W of t: a micro-batch between X's start and Y's end holds at
least the smaller of `own` (until F of t has taken its memory) and what W of t gives back, so
K · min(own, a'_t) + own > L will do too.
"""

from collections.abc import Iterator
from typing import NamedTuple

from stretto.compiler.bounds.microbatch_order import ClassOrder, rank_order
from stretto.compiler.bounds.relaxation import ClassEdge, Relaxation, Residency


class RankMemory(NamedTuple):
    """What one pipeline keeps on one rank: its residencies, the rank's limit in grains, the
    backwards and weight gradients of the pipeline there, and the order of op classes on ranks."""

    residencies: list[Residency]
    limit: int
    backwards: list[int]
    order: ClassOrder


MOST = 8_000_000
"""How often it may be asked what a residency holds between two op classes."""


def memory_edges(relaxed: Relaxation, fifo: list[bool]) -> list[ClassEdge]:
    """The edges of B3, less those that others imply. `fifo`: for which pipelines B0 holds. None
    where very many stages share ranks."""
    limited = [(rank, limit) for rank, limit in enumerate(relaxed.limits) if limit is not None]
    questions = sum(len(relaxed.trained(rank)) ** 3 for rank, _ in limited)
    order = rank_order(relaxed) if limited and questions <= MOST else None
    if order is None:
        return []
    return [
        edge
        for rank, limit in limited
        for memory in _memories(relaxed, rank, limit, fifo, order)
        for forward in sorted({residency.alloc for residency in memory.residencies})
        for edge in _strongest(memory, forward, relaxed.classes[forward].size)
    ]


def _memories(
    relaxed: Relaxation, rank: int, limit: int, fifo: list[bool], order: ClassOrder
) -> Iterator[RankMemory]:
    """What each pipeline for which B0 holds keeps on the rank."""
    own = relaxed.trained(rank)
    ends = [c for stage in own for c in (stage.backward, stage.weight) if c is not None]
    by_pipeline: dict[int, list[Residency]] = {}
    for residency in relaxed.residencies(rank):
        pipeline = relaxed.classes[residency.alloc].pipeline
        if fifo[pipeline]:
            by_pipeline.setdefault(pipeline, []).append(residency)
    for pipeline, residencies in by_pipeline.items():
        backwards = [c for c in ends if relaxed.classes[c].pipeline == pipeline]
        yield RankMemory(residencies, limit, backwards, order)


def _strongest(memory: RankMemory, forward: int, size: int) -> Iterator[ClassEdge]:
    """The edges into one forward, of which there are `size`, that no other edge implies."""
    found = {c: _distance(memory, forward, c) for c in memory.backwards}
    for c, distance in found.items():
        implied = any(
            other != c and memory.order.precedes(c, other) and found[other] <= distance
            for other in found
        )
        if 0 < distance < size and not implied:
            yield ClassEdge(c, forward, 0, distance)


def _distance(memory: RankMemory, x: int, y: int) -> int:
    """The smallest K; 0 where the limit cannot be met, large where nothing is forced."""
    limit, before = memory.limit, memory.order.precedes
    held = more = own = 0
    for alloc, free, grains in memory.residencies:
        early = before(alloc, x)
        if early and before(x, free):
            own += grains
        if before(y, free):
            if early:
                held += grains
            elif before(alloc, y):
                more += grains
    if held:
        return max(0, min((limit - more) // held, (limit - own) // held + 1))
    later = _given_back(memory, x, y)
    return (limit - own) // min(own, later) + 1 if own and later else limit + 1


def _given_back(memory: RankMemory, x: int, y: int) -> int:
    """Grains that y gives back, if nothing that x left is given back before these were taken (the
    third form); else 0."""
    before = memory.order.precedes
    taken = [alloc for alloc, free, _ in memory.residencies if free == y]
    stays = all(
        before(other, free)
        for other in taken
        for alloc, free, _ in memory.residencies
        if before(alloc, x) and before(x, free)
    )
    return sum(grains for _, free, grains in memory.residencies if free == y) if stays else 0
