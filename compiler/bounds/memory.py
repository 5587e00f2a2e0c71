"""B3. What the limit forces. Let the micro-batches of a pipeline run first in, first out (B0), X a
forward and Y a backward or weight gradient of it on one rank with limit L. Write x ≼ y where a
chain of edges within one micro-batch leads from x to y, or x = y. For the smallest K with

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

from collections.abc import Iterable

from stretto.compiler.bounds.relaxation import ClassEdge, Relaxation, Residency


def ancestors(relaxed: Relaxation) -> list[int]:
    """For every strand the set (as bits) of strands x ≼ it."""
    found = [1 << c for c in range(len(relaxed.classes))]
    before = predecessors(relaxed)
    for c in topological_order(relaxed):
        for tail in before[c]:
            found[c] |= found[tail]
    return found


def predecessors(relaxed: Relaxation) -> list[list[int]]:
    """For every strand those that it follows within one micro-batch."""
    before: list[list[int]] = [[] for _ in relaxed.classes]
    for edge in relaxed.edges:
        if not edge.shift:
            before[edge.head].append(edge.tail)
    return before


def topological_order(relaxed: Relaxation) -> list[int]:
    """The strands in an order that follows all edges within one micro-batch."""
    before = predecessors(relaxed)
    after: list[list[int]] = [[] for _ in before]
    for c, tails in enumerate(before):
        for tail in tails:
            after[tail].append(c)
    missing = [len(tails) for tails in before]
    order = [c for c, many in enumerate(missing) if not many]
    for c in order:
        for head in after[c]:
            missing[head] -= 1
            if not missing[head]:
                order.append(head)
    return order


def memory_edges(relaxed: Relaxation, fifo: list[bool], third: bool = True) -> list[ClassEdge]:
    """The edges of B3 for the pipelines of which B0 `holds`, less those that others imply; without
    the `third` form if it is not wanted."""
    lower = ancestors(relaxed)
    edges: list[ClassEdge] = []
    ends = [c for stage in relaxed.stages for c in (stage.backward, stage.weight) if c is not None]
    for rank, limit in enumerate(relaxed.limits):
        residencies: dict[int, list[Residency]] = {}
        for residency in relaxed.residencies(rank) if limit is not None else ():
            pipeline = relaxed.classes[residency.take].pipeline
            if fifo[pipeline]:
                residencies.setdefault(pipeline, []).append(residency)
        for pipeline, own in residencies.items():
            mine = [
                c
                for c in ends
                if relaxed.classes[c].rank == rank and relaxed.classes[c].pipeline == pipeline
            ]
            for forward in sorted({residency.take for residency in own}):
                edges.extend(_strongest(relaxed, lower, own, limit or 0, forward, mine, third))
    return edges


def _strongest(
    relaxed: Relaxation,
    lower: list[int],
    residencies: list[Residency],
    limit: int,
    forward: int,
    ends: list[int],
    third: bool,
) -> Iterable[ClassEdge]:
    """The edges into one forward that no other implies."""
    found = {give: _distance(lower, residencies, limit, forward, give, third) for give in ends}
    count = relaxed.classes[forward].size
    for give, distance in found.items():
        implied = any(
            other != give and lower[other] >> give & 1 and found[other] <= distance
            for other in found
        )
        if 0 < distance < count and not implied:
            yield ClassEdge(give, forward, 0, distance)


def _distance(
    lower: list[int], residencies: list[Residency], limit: int, forward: int, give: int, third: bool
) -> int:
    """The smallest K; 0 where the limit cannot be met, large where nothing is forced."""
    held = more = own = 0
    for take, back, grains in residencies:
        early = lower[forward] >> take & 1
        if early and lower[back] >> forward & 1:
            own += grains
        if lower[back] >> give & 1:
            if early:
                held += grains
            elif lower[give] >> take & 1:
                more += grains
    if held:
        return max(0, min((limit - more) // held, (limit - own) // held + 1))
    later = _later(lower, residencies, forward, give) if third else 0
    return (limit - own) // min(own, later) + 1 if own and later else limit + 1


def _later(lower: list[int], residencies: list[Residency], forward: int, give: int) -> int:
    """What `give` gives back, if nothing that `forward` left is given back before that was taken
    (the third form); else 0."""
    taken = [take for take, back, _ in residencies if back == give]
    residence_times = all(
        lower[back] >> other & 1
        for other in taken
        for take, back, _ in residencies
        if lower[forward] >> take & 1 and lower[back] >> forward & 1
    )
    return sum(grains for _, back, grains in residencies if back == give) if residence_times else 0
