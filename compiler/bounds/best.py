"""Spec → Finding: every theorem asked about every rank, the largest answer kept."""

from collections.abc import Iterator

from msgspec.structs import replace

from stretto.compiler.bounds.collectives import raised
from stretto.compiler.bounds.context import BoundContext, Finding, Subject
from stretto.compiler.bounds.longest_paths import precedence_graph, tails_to
from stretto.compiler.bounds.microbatch_order import rank_order
from stretto.compiler.bounds.overlap import least_paths, overlap_pairs, share_choices
from stretto.compiler.bounds.rank_as_stage import rounds, sharpen
from stretto.compiler.bounds.relaxation import OpKey, relax
from stretto.compiler.bounds.span import first_candidates, span_heads
from stretto.compiler.bounds.symmetry import fifo_pipelines
from stretto.compiler.bounds.theorems import THEOREMS, TheoremScope
from stretto.compiler.problem.spec import Spec

SPANS = 1_000_000
"""Operations × ranks up to which the span of every rank is bounded; beyond, of some ranks."""


def bound_context(spec: Spec) -> BoundContext:
    """The Relaxation of the Spec with the edges that the theorems add. Where these make a circle no
    order meets the limit, and they are left out."""
    relaxed = relax(spec)
    fifo = fifo_pipelines(relaxed)
    overlaps = overlap_pairs(relaxed)
    path = least_paths(relaxed, overlaps)
    shares = share_choices(relaxed, overlaps, path)
    ticks = [shares[0].get(c, work) for c, work in enumerate(relaxed.work)]
    edges = [edge for one in THEOREMS if one.edges for edge in one.edges(relaxed, fifo)]
    graph = precedence_graph(relaxed, path, ticks, edges)
    if graph is None:
        fifo = [False] * len(fifo)
        graph = precedence_graph(relaxed, path, ticks, [])
    if graph is None:
        raise AssertionError("expand refuses circles")
    return BoundContext(relaxed, fifo, overlaps, graph, shares)


def best(context: BoundContext) -> Finding:
    """The largest bound of what the Spec minimizes."""
    if not context.relaxed.size:
        return Finding(0, Subject(context, [], [], -1, -1), lambda _: "there is nothing to do")
    if context.of_makespan:
        return max(_makespans(context), key=lambda found: (found.ticks, found.whole))
    return max(_spans(context), key=lambda found: found.ticks)


def _ask(asked: TheoremScope, subject: Subject) -> Iterator[Finding]:
    """What the theorems say that are asked about such a thing."""
    for theorem in THEOREMS:
        if theorem.find and theorem.asked == asked:
            found = theorem.find(subject)
            if found is not None:
                yield found


def _of_rank(subject: Subject) -> Iterator[Finding]:
    """What the theorems say of the operations of the rank `on`."""
    for share in range(len(subject.context.shares)):
        yield from _ask("shares", replace(subject, share=share))
    yield from _ask("rank", subject)


def _ranks(context: BoundContext) -> list[int]:
    """The ranks that have something to do."""
    return sorted({op_class.rank for op_class in context.relaxed.classes if op_class.size})


def _makespans(context: BoundContext) -> Iterator[Finding]:
    """What every theorem says of every rank."""
    choices = [context.busy(share) for share in range(len(context.shares))]
    head, tail = sharpen(context.graph, choices, rounds(context.relaxed))
    head, tail = raised(context, head, tail)
    yield from _ask("step", Subject(context, head, tail, -1, -1))
    for rank in _ranks(context):
        subject = Subject(context, head, tail, rank, rank)
        yield from _of_rank(subject)
        yield from _ask("memory", subject)
        yield from _ask("beside", subject)


def _spans(context: BoundContext) -> Iterator[Finding]:
    """What every theorem says of the span of every rank: the least over the operations that may
    be its first."""
    relaxed, ranks = context.relaxed, _ranks(context)
    few = max(1, SPANS // relaxed.size)
    busiest = max(ranks, key=lambda rank: sum(sum(relaxed.work[c]) for c in relaxed.on(rank)))
    order = rank_order(relaxed)
    for rank in dict.fromkeys([busiest, *ranks[:: -(-len(ranks) // few)]]):
        candidates = first_candidates(relaxed, order, rank, context.fifo)
        firsts: list[OpKey | None] = [None] if candidates is None else [*candidates]
        tail = tails_to(context.graph, rank)
        subjects = [
            Subject(context, span_heads(context.graph, rank, first), tail, rank, rank, first)
            for first in firsts
        ]
        yield min(
            (
                max(
                    (one for on in ranks for one in _of_rank(replace(subject, on=on))),
                    key=lambda one: one.ticks,
                )
                for subject in subjects
            ),
            key=lambda one: one.ticks,
        )
        yield from _ask("memory", subjects[-1])
