"""Problem → PartsFinding where stages are cut into parts: every theorem asked about every stream of
every rank, the largest answer kept."""

from collections.abc import Iterator, Sequence

from stretto.compiler.bounds.one_machine import jackson
from stretto.compiler.bounds.parts.graph import PartsFinding, PartsGraph, parts_graph
from stretto.compiler.bounds.parts.rank_as_chain import (
    RankChain,
    chain_jobs,
    raise_heads,
    rank_chains,
)
from stretto.compiler.bounds.parts.streams import stream_bound
from stretto.compiler.bounds.parts.windows import window_bound
from stretto.compiler.problem.figures import time_figure
from stretto.compiler.problem.problem import Problem
from stretto.compiler.problem.spec import show

ROUNDS = 12
"""How often ranks as chains may raise heads and tails."""


def parts_bound(problem: Problem) -> PartsFinding:
    """The largest bound that is known of what the Spec minimizes, and why."""
    if not problem.operations:
        return PartsFinding(0, "there is nothing to do")
    graph = parts_graph(problem)
    found = _spans(graph) if problem.spec.minimize == "span" else _makespans(graph)
    return max(found, key=lambda one: one.ticks)


def windows_of(graph: PartsGraph, chains: Sequence[RankChain]) -> tuple[list[int], list[int]]:
    """Heads and tails of all operations in ticks, raised by B12 round by round."""
    head, tail = graph.heads(), graph.tails()
    for _ in range(ROUNDS):
        raised = [raise_heads(graph, chain, head, tail) for chain in chains]
        if not any(raised):
            break
        head, tail = graph.heads(head), graph.tails(tail)
    return head, tail


def _makespans(graph: PartsGraph) -> Iterator[PartsFinding]:
    chains = rank_chains(graph)
    head, tail = windows_of(graph, chains)
    yield _path(graph, head, tail)
    for lane in graph.lanes:
        yield stream_bound(graph, lane, head, tail)
        yield window_bound(graph, lane, head, tail)
    for chain in chains:
        rank = graph.problem.rank[chain.own[0][0]]
        for stream, name in enumerate(graph.problem.spec.streams):
            value, _ = jackson(chain_jobs(chain, head, tail, stream))
            yield PartsFinding(
                value,
                f"rank {rank}, stream {name}: the work of all its stages, with the room that "
                "memory leaves for them together",
            )


def _path(graph: PartsGraph, head: Sequence[int], tail: Sequence[int]) -> PartsFinding:
    """The longest path."""
    whole = [h + t + q for h, t, q in zip(head, graph.ticks, tail, strict=True)]
    value = max(whole)
    on = [i for i, ticks in enumerate(whole) if ticks == value]
    first, last = min(on, key=head.__getitem__), min(on, key=tail.__getitem__)
    spec, operations = graph.problem.spec, graph.problem.operations
    return PartsFinding(
        value,
        f"the longest chain, from `{show(spec, operations[first])}` "
        f"to `{show(spec, operations[last])}`",
    )


def _spans(graph: PartsGraph) -> Iterator[PartsFinding]:
    """What every stream of every rank needs, between the rank's first start and last end."""
    spec = graph.problem.spec
    for rank in sorted(set(graph.problem.rank)):
        away = -1 << 60
        ends = [0 if r == rank else away for r in graph.problem.rank]
        tail = graph.tails(ends)
        own = [i for i, r in enumerate(graph.problem.rank) if r == rank]
        longest = max(graph.ticks[i] + tail[i] for i in own)
        yield PartsFinding(
            longest,
            f"rank {rank}: a chain of {time_figure(spec, longest)} between two of its parts",
        )
        nothing = [0] * len(tail)
        for lane in graph.lanes:
            if lane[0] == rank:
                yield stream_bound(graph, lane, nothing, tail)
