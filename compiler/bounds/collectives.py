"""B9: what runs beside the computations, `reduce gradients` and `unshard weights`.

A stage's gradients are reduced, in e ticks, after its last weight gradient; its weights are
gathered, in u ticks, before its first forward; those of one rank one after another. So every
operation of a stage has a tail of at least e and a head of at least u; and for any set T of stages
of one rank:

- the makespan is at least the least completion of a stage in T + the sum of their e, where a stage
  completes no earlier than the largest head + ticks of its operations;
- the makespan is at least the sum of their u + the least remainder of a stage in T, where what
  remains of a stage is at least the largest ticks + tail of its forwards.

Proof. Each operation of a stage ends no later than its last weight gradient, and starts no earlier
than its first forward: hence heads and tails. Of the stages in T the first to complete begins the
first of their reductions, and all of them follow one after another. The stage in T that is gathered
last starts its forwards after all of them were gathered. ∎

The sets that matter are the k stages that complete last (that have most left), for each k.
"""

from collections.abc import Iterable
from typing import NamedTuple

from stretto.compiler.bounds.context import BoundContext, Finding, Subject
from stretto.compiler.bounds.longest_paths import heads, tails
from stretto.compiler.bounds.relaxation import TickTable
from stretto.compiler.problem.spec import StageTicks


def raised(context: BoundContext, head: TickTable, tail: TickTable) -> tuple[TickTable, TickTable]:
    """The heads and tails of a makespan, raised by what stands before and after each stage."""
    spec = context.relaxed.spec
    if spec.unshard_weights:
        head = heads(context.graph, _more(context, head, spec.unshard_weights))
    if spec.reduce_gradients:
        tail = tails(context.graph, _more(context, tail, spec.reduce_gradients))
    return head, tail


def find(subject: Subject) -> Finding | None:
    """The largest bound of the sets of stages of the rank; None where the Spec has none of it."""
    best = max(
        (
            (_over_sets(_stages(subject, True)), _reduced),
            (_over_sets(_stages(subject, False)), _gathered),
        ),
        key=lambda found: found[0],
    )
    return Finding(best[0], subject, best[1]) if best[0] else None


def _more(context: BoundContext, known: TickTable, beside: Iterable[StageTicks]) -> TickTable:
    ticks = {(p, s): t for p, s, t in beside}
    classes = context.relaxed.classes
    return [
        [max(old, ticks.get((one.pipeline, one.stage), 0)) for old in row]
        for one, row in zip(classes, known, strict=True)
    ]


class _StageEnds(NamedTuple):
    """A stage's own time, and the least time before (or after) it."""

    rest: int
    ticks: int


def _stages(subject: Subject, reduces: bool) -> list[_StageEnds]:
    context = subject.context
    beside, path = context.beside(reduces), context.graph.path
    side = subject.head if reduces else subject.tail
    ends: dict[tuple[int, int], int] = {}
    for c in subject.own if beside else ():
        one = context.relaxed.classes[c]
        place = one.pipeline, one.stage
        if place in beside and (reduces or one.kind == "F"):
            last = max(side[c][i] + path[c][i] for i in range(one.size))
            ends[place] = max(last, ends.get(place, last))
    return [_StageEnds(last, beside[place]) for place, last in ends.items()]


def _over_sets(stages: list[_StageEnds]) -> int:
    best = total = 0
    for stage in sorted(stages, reverse=True):
        total += stage.ticks
        best = max(best, stage.rest + total)
    return best


def _reduced(subject: Subject) -> str:
    return f"rank {subject.rank} reduces the gradients of its stages one after another"


def _gathered(subject: Subject) -> str:
    return f"rank {subject.rank} gathers the weights of its stages one after another"
