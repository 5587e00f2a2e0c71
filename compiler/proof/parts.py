"""Spec → `PartObligations`: what must happen where stages are cut into parts. For every part of
every stage and each kind of operation where it runs and on which stream, how long, what of its own
rank must have ended before it, what results it reads, whether its own is needed; what memory it
takes and what frees that.

As in `obligations`, derived here a second time, from the Spec alone.
"""

from collections.abc import Iterator
from typing import NamedTuple

from stretto.compiler.problem.spec import NONE, Operation, Spec
from stretto.compiler.program.program import ProgramName
from stretto.compiler.proof.kinds import KINDS, KindObligation
from stretto.compiler.proof.obligations import Obligations, Rules

COMPUTE = 0
"""The stream whose parts have a weight gradient of their own; on others the input gradient's part
does that work too."""

PartKey = tuple[str, int, int, int]
"""The kind, pipeline, stage and part of an operation."""


class PartInput(NamedTuple):
    """A result that a part reads: that of the part that ends a stage's operation of this kind, for
    its own micro-batch."""

    kind: str
    pipeline: int
    stage: int
    part: int


class PartObligation(NamedTuple):
    """What one kind of operation is on one part of a stage. `before` is the part of this stage and
    micro-batch that must have ended; `base` is the number of the operation of micro-batch 0, those
    of the others follow."""

    kind: KindObligation
    rank: int
    stream: int
    ticks: int
    before: PartKey | None
    needs: tuple[PartInput, ...]
    wanted: bool  # somebody needs the result
    base: int
    microbatches: int


class StageAmount(NamedTuple):
    """Memory that every micro-batch takes on a stage, in grains: from the start of `taken_by` to
    the last end of `freed_by`, each the number of the operation of micro-batch 0."""

    grains: int
    taken_by: int
    freed_by: tuple[int, ...]
    microbatches: int


class PartObligations:
    """Every obligation of a Program of parts; see the module. `stages`: what does not depend on
    parts. `of`: by kind, pipeline, stage and part. `entries`: how many operations there are;
    `amounts`: by rank what they hold. `before`, `across`: for every operation those that a rule
    puts before it, on its own rank and elsewhere."""

    def __init__(self, spec: Spec, name: ProgramName):
        self.spec = spec
        self.stages = Obligations(spec, name)
        self.bases: dict[PartKey, int] = {}
        self.entries = 0
        for p, pipeline in enumerate(spec.pipelines):
            for s in range(len(pipeline.stages)):
                for key in self.keys(p, s):
                    self.bases[key] = self.entries
                    self.entries += pipeline.microbatches
        self.of = {key: _obligation(self, key) for key in self.bases}
        self.amounts: dict[int, list[StageAmount]] = {}
        for p, pipeline in enumerate(spec.pipelines):
            for s, stage in enumerate(pipeline.stages):
                self.amounts.setdefault(stage.rank, []).extend(_amounts(self, p, s))
        self.before, self.across = _rules(self)

    def backwards(self, pipeline: int) -> str:
        """The kinds of backwards that this pipeline has in the Program; the first is the one whose
        result other stages need."""
        if not self.stages.backward(pipeline):
            return ""
        return "IW" if self.spec.split_backward else "B"

    def number(self, operation: Operation) -> int:
        """The operation's number; -1 where there is no such operation."""
        kind, p, s, microbatch, slice_, part = operation
        obligation = self.of.get((kind, p, s, part))
        if obligation is None or slice_ != NONE or not 0 <= microbatch < obligation.microbatches:
            return NONE
        return obligation.base + microbatch

    def keys(self, p: int, s: int) -> Iterator[PartKey]:
        """The operations of a stage for one micro-batch."""
        for kind in ("F", *self.backwards(p)):
            for x, part in enumerate(self.spec.parts[p][s]):
                if kind != "W" or part.stream == COMPUTE:
                    yield kind, p, s, x


def _obligation(obligations: PartObligations, key: PartKey) -> PartObligation:
    """Forwards are a chain, backwards the mirrored one behind it; a weight gradient comes behind
    the input gradient of its own part. The chain's ends alone have to do with other stages."""
    kind, p, s, x = key
    spec, whole = obligations.spec, obligations.stages.of[key[:3]]
    chain, last = spec.parts[p][s], len(spec.parts[p][s]) - 1
    before: PartKey | None
    if kind == "F":
        before = (kind, p, s, x - 1) if x else None
    elif kind == "W":
        before = ("I", p, s, x)
    else:
        before = (kind, p, s, x + 1) if x < last else ("F", p, s, last)
    first, final = (0, last) if kind == "F" else (last, 0)
    needs = [_input(obligations, *one) for one in whole.needs] if x == first else []
    return PartObligation(
        kind=KINDS[kind],
        rank=whole.rank,
        stream=chain[x].stream,
        ticks=obligations.stages.costs.of(Operation(kind, p, s, NONE, NONE, x)),
        before=before,
        needs=tuple(needs),
        wanted=x == final and whole.wanted,
        base=obligations.bases[key],
        microbatches=spec.pipelines[p].microbatches,
    )


def _input(obligations: PartObligations, kinds: str, p: int, s: int) -> PartInput:
    """What a whole stage reads of another: the result of the part that ends it."""
    if kinds == "F":
        return PartInput("F", p, s, len(obligations.spec.parts[p][s]) - 1)
    return PartInput(obligations.backwards(p)[0], p, s, 0)


def _amounts(obligations: PartObligations, p: int, s: int) -> Iterator[StageAmount]:
    """What a forward of the stage leaves, and each of its parts on top."""
    stage = obligations.spec.pipelines[p].stages[s]
    bases, many = obligations.bases, obligations.spec.pipelines[p].microbatches
    last = bases["F", p, s, len(stage.parts) - 1]
    back = obligations.backwards(p)
    weights = [bases[key] for key in obligations.keys(p, s) if key[0] == "W"]
    whole = bases[back[0], p, s, 0] if back else last
    kept = stage.kept if back == "IW" else 0
    found: list[tuple[int, int, tuple[int, ...]]] = [
        (stage.activation - kept, bases["F", p, s, 0], (whole,)),
        (kept, bases["F", p, s, 0], (whole, *weights)),
    ]
    for x, figures in enumerate(stage.parts):
        own = next((bases[k, p, s, x] for k in back[::-1] if (k, p, s, x) in bases), last)
        found.append((figures.activation, bases["F", p, s, x], (own,)))
    for grains, taken_by, freed_by in found:
        if grains:
            yield StageAmount(grains, taken_by, freed_by, many)


def _rules(obligations: PartObligations) -> tuple[Rules, Rules]:
    """For every operation those that a rule puts before it: on its own rank, and elsewhere. A whole
    operation is all its parts."""
    near: Rules = {}
    far: Rules = {}
    for later, earlier, _ in obligations.spec.rules:
        ends = [one for part in _parts(obligations, earlier) for one in _real(obligations, part)]
        same = _rank(obligations, later) == _rank(obligations, earlier)
        for part in _parts(obligations, later):
            for start in _real(obligations, part, start=True):
                (near if same else far).setdefault(start, []).extend(ends)
    return near, far


def _parts(obligations: PartObligations, operation: Operation) -> list[Operation]:
    """The operation, or all parts of a whole one."""
    if operation.part != NONE:
        return [operation]
    chain = obligations.spec.parts[operation.pipeline][operation.stage]
    return [operation._replace(part=x) for x in range(len(chain))]


def _real(
    obligations: PartObligations, operation: Operation, *, start: bool = False
) -> list[Operation]:
    """The operation of the Program that a rule means by this one, if there is any: of a backward
    that is split the start of its I, and the end of its W, or of its I where it has no W; where
    backwards are whole, all that is said of I and W is said of B."""
    kinds = operation.kind
    if kinds != "F":
        split = {"B": "I" if start else "WI", "I": "I", "W": "WI"}
        kinds = split[kinds] if obligations.spec.split_backward else "B"
    named = (operation._replace(kind=kind) for kind in kinds)
    return [one for one in named if obligations.number(one) != NONE][:1]


def _rank(obligations: PartObligations, operation: Operation) -> int:
    return obligations.spec.pipelines[operation.pipeline].stages[operation.stage].rank
