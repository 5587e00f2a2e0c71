"""B5: memory × time (Little's law).

What a forward leaves stays at least as long as the longest
chain of edges from its start to the end of what gives it back, so on every rank with limit L

    L · (end − h − q) >= Σ over operations of memory · shortest residence

with the least head h and the least tail q of the rank (and L no more than its activations can add
up to, see `relaxation`). Proof. Outside of [h, end − q] the rank holds nothing, inside at most L;
the integral of what it holds is the right side at least. ∎
Nothing is assumed about order. For one stage a of each of P ranks the period is at least
Σ a · (F + way down + way back + I) / L, so few activations cannot keep a long pipeline busy.
"""

from stretto.compiler.bounds.context import EFFORT, Finding, Subject
from stretto.compiler.bounds.longest_paths import UNREACHED
from stretto.compiler.bounds.microbatch_order import Chains
from stretto.compiler.bounds.relaxation import Residency
from stretto.compiler.problem.figures import size_figure


def find(subject: Subject) -> Finding | None:
    """The least head + memory · residence / L + the least tail; None where the rank has no limit or
    holds nothing."""
    relaxed, rank = subject.context.relaxed, subject.rank
    limit, residencies = relaxed.limits[rank], relaxed.residencies(rank)
    if not limit or not residencies:
        return None
    if rank % -(-len(relaxed.classes) * relaxed.spec.ranks // EFFORT):
        return None  # of so many ranks some are asked
    shortest = residence_times(subject.context.chains, residencies)
    held = sum(one.grains * shortest[one] * relaxed.classes[one.alloc].size for one in residencies)
    return Finding(subject.before + -(-held // limit) + subject.after, subject, reason)


def residence_times(chains: Chains, residencies: list[Residency]) -> dict[Residency, int]:
    """For every piece of memory the longest chain, in ticks, from the start of what takes it to the
    end of what gives it back."""
    ticks, lags, before, order, at = chains
    found: dict[Residency, int] = {}
    for alloc in dict.fromkeys(one.alloc for one in residencies):
        own = [one for one in residencies if one.alloc == alloc]
        end = [UNREACHED] * len(order)
        end[alloc] = ticks[alloc]
        for c in order[at[alloc] + 1 : max(at[one.free] for one in own) + 1]:
            for tail in before[c]:
                if end[tail] >= 0:
                    end[c] = max(end[c], end[tail] + lags[tail, c] + ticks[c])
        found |= {one: end[one.free] for one in own}
    return found


def reason(subject: Subject) -> str:
    """That memory × time does not fit."""
    spec, rank = subject.context.relaxed.spec, subject.rank
    written = spec.limits[rank]
    limit = size_figure(spec, written.grains if written else 0)
    return (
        f"rank {rank}: what its forwards must leave in memory, and for how long, "
        f"does not fit into less time under a limit of {limit}"
    )
