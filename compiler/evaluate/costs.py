"""What operations cost and what they leave in memory: the statements `cost`, `activation`,
`activation after I`, `transfer` and `limit`, applied in the order of the text, the last one that
fits winning. Numbers are exact and in the file's own units here; `units` makes ticks of them.
"""

from collections.abc import Iterator
from fractions import Fraction
from typing import Any, NamedTuple

from msgspec import Struct

from stretto.compiler import syntax as s
from stretto.compiler.diagnostics import Label
from stretto.compiler.evaluate.declarations import Declared, Later
from stretto.compiler.evaluate.expressions import compile_expression, compile_whole
from stretto.compiler.evaluate.pipelines import Placed
from stretto.compiler.evaluate.ranges import Budget, RangeCode, compile_ranges, walk
from stretto.compiler.evaluate.reports import (
    Reports,
    Silent,
    Stop,
    TooMuch,
    diagnosis,
    stop,
)
from stretto.compiler.evaluate.scope import Constant, Scope
from stretto.compiler.evaluate.values import Code, PipelineValue, number, show
from stretto.compiler.source import Span
from stretto.compiler.spec import NONE

Exact = int | Fraction
StageKey = tuple[str, int, int]  # kind, pipeline, stage
Cell = tuple[int, int]  # micro-batch, slice
StageSet = tuple[int, int]  # pipeline, stage; -1 for any


class PairCost(NamedTuple):
    """A compiled `cost F | B = E`; `ticks` computes E from the costs of the two."""

    turn: int  # the how manieth such cost
    code: Code
    size: int
    slots: tuple[int, int]
    bindings: tuple[tuple[int, Any], ...]
    span: Span

    def ticks(self, forward: Exact, backward: Exact) -> Exact:
        env: list[Any] = [None] * self.size
        for slot, value in self.bindings:
            env[slot] = value
        env[self.slots[0]], env[self.slots[1]] = forward, backward
        return _duration(self.code(env), self.span)


class Costs(Struct):
    """Everything that has a price. A stage without an entry takes the default."""

    stages: dict[StageKey, Exact] = {}
    cells: dict[StageKey, dict[Cell, Exact]] = {}
    pairs: dict[tuple[str, StageSet, StageSet], PairCost] = {}
    activation: dict[tuple[int, int], Exact] = {}
    kept: dict[tuple[int, int], tuple[Exact, Span]] = {}
    transfers: dict[tuple[int, int], Exact] = {}
    limits: dict[int, tuple[Exact, Span]] = {}

    def of_stage(self, kind: str, pipeline: int, stage: int) -> Exact:
        """What an operation of this stage takes, where its micro-batch makes no difference."""
        stated = self.stages.get((kind, pipeline, stage))
        if stated is not None:
            return stated
        if kind == "B":
            return self.of_stage("I", pipeline, stage) + self.of_stage("W", pipeline, stage)
        return 1

    def of_cell(self, kind: str, pipeline: int, stage: int, cell: Cell) -> Exact:
        """What the operation on this micro-batch and slice takes."""
        stated = self.cells.get((kind, pipeline, stage), {}).get(cell)
        if stated is not None:
            return stated
        if kind == "B" and ("B", pipeline, stage) not in self.stages:
            return self.of_cell("I", pipeline, stage, cell) + self.of_cell(
                "W", pipeline, stage, cell
            )
        return self.of_stage(kind, pipeline, stage)

    def special(self, kind: str, pipeline: int, stage: int) -> Iterator[Cell]:
        """Micro-batches and slices where the stage's operation may cost something else."""
        cells = dict.fromkeys(self.cells.get((kind, pipeline, stage), {}))
        if kind == "B" and ("B", pipeline, stage) not in self.stages:
            for part in ("I", "W"):
                cells.update(dict.fromkeys(self.cells.get((part, pipeline, stage), {})))
        yield from sorted(cells)


def price(said: Declared, placed: tuple[Placed, ...], budget: Budget, reports: Reports) -> Costs:
    """All costs, sizes, transfers and limits. Mistakes go to the reports."""
    return _Pricing(said, placed, budget, reports).run()


class _Pricing:
    def __init__(
        self, said: Declared, placed: tuple[Placed, ...], budget: Budget, reports: Reports
    ):
        self.said = said
        self.placed = placed
        self.budget = budget
        self.reports = reports
        self.out = Costs()
        self.turn = 0

    def run(self) -> Costs:
        for later in self.said.costs:
            statement = later.statement
            if not isinstance(statement, s.Cost):
                self.sized(statement, later.scope)
            elif statement.other is None:
                self.operation(statement, later.scope)
            else:
                self.pair(statement, statement.other, later.scope)
        self.kept_within_activation()
        if self.said.transfer is not None:
            self.transfer(self.said.transfer)
        for limit in self.said.limits:
            self.limit(limit)
        return self.out

    def attempt(self, action: Any, scope: Scope, env: list[Any]) -> None:
        """Runs the action for one binding; what stops it is reported with the binding."""
        try:
            action()
        except TooMuch:
            raise
        except Stop as stopped:
            self.reports.happened(stopped.diagnostic, bindings(scope, env))
        except Silent:
            pass

    def each(self, ranges: list[RangeCode], scope: Scope, env: list[Any], action: Any) -> None:
        """The action for every binding of the ranges."""
        try:
            for _ in walk(ranges, env, self.budget):
                self.attempt(action, scope, env)
        except Stop as stopped:
            self.reports.happened(stopped.diagnostic, bindings(scope, env))
        except Silent:
            pass

    # ---- cost

    def operation(self, statement: s.Cost, scope: Scope) -> None:
        mention = statement.operation
        if mention.part is not None:
            self.no_part(mention)
        scope = scope.frame()
        ranges = compile_ranges(statement.ranges, scope)
        places = _Places(mention, scope)
        value = compile_expression(statement.value, scope)
        targets = self.targets(mention.pipeline, scope)
        env: list[Any] = [None] * scope.size
        fits: list[bool] = []

        def apply() -> None:
            ticks = _duration(value(env), statement.value.span)
            hits = [self.assign(mention, p, places, env, ticks) for p in targets]
            fits.append(any(hits))
            if targets and not fits[-1]:
                raise self.no_target(mention, places, env, targets)

        if targets:
            self.each(ranges, scope, env, apply)

    def assign(
        self, mention: s.Mention, p: Placed, places: "_Places", env: list[Any], ticks: Exact
    ) -> bool:
        """Sets the cost in one pipeline; False where it has no such operation."""
        stages = len(p.ranks)
        stage, microbatch, slice_ = places.at(env, stages)
        slices = self.said.slices or 0
        if stage is not None and not 0 <= stage < stages:
            return False
        if microbatch is not None and not 0 <= microbatch < p.microbatches:
            return False
        if slice_ is not None and not 0 <= slice_ < slices:
            return False
        for at in range(stages) if stage is None else (stage,):
            key = (mention.kind, p.index, at)
            if microbatch is None and slice_ is None:
                self.out.stages[key] = ticks
                self.out.cells.pop(key, None)
                continue
            cells = self.out.cells.setdefault(key, {})
            some = range(p.microbatches) if microbatch is None else (microbatch,)
            parts = ((NONE,) if not slices else range(slices)) if slice_ is None else (slice_,)
            self.budget.spend(len(some) * len(parts), mention.span)
            cells.update({(m, k): ticks for m in some for k in parts})
        return True

    def no_target(
        self, mention: s.Mention, places: "_Places", env: list[Any], targets: list[Placed]
    ) -> Stop:
        """Which of the places that a cost names does not exist."""
        p = targets[0] if len(targets) == 1 else max(targets, key=lambda p: len(p.ranks))
        stage, microbatch, slice_ = places.at(env, len(p.ranks))
        who = f"`{p.name}`" if len(targets) == 1 else "every pipeline"
        if stage is not None and not 0 <= stage < len(p.ranks):
            return missing(who, "stage", stage, len(p.ranks), mention.stage)
        if microbatch is not None and not 0 <= microbatch < p.microbatches:
            return missing(who, "micro-batch", microbatch, p.microbatches, mention.microbatch)
        assert mention.slice is not None
        slices = self.said.slices or 0
        if not slices:
            return stop(
                "no-such-operation",
                "micro-batches are not cut into slices here",
                mention.slice.span,
                help="split microbatch into 2 slices",
            )
        return missing("a micro-batch", "slice", slice_ or 0, slices, mention.slice)

    def no_part(self, mention: s.Mention) -> None:
        assert mention.part is not None
        if "split F" in self.said.stated:
            return
        self.reports.add(
            diagnosis(
                "no-such-operation",
                f"`F` has no part `{mention.part.text}`: it is not cut into parts",
                mention.part.span,
                help=f"split F into {mention.part.text}, …",
            )
        )

    def targets(self, word: s.Word | None, scope: Scope) -> list[Placed]:
        """The pipelines that a statement speaks of: the named one, or all."""
        if word is None:
            return list(self.placed)
        found = scope.find(word.text)
        if isinstance(found, Constant) and isinstance(found.value, PipelineValue):
            return [self.placed[found.value.index]]
        if found is None:
            scope.unknown(word, "no pipeline has this name")
        elif isinstance(found, Constant):
            self.reports.add(
                diagnosis(
                    "wrong-kind",
                    f"`{word.text}` is not a pipeline",
                    Label(word.span),
                    Label(found.span, "it is defined here"),
                )
            )
        return []

    # ---- cost of a pair

    def pair(self, statement: s.Cost, other: s.Mention, scope: Scope) -> None:
        first, kind = statement.operation, other.kind
        if kind not in self.said.overlap:
            self.reports.add(
                diagnosis(
                    "no-overlap",
                    f"nothing says that an `F` may overlap with a `{kind}`",
                    statement.span,
                    help=f"overlap F | {kind}",
                )
            )
            return
        scope = scope.frame()
        ranges = compile_ranges(statement.ranges, scope)
        halves = (_Places(first, scope), _Places(other, scope))
        inside = scope.inner()
        slots = (inside.bind("F", first.span), inside.bind(kind, other.span))
        code = compile_expression(statement.value, inside)
        both = [self.targets(m.pipeline, scope) for m in (first, other)]
        env: list[Any] = [None] * scope.size
        varying = [index for _, index in scope.varying()]

        def apply() -> None:
            sets = [
                self.stage_set(mention, places, env, targets)
                for mention, places, targets in zip((first, other), halves, both, strict=True)
            ]
            here = tuple((slot, env[slot]) for slot in varying)
            self.turn += 1
            cost = PairCost(self.turn, code, scope.size, slots, here, statement.value.span)
            self.out.pairs.update({(kind, f, b): cost for f in sets[0] for b in sets[1]})

        if all(both):
            self.each(ranges, scope, env, apply)

    def stage_set(
        self, mention: s.Mention, places: "_Places", env: list[Any], targets: list[Placed]
    ) -> list[StageSet]:
        everyone = mention.pipeline is None
        if mention.stage is None:
            return [(NONE if everyone else targets[0].index, NONE)]
        found = []
        for p in targets:
            stage = places.at(env, len(p.ranks))[0]
            if stage is not None and 0 <= stage < len(p.ranks):
                found.append((p.index, stage))
        if not found:
            raise self.no_target(mention, places, env, targets)
        return found

    # ---- activation

    def sized(self, statement: s.Activation | s.Kept, scope: Scope) -> None:
        scope = scope.frame()
        ranges = compile_ranges(statement.ranges, scope)
        places = _Places(statement, scope)
        value = compile_expression(statement.value, scope)
        targets = self.targets(statement.pipeline, scope)
        env: list[Any] = [None] * scope.size

        def apply() -> None:
            size = _size(value(env), statement.value.span)
            hit = False
            for p in targets:
                stage = places.at(env, len(p.ranks))[0]
                if stage is not None and not 0 <= stage < len(p.ranks):
                    continue
                hit = True
                for at in range(len(p.ranks)) if stage is None else (stage,):
                    if isinstance(statement, s.Kept):
                        self.out.kept[p.index, at] = (size, statement.value.span)
                    else:
                        self.out.activation[p.index, at] = size
            if not hit:
                p = max(targets, key=lambda p: len(p.ranks))
                who = f"`{p.name}`" if len(targets) == 1 else "every pipeline"
                stage = places.at(env, len(p.ranks))[0]
                raise missing(who, "stage", stage or 0, len(p.ranks), statement.stage)

        if targets:
            self.each(ranges, scope, env, apply)

    def kept_within_activation(self) -> None:
        for (p, stage), (kept, span) in sorted(self.out.kept.items()):
            whole = self.out.activation.get((p, stage), 1)
            if kept > whole:
                where = f"{self.placed[p].name}[{stage}]"
                message = f"after `I {where}` {show(kept)} would be left of {show(whole)}"
                self.reports.happened(diagnosis("out-of-range", message, span))

    # ---- transfer and limit

    def transfer(self, later: Later) -> None:
        statement: s.Transfer = later.statement
        scope = later.scope.frame()
        names = [w for w in (statement.source, statement.target) if w is not None]
        slots = [scope.slot(word, varies=True) for word in names]
        value = compile_expression(statement.value, scope)
        env: list[Any] = [None] * scope.size
        for link in links(self.placed):
            for slot, rank in zip(slots, link, strict=False):
                env[slot] = rank

            def apply(link: tuple[int, int] = link) -> None:
                self.out.transfers[link] = _duration(value(env), statement.value.span)

            self.attempt(apply, scope, env)

    def limit(self, later: Later) -> None:
        statement: s.Limit = later.statement
        scope = later.scope.frame()
        slot = scope.slot(statement.rank, varies=True) if statement.rank else None
        value = compile_expression(statement.value, scope)
        env: list[Any] = [None] * scope.size
        for rank in range(self.said.ranks or 0):
            if slot is not None:
                env[slot] = rank

            def apply(rank: int = rank) -> None:
                most = _size(value(env), statement.value.span)
                before = self.out.limits.get(rank)
                if before is None or most < before[0]:
                    self.out.limits[rank] = (most, statement.span)

            self.attempt(apply, scope, env)


class _Places:
    """The compiled `[stage, microbatch, slice]` of a statement, in which `stages` is a pipeline's
    number of stages."""

    def __init__(self, mention: s.Mention | s.Activation | s.Kept, scope: Scope):
        inside = scope.inner()
        self.stages = inside.bind("stages", mention.span)
        self.codes = [
            None if e is None else compile_whole(e, inside, f"a {what}")
            for e, what in (
                (mention.stage, "stage"),
                (getattr(mention, "microbatch", None), "micro-batch"),
                (getattr(mention, "slice", None), "slice"),
            )
        ]

    def at(self, env: list[Any], stages: int) -> tuple[int | None, int | None, int | None]:
        env[self.stages] = stages
        stage, microbatch, slice_ = [None if code is None else code(env) for code in self.codes]
        return stage, microbatch, slice_


def links(placed: tuple[Placed, ...]) -> list[tuple[int, int]]:
    """The directed pairs of ranks between which something travels, in order."""
    found: set[tuple[int, int]] = set()
    for p in placed:
        hops = [(p.ranks[i], p.ranks[i + 1]) for i in range(len(p.ranks) - 1)]
        hops += [(p.ranks[-1], placed[f.pipeline].ranks[f.stage]) for f in p.feeds]
        for a, b in hops:
            if a != b:
                found.add((a, b))
                if not p.forward_only:
                    found.add((b, a))
    return sorted(found)


def missing(who: str, what: str, index: int, count: int, e: s.Expression | None) -> Stop:
    assert e is not None
    plural = {"stage": "stages", "micro-batch": "micro-batches", "slice": "slices"}[what]
    return stop(
        "no-such-operation",
        f"there is no {what} {show(index)}",
        Label(e.span, f"{who} has {plural} 0 to {count - 1}"),
    )


def bindings(scope: Scope, env: list[Any]) -> str:
    """`r = 3, k = 2`: what the loops around a place have given their names."""
    return ", ".join(
        f"{name} = {show(env[index])}" for name, index in scope.varying() if env[index] is not None
    )


def _duration(value: Any, span: Span) -> Exact:
    ticks = number(value, span, "a duration")
    if ticks < 0:
        raise stop("out-of-range", f"a duration cannot be {show(ticks)}", span)
    return ticks


def _size(value: Any, span: Span) -> Exact:
    size = number(value, span, "an amount of memory")
    if size < 0:
        raise stop("out-of-range", f"an amount of memory cannot be {show(size)}", span)
    return size
