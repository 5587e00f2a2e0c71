"""B8 of `docs/bounds.md`: a rank counts as if it had one stage, of all the types it runs."""

from itertools import pairwise
from typing import NamedTuple

from stretto.compiler.certificate.checker.graph import OrderGraph, TickMap, TypeEdge
from stretto.compiler.certificate.checker.instance import OpType
from stretto.compiler.certificate.checker.relaxation import RelaxedInstance


class OneStage(NamedTuple):
    """The n-th forward, n-th backward, n-th weight gradient of a rank in a graph of their own, with
    their heads and tails in ticks. Their types are (kind, -1, rank, -1)."""

    heads: TickMap
    tails: TickMap
    graph: OrderGraph


class StageMemory(NamedTuple):
    """In grains: the rank's limit, the least that a forward leaves there, and the least of that
    which stays until the weight gradient (0 where backwards are not split)."""

    limit: int
    least: int
    kept: int


def sharpened(
    relaxed: RelaxedInstance, graph: OrderGraph, shares: list[dict[OpType, int]], rounds: int
) -> tuple[TickMap, TickMap]:
    """Heads and tails of the graph, raised `rounds` times by what ranks say as one stage, for each
    choice of shares."""
    nothing = dict.fromkeys(graph.members(), 0)
    heads, tails = graph.times(True, nothing), graph.times(False, nothing)
    for _ in range(rounds):
        old = heads, tails
        heads, tails = dict(heads), dict(tails)
        for rank in sorted(set(graph.rank.values())):
            for ticks in shares:
                one = one_stage(relaxed, rank, ticks, heads, tails)
                if one is not None:
                    _raise(relaxed, graph, rank, one.heads, heads, before=True)
                    _raise(relaxed, graph, rank, one.tails, tails, before=False)
        if (heads, tails) == old:
            break
        heads, tails = graph.times(True, heads), graph.times(False, tails)
    return heads, tails


def one_stage(
    relaxed: RelaxedInstance,
    rank: int,
    shares: dict[OpType, int],
    heads: TickMap,
    tails: TickMap,
) -> OneStage | None:
    """The rank as one stage; None where it has no limit or trains nothing. The n-th forward starts
    no earlier than the n-th least head of a forward; n forwards have ended before the n-th
    backward, n backwards before the n-th weight gradient; and before a forward so many, that
    memory holds what is left."""
    roles, limit = _roles(relaxed, rank), relaxed.instance.limits[rank]
    if limit is None or not sum(relaxed.count[s] for s in roles.get("F", ())):
        return None
    stages = [relaxed.instance.stage(s) for s in roles["F"]]
    kept = min(stage["kept"] for stage in stages) if relaxed.instance.split else 0
    memory = StageMemory(limit, min(stage["activation"] for stage in stages), kept)
    graph = _graph(relaxed, rank, shares, memory)
    low: tuple[TickMap, TickMap] = ({}, {})
    for name, types in zip(graph.count, roles.values(), strict=True):
        listed = [(s, m) for s in types for m in range(relaxed.count[s])]
        for n, ticks in enumerate(sorted(heads[one] for one in listed)):
            low[0][name, n] = ticks
        for n, ticks in enumerate(sorted((tails[one] for one in listed), reverse=True)):
            low[1][name, n] = ticks
    found = graph.times(True, low[0])
    while len(roles) == 3 and memory.least and _released(graph, found, memory):
        found = graph.times(True, found)
    return OneStage(found, graph.times(False, low[1]), graph)


def _roles(relaxed: RelaxedInstance, rank: int) -> dict[str, list[OpType]]:
    """The rank's types that are trained, by kind."""
    own = [s for s in relaxed.count if relaxed.rank[s] == rank and not relaxed.passing(s)]
    return {k: [s for s in own if s[0] == k] for k in "FBIW" if any(s[0] == k for s in own)}


def _graph(
    relaxed: RelaxedInstance, rank: int, shares: dict[OpType, int], memory: StageMemory
) -> OrderGraph:
    """The operations of the rank as those of one stage."""
    roles, (limit, least, kept) = _roles(relaxed, rank), memory
    names: list[OpType] = [(kind, -1, rank, -1) for kind in roles]
    total = sum(relaxed.count[s] for s in roles["F"])

    def shortest(ticks: dict[OpType, int]) -> dict[OpType, int]:
        rows = zip(names, roles.values(), strict=True)
        return {name: min(ticks[s] for s in types) for name, types in rows}

    edges: list[TypeEdge] = [(name, name, 0, 1) for name in names]
    edges += [(a, b, 0, 0) for a, b in pairwise(names)]
    if least and limit >= least:
        edges.append((names[1], names[0], 0, limit // least))
        if kept:
            edges.append((names[2], names[0], 0, (limit - least) // kept + 1))
    return OrderGraph(
        count=dict.fromkeys(names, total),
        rank=dict.fromkeys(names, rank),
        path=shortest(relaxed.durations.path),
        ticks=shortest(shares),
        edges=edges,
        singles=[],
        in_turn=True,
        spend=relaxed.instance.spend,
    )


def _released(graph: OrderGraph, heads: TickMap, memory: StageMemory) -> bool:
    """Raise the heads of forwards to what memory leaves: when n + 1 have started, j backwards have
    ended, and so many weight gradients that the rest fits. Whether any was raised."""
    (limit, least, kept), (f, i, w) = memory, graph.count
    changed = False

    def ended(kind: OpType, n: int) -> int:
        return heads[kind, n - 1] + graph.path[kind] if n > 0 else 0

    for n in range(graph.count[f]):
        ways = []
        graph.spend(min(n + 1, limit // least))
        for j in range(max(0, n + 1 - limit // least), n + 1):
            fits = (limit - (n + 1 - j) * least) // kept if kept else j
            ways.append(max(ended(i, j), ended(w, j - fits)))
        if ways and min(ways) > heads[f, n]:
            heads[f, n], changed = min(ways), True
    return changed


def _raise(
    relaxed: RelaxedInstance,
    graph: OrderGraph,
    rank: int,
    found: TickMap,
    times: TickMap,
    before: bool,
) -> None:
    """Raise `times`: an operation with n others of its kind before (or after) it on the rank is at
    least the n-th of what was `found`."""
    for kind, types in _roles(relaxed, rank).items():
        total = sum(graph.count[s] for s in types)
        for s in types:
            graph.spend(graph.count[s] * len(types))
            for m in range(graph.count[s]):
                n = sum(_apart(graph, s, m, other, before) for other in types)
                at = found[(kind, -1, rank, -1), n if before else total - 1 - n]
                times[s, m] = max(times[s, m], at)


def _apart(graph: OrderGraph, s: OpType, m: int, other: OpType, before: bool) -> int:
    """How many operations of the other type must come before (or after) micro-batch m of s."""
    if other == s:
        many = m if before else graph.count[s] - 1 - m
        return many if graph.in_turn else 0
    shift = graph.shifts.get((other, s) if before else (s, other))
    if shift is None:
        return 0
    many = m - shift + 1 if before else graph.count[other] - m - shift
    return max(0, min(many, graph.count[other]) if graph.in_turn else many > 0)
