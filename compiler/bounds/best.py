"""Spec → Finding: every theorem asked about every rank, the largest answer kept."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from stretto.compiler.bounds.longest_paths import (
    PrecedenceGraph,
    TickTable,
    heads,
    precedence_graph,
    tails,
)
from stretto.compiler.bounds.memory import memory_edges
from stretto.compiler.bounds.memory_time import memory_time, residence_times
from stretto.compiler.bounds.one_machine import JacksonJob, JobSet, all_jobs, critical_set, jackson
from stretto.compiler.bounds.overlap import OverlapPair, least_paths, overlap_pairs, share_choices
from stretto.compiler.bounds.rank_as_stage import as_one_stage, sharpen
from stretto.compiler.bounds.relaxation import OpKey, Relaxation, relax
from stretto.compiler.bounds.span import bracketed, connected, first_candidates
from stretto.compiler.bounds.symmetry import fifo_edges, fifo_pipelines
from stretto.compiler.bounds.window import Window, window
from stretto.compiler.problem.spec import Spec

ROUNDS = 20
"""How often ranks as one stage may raise heads and tails."""

EFFORT = 4_000_000
"""How much may be walked for the heads and tails of single ranks, in operations."""

SPANS = 1_000_000
"""Operations × ranks up to which the span of every rank is bounded; beyond, of some ranks."""


class Finding(NamedTuple):
    """A proven bound: what of which rank proves it. `by` is `chain`, `busy`, `merged`, `window`,
    `little` or `nothing`. For a span, `rank` is whose, `first` the operation that was taken for
    its first, and `on` the rank whose operations fill it; for a makespan `on` is `rank`."""

    ticks: int
    by: str
    rank: int = -1
    on: int = -1
    first: OpKey | None = None
    share: int = 0
    window: Window | None = None
    whole: bool = False  # all that the rank has to do fills it


@dataclass(frozen=True, slots=True)
class BoundContext:
    """What all theorems stand on."""

    relaxed: Relaxation
    fifo: list[bool]
    overlaps: list[OverlapPair]
    graph: PrecedenceGraph
    shares: list[dict[int, list[int]]]
    residence: dict[tuple[int, int], int]
    plain: bool = False  # without B8, and without windows of a rank's own


def bound_context(spec: Spec) -> BoundContext:
    """The Model of the Spec with the edges that it implies. Where these make a circle no order
    meets the limit, and they are left out."""
    relaxed = relax(spec)
    fifo = fifo_pipelines(relaxed)
    found = overlap_pairs(relaxed)
    path = least_paths(relaxed, found)
    choices = share_choices(relaxed, found, path)
    ticks = [choices[0].get(c, work) for c, work in enumerate(relaxed.work)]
    graph = precedence_graph(
        relaxed, path, ticks, [*fifo_edges(relaxed, fifo), *memory_edges(relaxed, fifo)]
    )
    if graph is None:
        fifo = [False] * len(fifo)
        graph = precedence_graph(relaxed, path, ticks, [])
    if graph is None:
        raise AssertionError("expand refuses circles")
    return BoundContext(relaxed, fifo, found, graph, choices, residence_times(relaxed, path))


def best(context: BoundContext) -> Finding:
    """The largest bound of what the Spec minimizes."""
    if not any(op_class.size for op_class in context.relaxed.classes):
        return Finding(0, "nothing")
    if context.relaxed.spec.minimize == "span":
        return max(_spans(context), key=lambda found: found.ticks)
    head, tail = bracket(context, -1, None)
    return max(_makespans(context, head, tail), key=lambda found: (found.ticks, found.whole))


def jobs(
    context: BoundContext, share: int, rank: int, head: TickTable, tail: TickTable
) -> tuple[list[OpKey], list[JacksonJob]]:
    """The operations of `rank` that are connected, and what Jackson's schedule is to know of
    them."""
    places, ticks = list(connected(context.relaxed, rank, head, tail)), _ticks(context, share)
    return places, [(head[c][i], ticks[c][i], tail[c][i]) for c, i in places]


def _ticks(context: BoundContext, share: int) -> TickTable:
    """How long operations keep their rank busy, by a choice of shares."""
    less = context.shares[share]
    return [less.get(c, work) for c, work in enumerate(context.relaxed.work)]


def filled(context: BoundContext, found: Finding) -> tuple[list[OpKey], JobSet]:
    """The operations of a `busy` Finding: those of the rank, and which of them, with the three
    terms; of a `merged` one these alone."""
    head, tail = bracket(context, found.rank, found.first)
    if found.by == "merged":
        one = as_one_stage(context.graph, found.on, head, tail, _ticks(context, found.share))
        assert one is not None
        return [], critical_set(one.jobs())
    places, listed = jobs(context, found.share, found.on, head, tail)
    return places, all_jobs(listed) if found.whole else critical_set(listed)


def bracket(context: BoundContext, rank: int, first: OpKey | None) -> tuple[TickTable, TickTable]:
    """Heads and tails for the makespan, or for the span of `rank`."""
    if context.relaxed.spec.minimize == "makespan":
        size = sum(op_class.size for op_class in context.relaxed.classes)
        rounds = 0 if context.plain else min(ROUNDS, EFFORT // (32 * max(size, 1)))
        choices = [_ticks(context, share) for share in range(len(context.shares))]
        return sharpen(context.graph, choices, rounds)
    return bracketed(context.graph, rank, first, tails(context.graph, rank))


def _makespans(context: BoundContext, head: TickTable, tail: TickTable) -> Iterator[Finding]:
    """What every theorem says of every rank."""
    relaxed, path = context.relaxed, context.graph.path
    longest = max(
        head[c][i] + path[c][i] + tail[c][i]
        for c, op_class in enumerate(relaxed.classes)
        for i in range(op_class.size)
    )
    yield Finding(longest, "chain")
    for rank in sorted({op_class.rank for op_class in relaxed.classes if op_class.size}):
        yield from _of_rank(context, rank, rank, head, tail)
        own = [c for c in relaxed.on(rank) if relaxed.classes[c].size]
        held = memory_time(relaxed, rank, context.residence)
        if held is not None:
            before = min(min(head[c]) for c in own)
            after = min(min(tail[c]) for c in own)
            yield Finding(before + held + after, "little", rank, rank)


def _of_rank(
    context: BoundContext,
    rank: int,
    on: int,
    head: TickTable,
    tail: TickTable,
    first: OpKey | None = None,
) -> Iterator[Finding]:
    """Jackson's value of the operations of `on`, and its windows if it is the rank itself."""
    for share in range(len(context.shares)):
        listed = jobs(context, share, on, head, tail)[1]
        value, _ = jackson(listed)
        whole = bool(listed) and all_jobs(listed).value == value
        yield Finding(value, "busy", rank, on, first, share, whole=whole)
        one = (
            as_one_stage(context.graph, on, head, tail, _ticks(context, share))
            if rank == on
            else None
        )
        if one is not None and not context.plain:
            yield Finding(jackson(one.jobs())[0], "merged", rank, on, first, share)
    if rank == on:
        alone = _alone(context, rank, first, head, tail)
        found = window(context.relaxed, rank, context.overlaps, head, tail, alone)
        if found is not None:
            yield Finding(found.value, "window", rank, on, first, 0, found)


def _alone(
    context: BoundContext, rank: int, first: OpKey | None, head: TickTable, tail: TickTable
) -> tuple[TickTable, TickTable] | None:
    """Heads and tails for which no operation of `rank` is in a unit; None where that is the same,
    and where it would take too long."""
    relaxed, graph = context.relaxed, context.graph
    own = relaxed.on(rank)
    size = sum(op_class.size for op_class in relaxed.classes) * relaxed.spec.ranks
    if context.plain or size > EFFORT or all(graph.path[c] == relaxed.work[c] for c in own):
        return None
    path = [relaxed.work[c] if c in own else ticks for c, ticks in enumerate(graph.path)]
    other = replace(graph, path=path)
    if relaxed.spec.minimize == "makespan":
        return heads(other, least=head), tails(other, least=tail)
    return bracketed(other, rank, first, tails(other, rank))


def _spans(context: BoundContext) -> Iterator[Finding]:
    """What every theorem says of the span of every rank: the least over the operations that may
    be its first."""
    relaxed = context.relaxed
    ranks = sorted({op_class.rank for op_class in relaxed.classes if op_class.size})
    size = sum(op_class.size for op_class in relaxed.classes)
    few = max(1, SPANS // size)
    busiest = max(ranks, key=lambda rank: sum(sum(relaxed.work[c]) for c in relaxed.on(rank)))
    for rank in dict.fromkeys([busiest, *ranks[:: -(-len(ranks) // few)]]):
        tail = tails(context.graph, rank)
        found = []
        places = first_candidates(relaxed, rank, context.fifo)
        candidates: list[OpKey | None] = [None] if places is None else [*places]
        for first in candidates:
            head, tail = bracketed(context.graph, rank, first, tail)
            found.append(
                max(
                    (one for on in ranks for one in _of_rank(context, rank, on, head, tail, first)),
                    key=lambda one: one.ticks,
                )
            )
        yield min(found, key=lambda one: one.ticks)
        held = memory_time(relaxed, rank, context.residence)
        if held is not None:
            yield Finding(held, "little", rank, rank)
