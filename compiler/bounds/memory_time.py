"""B5 (Little's law). Memory × time. What a forward leaves stays at least as long as the longest
chain of edges from its start to the end of what gives it back, so on every rank with limit L

    L · (end − h − q) >= Σ over operations of memory · shortest stay

with the least head h and the least tail q of the rank (and L no more than its activations can add
up to, see `model`). Proof. Outside of [h, end − q] the rank
holds nothing, inside at most L; the integral of what it holds is the right side at least. ∎
Nothing is assumed about order. For one stage a of each of P ranks the period is at least
Σ a · (F + way down + way back + I) / L, so few activations cannot keep a long pipeline busy.
"""

from stretto.compiler.bounds.longest_paths import UNREACHED, TickTable
from stretto.compiler.bounds.memory import predecessors, topological_order
from stretto.compiler.bounds.relaxation import Relaxation


def residence_times(relaxed: Relaxation, path: TickTable) -> dict[tuple[int, int], int]:
    """For every piece of memory (by the strands that take it and give it back) on a rank with a
    limit the longest chain from the start of the one to the end of the other."""
    ticks = [min(one, default=0) for one in path]
    lags: dict[tuple[int, int], int] = {}
    for tail, head, lag, shift in relaxed.edges:
        if not shift:
            lags[tail, head] = max(lag, lags.get((tail, head), 0))
    before, order = predecessors(relaxed), topological_order(relaxed)
    found = {}
    residencies: dict[int, list[int]] = {}
    for rank, limit in enumerate(relaxed.limits):
        for residency in relaxed.residencies(rank) if limit is not None else ():
            residencies.setdefault(residency.take, []).append(residency.give)
    place = {c: k for k, c in enumerate(order)}
    for take, gives in residencies.items():
        end = [UNREACHED] * len(order)
        end[take] = ticks[take]
        for c in order[place[take] + 1 : max(place[give] for give in gives) + 1]:
            for tail in before[c]:
                if end[tail] >= 0:
                    end[c] = max(end[c], end[tail] + lags[tail, c] + ticks[c])
        for give in gives:
            found[take, give] = end[give]
    return found


def memory_time(
    relaxed: Relaxation, rank: int, residence: dict[tuple[int, int], int]
) -> int | None:
    """Ticks that the rank is in use, at least; None where it has no limit or holds nothing."""
    limit = relaxed.limits[rank]
    residencies = relaxed.residencies(rank)
    if not limit or not residencies:
        return None
    held = sum(
        grains * residence[take, give] * relaxed.classes[take].size
        for take, give, grains in residencies
    )
    return -(-held // limit)
