"""The statements `cost`, applied in the order of the text, the last one that fits winning."""

from stretto.compiler.evaluation.costs.memory import sized
from stretto.compiler.evaluation.costs.table import Costs, Exact, PairCost, StageSet, duration
from stretto.compiler.evaluation.costs.targets import Places, no_target, targets
from stretto.compiler.evaluation.declared import Declared
from stretto.compiler.evaluation.expressions.compile import compile_expression
from stretto.compiler.evaluation.expressions.ranges import Budget, compile_ranges, for_each
from stretto.compiler.evaluation.expressions.scope import Scope
from stretto.compiler.evaluation.expressions.values import Env
from stretto.compiler.evaluation.placement import Placed
from stretto.compiler.evaluation.reports import Reports, diagnosis
from stretto.compiler.language import syntax as s
from stretto.compiler.problem.spec import NONE


def price(said: Declared, placed: tuple[Placed, ...], budget: Budget, reports: Reports) -> Costs:
    """What all `cost` and `activation` statements say. Mistakes go to the reports."""
    pricing = _Pricing(said, placed, budget, reports)
    for later in said.costs:
        statement = later.statement
        if not isinstance(statement, s.Cost):
            sized(statement, later.scope.frame(), placed, budget, pricing.out)
        elif statement.other is None:
            pricing.operation(statement, later.scope.frame())
        else:
            pricing.pair(statement, statement.other, later.scope.frame())
    return pricing.out


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

    def operation(self, statement: s.Cost, scope: Scope) -> None:
        mention = statement.operation
        if mention.part is not None and "split F" not in self.said.stated:
            self.no_part(mention, mention.part)
        scope.binds = "for {} in a .. b"
        ranges = compile_ranges(statement.ranges, scope)
        places = Places(mention, scope)
        value = compile_expression(statement.value, scope)
        among = targets(mention.pipeline, scope, self.placed)

        def apply(env: Env) -> None:
            ticks = duration(value(env), statement.value.span)
            hits = [self.assign(mention, p, places, env, ticks) for p in among]
            if not any(hits):
                raise no_target(mention, places, env, among, self.said.slices or 0)

        if among:
            for_each(ranges, scope, self.budget, self.reports, apply)

    def assign(self, mention: s.Mention, p: Placed, places: Places, env: Env, ticks: Exact) -> bool:
        """Sets the cost in one pipeline; False where it has no such operation."""
        stages, slices = len(p.ranks), self.said.slices or 0
        stage, microbatch, slice_ = places.at(env, stages)
        for index, count in ((stage, stages), (microbatch, p.microbatches), (slice_, slices)):
            if index is not None and not 0 <= index < count:
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
            if len(some) * len(parts) > 1:
                self.budget.spend(len(some) * len(parts), mention.span)
            cells.update({(m, k): ticks for m in some for k in parts})
        return True

    def no_part(self, mention: s.Mention, part: s.Word) -> None:
        self.reports.add(
            diagnosis(
                "no-such-operation",
                f"`{mention.kind}` has no part `{part.text}`: stages are not cut into parts",
                part.span,
                help=f"leave `.{part.text}` out",
            )
        )

    # ---- Pairs

    def pair(self, statement: s.Cost, other: s.Mention, scope: Scope) -> None:
        first, kind = statement.operation, other.kind
        if kind not in self.said.overlap:
            message = f"nothing says that an `F` may overlap with a `{kind}`"
            help_ = f"overlap F | {kind}"
            self.reports.once(help_, diagnosis("no-overlap", message, statement.span, help=help_))
            return
        scope.binds = "for {} in a .. b"
        ranges = compile_ranges(statement.ranges, scope)
        halves = (Places(first, scope), Places(other, scope))
        inside = scope.inner()
        slots = (inside.bind("F", first.span), inside.bind(kind, other.span))
        code = compile_expression(statement.value, inside)
        among = [targets(m.pipeline, scope, self.placed) for m in (first, other)]
        varying = [index for _, index in scope.varying()]

        def apply(env: Env) -> None:
            forwards, backwards = [
                self.stage_set(mention, places, env, some)
                for mention, places, some in zip((first, other), halves, among, strict=True)
            ]
            here = tuple((slot, env[slot]) for slot in varying)
            self.turn += 1
            cost = PairCost(self.turn, code, scope.size, slots, here, statement.value.span)
            self.out.pairs.update({(kind, f, b): cost for f in forwards for b in backwards})

        if all(among):
            for_each(ranges, scope, self.budget, self.reports, apply)

    def stage_set(
        self, mention: s.Mention, places: Places, env: Env, among: list[Placed]
    ) -> list[StageSet]:
        """The stages that a half of a pair speaks of."""
        if mention.stage is None:
            return [(NONE if mention.pipeline is None else among[0].index, NONE)]
        found = []
        for p in among:
            stage = places.at(env, len(p.ranks))[0]
            if stage is not None and 0 <= stage < len(p.ranks):
                found.append((p.index, stage))
        if not found:
            raise no_target(mention, places, env, among, 0)
        return found
