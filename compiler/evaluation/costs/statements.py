"""The statements `cost`, applied in the order of the text: the last one that fits an operation
decides."""

from stretto.compiler.evaluation.costs.memory import apply_memory
from stretto.compiler.evaluation.costs.parts import PartStatements
from stretto.compiler.evaluation.costs.table import (
    CostTable,
    Exact,
    PairCost,
    StagePattern,
)
from stretto.compiler.evaluation.costs.targets import (
    CompiledIndex,
    matching_pipelines,
    no_such_target,
)
from stretto.compiler.evaluation.declared import Declarations
from stretto.compiler.evaluation.expressions.compile import compile_expression
from stretto.compiler.evaluation.expressions.ranges import LoopBudget, compile_ranges, for_each
from stretto.compiler.evaluation.expressions.scope import NO_VALUE, Scope
from stretto.compiler.evaluation.expressions.values import Env
from stretto.compiler.evaluation.reports import Reports, diagnosis, no_part
from stretto.compiler.evaluation.resolved import ResolvedPipeline
from stretto.compiler.language import syntax as s
from stretto.compiler.problem.spec import NONE


def cost_table(
    declared: Declarations,
    pipelines: tuple[ResolvedPipeline, ...],
    budget: LoopBudget,
    reports: Reports,
) -> CostTable:
    """What all `cost` and `activation` statements say. Mistakes go to the reports."""
    statements = _CostStatements(declared, pipelines, budget, reports)
    statements.out.chains = tuple(p.chains for p in pipelines)
    of_parts = PartStatements(declared, pipelines, budget, statements.out)
    for deferred in declared.costs:
        statement = deferred.statement
        if isinstance(statement, s.Activation | s.Kept):
            apply_memory(statement, deferred.scope.frame(), pipelines, budget, statements.out)
        elif declared.parts is not None or isinstance(statement, s.PartActivation):
            of_parts.apply(statement, deferred.scope.frame())
        elif statement.other is None:
            statements.operation(statement, deferred.scope.frame())
        else:
            statements.pair(statement, statement.other, deferred.scope.frame())
    return statements.out


class _CostStatements:
    """Applies one statement after the other to the table `out`."""

    def __init__(
        self,
        declared: Declarations,
        pipelines: tuple[ResolvedPipeline, ...],
        budget: LoopBudget,
        reports: Reports,
    ):
        self.declared = declared
        self.pipelines = pipelines
        self.budget = budget
        self.reports = reports
        self.out = CostTable()
        self.ordinal = 0

    def operation(self, statement: s.Cost, scope: Scope) -> None:
        mention = statement.operation
        if mention.part is not None:
            self.reports.add(no_part(mention.kind, mention.part))
        scope.binding_hint = NO_VALUE
        ranges = compile_ranges(statement.ranges, scope)
        places = CompiledIndex(mention, scope)
        value = compile_expression(statement.value, scope)
        among = matching_pipelines(mention.pipeline, scope, self.pipelines)

        def apply(env: Env) -> None:
            ticks = self.out.duration(value(env), statement.value.span)
            self.budget.spend(len(among) - 1, mention.span)
            hits = [self.assign(mention, p, places, env, ticks) for p in among]
            if not any(hits):
                raise no_such_target(mention, places, env, among, self.declared.slices or 0)

        if among:
            for_each(ranges, scope, self.budget, self.reports, apply)

    def assign(
        self, mention: s.Mention, p: ResolvedPipeline, places: CompiledIndex, env: Env, ticks: Exact
    ) -> bool:
        """Sets the cost in one pipeline; False where it has no such operation."""
        stages, slices = len(p.ranks), self.declared.slices or 0
        stage, microbatch, slice_, _ = places.at(env, stages)
        for index, count in ((stage, stages), (microbatch, p.microbatches), (slice_, slices)):
            if index is not None and not 0 <= index < count:
                return False
        if stage is None:
            self.budget.spend(stages - 1, mention.span)
        for at in range(stages) if stage is None else (stage,):
            key = (mention.kind, p.index, at, NONE)
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

    # ---- Pairs

    def pair(self, statement: s.Cost, other: s.Mention, scope: Scope) -> None:
        first, kind = statement.operation, other.kind
        if kind not in self.declared.overlap:
            message = f"nothing says that an `F` may overlap with a `{kind}`"
            help_ = f"overlap F | {kind}"
            self.reports.add_once(
                help_, diagnosis("no-overlap", message, statement.span, help=help_)
            )
            return
        scope.binding_hint = NO_VALUE
        ranges = compile_ranges(statement.ranges, scope)
        halves = (CompiledIndex(first, scope), CompiledIndex(other, scope))
        inside = scope.inner()
        slots = (inside.define_word("F", first.span), inside.define_word(kind, other.span))
        code = compile_expression(statement.value, inside)
        among = [matching_pipelines(m.pipeline, scope, self.pipelines) for m in (first, other)]
        varying = [index for _, index in scope.varying()]

        def apply(env: Env) -> None:
            forwards, backwards = [
                self.stage_patterns(mention, places, env, some)
                for mention, places, some in zip((first, other), halves, among, strict=True)
            ]
            here = tuple((slot, env[slot]) for slot in varying)
            self.ordinal += 1
            cost = PairCost(self.ordinal, code, scope.size, slots, here, statement.value.span)
            self.budget.spend(len(forwards) * len(backwards) - 1, statement.span)
            self.out.pairs.update({(kind, f, b): cost for f in forwards for b in backwards})

        if all(among):
            for_each(ranges, scope, self.budget, self.reports, apply)

    def stage_patterns(
        self, mention: s.Mention, places: CompiledIndex, env: Env, among: list[ResolvedPipeline]
    ) -> list[StagePattern]:
        """The stages that a half of a pair names."""
        if mention.stage is None:
            return [(NONE if mention.pipeline is None else among[0].index, NONE)]
        found = []
        for p in among:
            stage = places.at(env, len(p.ranks)).stage
            if stage is not None and 0 <= stage < len(p.ranks):
                found.append((p.index, stage))
        if not found:
            raise no_such_target(mention, places, env, among, 0)
        return found
