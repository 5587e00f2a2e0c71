"""Spec with a written order → the text of a schedule file that says the same, as short as it can be
said: micro-batches are left out where the language fills them in, what repeats itself is a
`repeat`, ranks that do the same share their block. Costs are not written: they are the defaults.
"""

from collections import Counter, OrderedDict, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from textwrap import wrap

from stretto.compiler.imports.repeats import FoldedStep, RepeatedSteps, folded
from stretto.compiler.imports.sizes import placed
from stretto.compiler.problem.spec import NONE, Limit, Operation, Pipeline, Spec, number
from stretto.compiler.units import UNITS

WIDTH = 96

StageOfSpec = tuple[int, int]
"""A pipeline and a stage of it."""

PLACES = {
    "loop": "s % ranks",
    "v": "if s // ranks % 2 == 0 then s % ranks else ranks - 1 - s % ranks",
}


def readable(spec: Spec, remarks: Iterable[str] = (), order: bool = True) -> str:
    """The text. `remarks` are comments at its top. Without `order` the compiler is to find one,
    within the Spec's limits."""
    lines = [f"# {line}" for remark in remarks for line in wrap(remark, WIDTH - 2)]
    lines += [
        f"schedule {spec.name}",
        "",
        f"ranks {spec.ranks}",
        f"microbatches {spec.microbatches}",
    ]
    for pipeline in spec.pipelines:
        lines += ["", *_pipeline(spec, pipeline)]
    kinds = {one.kind for row in spec.written for unit in row for one in unit.operations}
    split = spec.split_backward or "I" in kinds
    if split or spec.overlap or spec.limits:
        lines.append("")
    if split:
        lines.append("split B into I, W")
    lines += [f"overlap F | {kind}" for kind in spec.overlap]
    lines += _limits(spec)
    if order:
        lines += ["", *_order(spec)]
    return "\n".join(lines) + "\n"


def _pipeline(spec: Spec, pipeline: Pipeline) -> Iterator[str]:
    yield f"pipeline {pipeline.name} {{"
    if pipeline.replicates != NONE:
        yield f"  replicates {spec.pipelines[pipeline.replicates].name}"
    if len(spec.pipelines) > 1:
        yield f"  microbatches {pipeline.microbatches}"
    if len(pipeline.stages) != spec.ranks:
        yield f"  stages {len(pipeline.stages)}"
    ranks = [stage.rank for stage in pipeline.stages]
    yield f"  place s -> {placement(ranks, spec.ranks)}"
    yield "}"


def placement(ranks: Sequence[int], many: int) -> str:
    """The rank of stage s as an expression; `many` ranks there are."""
    for name, words in PLACES.items():
        if all(placed("v" if name == "v" else "loop", s, many) == r for s, r in enumerate(ranks)):
            return words
    if all(many - 1 - s == r for s, r in enumerate(ranks)):
        return "ranks - 1 - s"
    return f"{list(ranks)}[s]"


def _limits(spec: Spec) -> Iterator[str]:
    """The limits of activations: one, where all ranks have the same, else a list of them."""
    own: list[Limit] = [limit for limit in spec.limits if limit is not None]
    if len(own) < spec.ranks:
        return
    amounts = [_amount(spec, limit.grains) for limit in own]
    if len(set(amounts)) == 1:
        yield f"limit activations <= {amounts[0]}"
    else:
        yield f"limit activations <= [{', '.join(amounts)}][r] for rank r"


def _amount(spec: Spec, grains: int) -> str:
    """An amount of memory, in the unit of the Spec's sizes where they have one: `25 GiB / 2`."""
    if not spec.sizes_in:
        return str(number(grains, spec.size_unit))
    exact = Fraction(grains, spec.size_unit * UNITS[spec.sizes_in])
    whole = f"{exact.numerator} {spec.sizes_in}"
    return whole if exact.denominator == 1 else f"{whole} / {exact.denominator}"


def _order(spec: Spec) -> Iterator[str]:
    """One block, with a branch for every different list."""
    own: list[list[StageOfSpec]] = [[] for _ in range(spec.ranks)]
    for p, line in enumerate(spec.pipelines):
        for s, stage in enumerate(line.stages):
            own[stage.rank].append((p, s))
    same: dict[tuple[FoldedStep, ...], list[int]] = {}
    for rank in range(spec.ranks):
        same.setdefault(folded([*_mentions(spec, rank, own[rank])]), []).append(rank)
    yield "order rank r {"
    if len(same) == 1:
        for steps in same:
            yield from _steps(steps, "  ")
    else:
        before = "  "
        for k, (steps, ranks) in enumerate(same.items()):
            test = " or ".join(f"r == {rank}" for rank in ranks)
            last = k == len(same) - 1
            yield f"{before}{{" if last else f"{before}if {test} {{"
            if last:
                yield f"    # rank {', '.join(map(str, ranks))}"
            yield from _steps(steps, "    ")
            before = "  } else "
        yield "  }"
    yield "}"


def _steps(steps: Iterable[FoldedStep], indent: str) -> Iterator[str]:
    """The steps as lines: short ones share a line, a long block has its own."""
    line = ""
    for step in steps:
        text = _inline(step)
        if isinstance(step, RepeatedSteps) and len(indent) + len(text) > WIDTH:
            if line:
                yield indent + line
                line = ""
            yield f"{indent}repeat {step.times} {{"
            yield from _steps(step.block, indent + "  ")
            yield f"{indent}}}"
        elif line and len(indent) + len(line) + 2 + len(text) > WIDTH:
            yield indent + line
            line = text
        else:
            line = f"{line}; {text}" if line else text
    if line:
        yield indent + line


def _inline(step: FoldedStep) -> str:
    if isinstance(step, str):
        return step
    return f"repeat {step.times} {{ {'; '.join(map(_inline, step.block))} }}"


# ---------------------------------------------------------------------------- mentions


def _mentions(spec: Spec, rank: int, own: Sequence[StageOfSpec]) -> Iterator[str]:
    """The rank's units in the words of the language, with what it fills in left out."""
    given = _MentionsSoFar(spec, own)
    for operations, _ in spec.written[rank]:
        yield " | ".join([given.mention(one) for one in operations])


class _MentionsSoFar:
    """What the mentions of a rank have named so far, as the language counts it (the reference of
    order blocks): by stage the next micro-batch of F, and of B and I together, and the weight
    gradients that wait, in the order of their input gradients: of the rank, by pipeline, and by
    stage. `stages`: how many the rank has of each of its pipelines."""

    def __init__(self, spec: Spec, own: Iterable[StageOfSpec]):
        self.spec, self.stages = spec, Counter(p for p, _ in own)
        self.named: dict[tuple[str, int, int], set[int]] = {}
        self.next: dict[tuple[str, int, int], int] = {}
        self.waiting: defaultdict[tuple[int, ...], OrderedDict[Operation, None]]
        self.waiting = defaultdict(OrderedDict)  # the first of which is at hand however many went

    def mention(self, one: Operation) -> str:
        """The shortest mention that means this operation here."""
        name = self.spec.pipelines[one.pipeline].name if len(self.stages) > 1 else ""
        several = self.stages[one.pipeline] > 1
        if one.kind == "W":
            return self.weight(one, name, several)
        place = ("F" if one.kind == "F" else "B", one.pipeline, one.stage)
        due = self.next.get(place, 0)
        named = self.named.setdefault(place, set())
        named.add(one.microbatch)
        while self.next.get(place, 0) in named:
            self.next[place] = self.next.get(place, 0) + 1
        if one.kind == "I":
            for line in _lines(one):
                self.waiting[line][one] = None
        if due == one.microbatch:
            index = f"[{one.stage}]" if several else ""
        else:
            index = f"[{one.stage}, {one.microbatch}]"
        return _joined(one.kind, name, index)

    def weight(self, one: Operation, name: str, several: bool) -> str:
        """The mention of a weight gradient: without more, the oldest that waits is meant."""
        own = one._replace(kind="I")
        rows = [self.waiting[line] for line in _lines(own)]
        of_rank, of_pipeline, of_stage = (next(iter(row)) == own for row in rows)
        for row in rows:
            del row[own]
        if of_rank:
            return "W"
        if of_pipeline and name:
            return f"W {name}"
        if of_stage and several:
            return _joined("W", name, f"[{one.stage}]")
        return _joined("W", name, f"[{one.stage}, {one.microbatch}]")


def _lines(one: Operation) -> tuple[tuple[int, ...], ...]:
    """The lines in which a weight gradient waits."""
    return (), (one.pipeline,), (one.pipeline, one.stage)


def _joined(kind: str, name: str, index: str) -> str:
    return f"{kind} {name}{index}" if name else f"{kind}{index}"
