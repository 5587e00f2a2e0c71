"""Spec → `Obligations`: what must happen. For every operation where it runs, how long, what it
reads, whether its result is needed; which gradients are summed; what has to come after what.

This is derived here a second time, from the Spec alone, and shares nothing with the modules that
made the Program: the proof must not trust them.
"""

from collections.abc import Iterator

from msgspec import Struct

from stretto.compiler.problem.spec import NONE, Costs, Operation, Pipeline, Spec
from stretto.compiler.program.program import Copy, ProgramName, Reduction
from stretto.compiler.proof.kinds import (
    COMPLETE,
    FORWARD,
    INPUT,
    KINDS,
    KindObligation,
    ends,
    starts,
)

RequiredInput = tuple[str, int, int]
"""A result that an operation reads: kinds, of one of which it is, pipeline and stage; for its own
micro-batch and slice."""


class Obligation(Struct, frozen=True):
    """What one kind of operation is on one stage (`place`: pipeline and stage). `alloc` and `free`
    are grains at its start and end; `base` is the place of micro-batch 0 in the table of what was
    done."""

    kind: KindObligation
    place: tuple[int, int]
    rank: int
    ticks: int
    alloc: int
    free: int
    needs: tuple[RequiredInput, ...]
    wanted: bool  # somebody needs the result
    base: int
    microbatches: int


class Obligations:
    """Every obligation of a Program; see the module. `of`: by kind, pipeline and stage. `width`:
    entries per micro-batch in the table of what was done, which has `entries`; those of a stage
    begin at `bases`. `on`, `trained`: by rank, its stages, and those that run backwards. `before`,
    `across`: for every operation those that a rule puts before it, on its own rank and elsewhere.
    `reduces`, `gathers`: by stage the ticks of what runs beside the computations."""

    def __init__(self, spec: Spec, name: ProgramName):
        self.spec = spec
        self.train = name == "train"
        self.width = spec.slices or 1
        self.costs = Costs(spec)
        self.exceptional = bool(spec.exceptions)
        self.bases: dict[tuple[int, int], int] = {}
        self.of: dict[tuple[str, int, int], Obligation] = {}
        self.entries = 0
        self.trained: dict[int, list[tuple[int, int]]] = {}
        self.on: dict[int, list[tuple[int, int]]] = {}
        feeders = _feeders(spec)
        for p, pipeline in enumerate(spec.pipelines):
            for s in range(len(pipeline.stages)):
                self.bases[p, s] = self.entries
                self.on.setdefault(pipeline.stages[s].rank, []).append((p, s))
                if self.backward(p):
                    self.trained.setdefault(pipeline.stages[s].rank, []).append((p, s))
                self.of.update(_stage(self, p, s, feeders.get((p, s), ())))
                self.entries += pipeline.microbatches * self.width
        self.reduces = {(p, s): t for p, s, t in spec.reduce_gradients if self.train}
        self.gathers = {(p, s): t for p, s, t in spec.unshard_weights}
        self.reductions = (*_reductions(spec), *_tied(spec))
        self.gradients = _gradients(spec)
        self.before, self.across = _rules(self)

    def backward(self, pipeline: int) -> bool:
        """Whether backwards of this pipeline belong to the Program."""
        return self.train and not self.spec.pipelines[pipeline].forward_only

    def kinds(self, pipeline: int) -> Iterator[tuple[str, KindObligation]]:
        """The kinds of operations that stages of this pipeline have in the Program."""
        for letter, kind in KINDS.items():
            if self.backward(pipeline) if kind.trains else self.train or kind.evaluates:
                yield letter, kind

    def happens(self, operation: Operation) -> bool:
        """Whether its stage has operations of this kind."""
        return operation[:3] in self.of

    def entry(self, operation: Operation) -> int:
        """Its place in the table of what was done."""
        _, p, s, microbatch, slice_, _ = operation
        return self.bases[p, s] + microbatch * self.width + max(slice_, 0)

    def complete(self, pipeline: int) -> list[int]:
        """What may have been done of a stage of this pipeline for one micro-batch in the end."""
        further = sum(kind.bit for _, kind in self.kinds(pipeline) if kind.required)
        return [bits | further for bits in COMPLETE[self.backward(pipeline)]]

    def first_missing(self, pipeline: int, state: int) -> str:
        """The kind that is missing where this was done of a stage, and it is not complete."""
        if not state & FORWARD:
            return "F"
        for letter, kind in self.kinds(pipeline):
            if kind.required and not state & kind.bit:
                return letter
        return "W" if state & INPUT else "B"


def _feeders(spec: Spec) -> dict[tuple[int, int], tuple[int, ...]]:
    """For every stage that is fed the pipelines that feed it, in the order of the file."""
    found: dict[tuple[int, int], tuple[int, ...]] = {}
    for p, pipeline in enumerate(spec.pipelines):
        for feed in pipeline.feeds:
            found[feed] = (*found.get(feed, ()), p)
    return found


def _stage(
    obligations: Obligations, p: int, s: int, feeders: tuple[int, ...]
) -> dict[tuple[str, int, int], Obligation]:
    """The obligations of one stage, by kind."""
    pipelines = obligations.spec.pipelines
    pipeline = pipelines[p]
    stage, last = pipeline.stages[s], s == len(pipeline.stages) - 1
    trains = obligations.backward(p)

    inputs: list[RequiredInput] = [("F", p, s - 1)] if s else []
    inputs += [("F", q, len(pipelines[q].stages) - 1) for q in feeders]
    if last:
        gradients = [("BI", q, k) for q, k in sorted(pipeline.feeds) if obligations.backward(q)]
    else:
        gradients = [("BI", p, s + 1)]
    forward_wanted = not last or bool(pipeline.feeds)
    backward_wanted = s > 0 or any(obligations.backward(q) for q in feeders)

    found = {}
    for letter, kind in obligations.kinds(p):
        needs = {"activation": inputs, "gradient": gradients, None: []}[kind.reads]
        wanted = {"activation": forward_wanted, "gradient": backward_wanted, None: False}
        found[letter, p, s] = Obligation(
            kind=kind,
            place=(p, s),
            rank=stage.rank,
            ticks=obligations.costs.of(Operation(letter, p, s, NONE)),
            alloc=kind.alloc(stage, trains),
            free=kind.free(stage, trains),
            needs=tuple(needs),
            wanted=wanted[kind.leaves],
            base=obligations.bases[p, s],
            microbatches=pipeline.microbatches,
        )
    return found


def _reductions(spec: Spec) -> tuple[Reduction, ...]:
    """The sums that have to be made: one for every stage that has several copies, one of which at
    least is trained (then all need its gradient), the copies in the order of their ranks, then of
    the file."""
    groups: dict[int, list[int]] = {}
    for p, pipeline in enumerate(spec.pipelines):
        groups.setdefault(original(p, pipeline), []).append(p)
    return tuple(
        Reduction(tuple(sorted(_copies(spec, group, s), key=lambda c: (c.rank, c.pipeline))))
        for group in groups.values()
        if len(group) > 1 and not all(spec.pipelines[p].forward_only for p in group)
        for s in range(len(spec.pipelines[group[0]].stages))
    )


def _tied(spec: Spec) -> Iterator[Reduction]:
    """And one for every tie that stands in several memories, if it is trained anywhere: over the
    stages where it stands, each once, as the tie has them."""
    for tie in spec.ties:
        where = dict.fromkeys((p, s) for holder in tie.holders for p, s, _ in holder)
        if len(tie.holders) > 1 and any(not spec.pipelines[p].forward_only for p, _ in where):
            copies = tuple(Copy(p, s, spec.pipelines[p].stages[s].rank) for p, s in where)
            yield Reduction(copies, tie.name)


def _gradients(spec: Spec) -> set[tuple[int, int]]:
    """The stages whose weights have gradients in the end: those that are trained, or a copy of
    which is."""
    trained = {original(p, line) for p, line in enumerate(spec.pipelines) if not line.forward_only}
    return {
        (p, s)
        for p, line in enumerate(spec.pipelines)
        if original(p, line) in trained
        for s in range(len(line.stages))
    }


def original(p: int, pipeline: Pipeline) -> int:
    """The pipeline whose weights pipeline p has: itself, unless it is a copy."""
    return p if pipeline.replicates == NONE else pipeline.replicates


def _copies(spec: Spec, group: list[int], s: int) -> list[Copy]:
    return [Copy(p, s, spec.pipelines[p].stages[s].rank) for p in group]


Rules = dict[Operation, list[Operation]]


def _rules(obligations: Obligations) -> tuple[Rules, Rules]:
    """For every operation those that a rule puts before it: on its own rank, and elsewhere."""
    near: Rules = {}
    far: Rules = {}
    for later, earlier, _ in obligations.spec.rules:
        for start in starts(later):
            if obligations.happens(start) and any(map(obligations.happens, ends(earlier))):
                same = _rank(obligations.spec, later) == _rank(obligations.spec, earlier)
                (near if same else far).setdefault(start, []).append(earlier)
    return near, far


def _rank(spec: Spec, operation: Operation) -> int:
    return spec.pipelines[operation.pipeline].stages[operation.stage].rank
