"""Spec → `Obligations`: what must happen. For every operation where it runs, how long, what it
reads, whether its result is needed; which gradients are summed; what has to come after what.

This is derived here a second time, from the Spec alone, and shares nothing with the modules that
made the Program: the proof must not trust them.
"""

from typing import NamedTuple

from stretto.compiler.problem.spec import NONE, Costs, Operation, Pipeline, Spec
from stretto.compiler.program.program import Copy, ProgramName, Reduction

# What was done of one stage for one micro-batch (and slice): a bit each.
FORWARD, BACKWARD, INPUT, WEIGHT = 1, 2, 4, 8
BITS = {"F": FORWARD, "B": BACKWARD, "I": INPUT, "W": WEIGHT}
COMPLETE = {FORWARD | BACKWARD, FORWARD | INPUT | WEIGHT}

# A rule on one kind speaks of the operations that may stand for it: B for I and W together, and
# I or W for their part of a B. Of the later operation the start counts, of the earlier the end.
STARTS = {"F": "F", "B": "BI", "I": "IB", "W": "WB"}
ENDS = {"F": "F", "B": "BW", "I": "IB", "W": "WB"}


class RequiredInput(NamedTuple):
    """A result that an operation reads: of one of `kinds`, on this stage, for its own micro-batch
    and slice."""

    kinds: str
    pipeline: int
    stage: int


class Obligation(NamedTuple):
    """What one kind of operation is on one stage. `take` and `give` are grains at its start and
    end; `base` is the place of micro-batch 0 in the table of what was done; `bit` marks the
    operation there, `bars` what must not have been done before it, `after` what must."""

    rank: int
    ticks: int
    take: int
    give: int
    needs: tuple[RequiredInput, ...]
    wanted: bool  # somebody needs the result
    base: int
    microbatches: int
    bit: int
    bars: int
    after: int


class Obligations:
    """Every obligation of a Program; see the module."""

    def __init__(self, spec: Spec, name: ProgramName):
        self.spec = spec
        self.train = name == "train"
        self.width = spec.slices or 1  # entries of the table per micro-batch
        self.costs = Costs(spec)
        self.exceptional = bool(spec.exceptions)
        self.bases: dict[tuple[int, int], int] = {}
        self.of: dict[tuple[str, int, int], Obligation] = {}
        self.entries = 0
        feeders = _feeders(spec)
        for p, pipeline in enumerate(spec.pipelines):
            for s in range(len(pipeline.stages)):
                self.bases[p, s] = self.entries
                self.of.update(_stage(self, p, s, feeders.get((p, s), ())))
                self.entries += pipeline.microbatches * self.width
        self.reductions = _reductions(spec)
        self.before, self.across = _rules(self)

    def backward(self, pipeline: int) -> bool:
        """Whether backwards of this pipeline belong to the Program."""
        return self.train and not self.spec.pipelines[pipeline].forward_only

    def happens(self, operation: Operation) -> bool:
        return operation[:3] in self.of


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

    inputs = [RequiredInput("F", p, s - 1)] if s else []
    inputs += [RequiredInput("F", q, len(pipelines[q].stages) - 1) for q in feeders]
    if last:
        gradients = [
            RequiredInput("BI", q, k) for q, k in sorted(pipeline.feeds) if obligations.backward(q)
        ]
    else:
        gradients = [RequiredInput("BI", p, s + 1)]
    forward_wanted = not last or bool(pipeline.feeds)
    backward_wanted = s > 0 or any(obligations.backward(q) for q in feeders)

    def obligation(kind: str, take: int, give: int, bars: int, after: int) -> Obligation:
        needs = inputs if kind == "F" else gradients if kind in "BI" else []
        wanted = forward_wanted if kind == "F" else kind in "BI" and backward_wanted
        where = stage.rank, obligations.costs.of(Operation(kind, p, s, NONE))
        place = obligations.bases[p, s], pipeline.microbatches
        return Obligation(*where, take, give, tuple(needs), wanted, *place, BITS[kind], bars, after)

    size, kept = stage.activation, stage.kept
    found = {("F", p, s): obligation("F", size, 0 if trains else size, FORWARD, 0)}
    if trains:
        found["B", p, s] = obligation("B", 0, size, BACKWARD | INPUT | WEIGHT, FORWARD)
    if trains:
        found["I", p, s] = obligation("I", 0, size - kept, BACKWARD | INPUT, FORWARD)
        found["W", p, s] = obligation("W", 0, kept, BACKWARD | WEIGHT, FORWARD | INPUT)
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


def original(p: int, pipeline: Pipeline) -> int:
    return p if pipeline.replicates == NONE else pipeline.replicates


def _copies(spec: Spec, group: list[int], s: int) -> list[Copy]:
    return [Copy(p, s, spec.pipelines[p].stages[s].rank) for p in group]


Rules = dict[Operation, list[Operation]]


def _rules(obligations: Obligations) -> tuple[Rules, Rules]:
    """For every operation those that a rule puts before it: on its own rank, and elsewhere."""
    near: Rules = {}
    far: Rules = {}
    for later, earlier, _ in obligations.spec.rules:
        for kind in STARTS[later.kind]:
            start = later._replace(kind=kind)
            if obligations.happens(start) and any(
                obligations.happens(earlier._replace(kind=end)) for end in ENDS[earlier.kind]
            ):
                same = _rank(obligations.spec, later) == _rank(obligations.spec, earlier)
                (near if same else far).setdefault(start, []).append(earlier)
    return near, far


def _rank(spec: Spec, operation: Operation) -> int:
    return spec.pipelines[operation.pipeline].stages[operation.stage].rank
