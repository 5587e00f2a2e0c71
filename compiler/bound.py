"""Problem → Bound: a makespan (or span) that no order can go below, with its reason in words. The
orders that were written count for nothing here, so that the gap tells what another could gain."""

from msgspec import Struct

from stretto.compiler.problem import Problem, Why
from stretto.compiler.spec import show

Key = tuple[str, int, int]  # kind, pipeline, stage


class Bound(Struct, frozen=True, forbid_unknown_fields=True):
    """`ticks`: no order of the Problem has a smaller value of what its Spec minimizes."""

    ticks: int
    reason: str


def bound(problem: Problem) -> Bound:
    """The best of two: the longest chain, and for every rank its work after the shortest head and
    before the shortest tail. Operations count with the least they can take (overlapped, a
    backward whole where that is less), so that both hold for every order."""
    least, work = _least(problem)
    if not work:
        return Bound(0, "there is nothing to do")
    spec = problem.spec
    if spec.minimize == "span":
        rank = max(work, key=lambda r: work[r])
        return Bound(work[rank], f"rank {rank} has that much work")
    head, tail = _chains(problem, least)
    i = max(range(len(least)), key=lambda i: head[i] + least[i] + tail[i])
    found = [
        (head[i] + least[i] + tail[i], f"the chain through `{show(spec, problem.operations[i])}`")
    ]
    for rank, ticks in work.items():
        own = [i for i, r in enumerate(problem.rank) if r == rank]
        before, after = min(head[i] for i in own), min(tail[i] for i in own)
        words = f"the work of rank {rank}, after the shortest head and before the shortest tail"
        found.append((before + ticks + after, words))
    return Bound(*max(found, key=lambda one: one[0]))


def _least(problem: Problem) -> tuple[list[int], dict[int, int]]:
    """For every operation the least ticks from its start to its end, and for every rank the least
    it can be occupied."""
    spec = problem.spec
    pair: dict[Key, int] = {}  # least as a pair, by kind, pipeline, stage
    saved: dict[Key, int] = {}  # most that a pair saves, by the forward
    pairs: list[tuple[Key, Key, int]] = [
        (("F", *p.forward), (p.kind, *p.backward), p.ticks) for p in spec.pairs
    ]
    pairs += [(p.forward[:3], p.backward[:3], p.ticks) for p in spec.exceptional_pairs]
    alone: dict[Key, int] = {
        o[:3]: t for o, t in zip(problem.operations, problem.duration, strict=True)
    }
    for forward, backward, ticks in pairs:
        for key in (forward, backward):
            pair[key] = min(ticks, pair.get(key, ticks))
        most = alone.get(forward, 0) + alone.get(backward, ticks) - ticks
        saved[forward] = max(most, saved.get(forward, 0))
    least, work = [], dict.fromkeys(problem.rank, 0)
    for o, rank, ticks in zip(problem.operations, problem.rank, problem.duration, strict=True):
        least.append(min(ticks, pair.get(o[:3], ticks)))
        work[rank] += ticks - saved.get(o[:3], 0)
    return least, work


def _chains(problem: Problem, least: list[int]) -> tuple[list[int], list[int]]:
    """For every operation the longest chain of ticks before its start, and after its end."""
    after: list[list[tuple[int, int]]] = [[] for _ in least]
    edges = zip(problem.tail, problem.head, problem.lag, problem.why, strict=True)
    for a, b, lag, why in edges:
        if why is not Why.ORDER and why is not Why.PAIR:
            after[a].append((b, lag))
    head, tail = [0] * len(least), [0] * len(least)
    order = problem.topological()
    for i in order:
        end = head[i] + least[i]
        for j, lag in after[i]:
            head[j] = max(head[j], end + lag)
    for i in reversed(order):
        tail[i] = max((lag + least[j] + tail[j] for j, lag in after[i]), default=0)
    return head, tail
