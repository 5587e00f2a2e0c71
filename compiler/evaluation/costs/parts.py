"""The statements `cost F.mlp = E` and `activation F.mlp = E`, where stages are cut into parts:
applied in the order of the text, to all parts that they name."""

from stretto.compiler.diagnostics.diagnostic import Diagnostic, Label
from stretto.compiler.evaluation.chains import (
    StageChain,
    check_part,
    no_whole_backward,
    parts_of,
)
from stretto.compiler.evaluation.costs.table import CostTable, Exact
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


class PartStatements:
    """Applies one statement after the other to the table `out`."""

    def __init__(
        self,
        declared: Declarations,
        pipelines: tuple[ResolvedPipeline, ...],
        budget: LoopBudget,
        out: CostTable,
    ):
        self.declared = declared
        self.pipelines = pipelines
        self.budget = budget
        self.out = out
        self.named: dict[tuple[int, str], dict[int, int]] = {}

    def apply(self, statement: s.Cost | s.PartActivation, scope: Scope) -> None:
        """Applies a statement, whose `scope` is a frame of its own. Mistakes go to its reports."""
        mention = statement.operation
        wrong = _wrong(statement, self.declared, scope.reports)
        if wrong is not None:
            scope.reports.add(wrong)
            return
        scope.binding_hint = NO_VALUE
        ranges = compile_ranges(statement.ranges, scope)
        places = CompiledIndex(mention, scope)
        value = compile_expression(statement.value, scope)
        among = matching_pipelines(mention.pipeline, scope, self.pipelines)
        memory = isinstance(statement, s.PartActivation)
        before, bound, hits = scope.reports.count, False, 0

        def assign(env: Env) -> None:
            nonlocal bound, hits
            bound = True
            amount = (self.out.size if memory else self.out.duration)(
                value(env), statement.value.span
            )
            self.budget.spend(len(among) - 1, mention.span)
            found = [self.assign(mention, p, places, env, amount, memory) for p in among]
            if all(hit is None for hit in found):
                raise no_such_target(mention, places, env, among, 0)
            hits += sum(hit or 0 for hit in found)

        if among:
            for_each(ranges, scope, self.budget, scope.reports, assign)
            if bound and not hits and scope.reports.count == before:
                scope.reports.add_for_values(self.fits_nowhere(mention))

    def assign(
        self,
        mention: s.Mention,
        p: ResolvedPipeline,
        places: CompiledIndex,
        env: Env,
        value: Exact,
        memory: bool,
    ) -> int | None:
        """Sets the cost, or the activation, in one pipeline, and returns for how many parts; None
        where the pipeline has no such stage or micro-batch."""
        stage, microbatch, slice_, layer = places.at(env, len(p.ranks))
        for index, count in ((stage, len(p.ranks)), (microbatch, p.microbatches), (slice_, 0)):
            if index is not None and not 0 <= index < count:
                return None
        hits = 0
        if stage is None:
            self.budget.spend(len(p.ranks) - 1, mention.span)
        for at in range(len(p.ranks)) if stage is None else (stage,):
            for part in self.parts(p.chains[at], mention, layer):
                hits += 1
                key = (mention.kind, p.index, at, part)
                if memory:
                    self.out.part_activation[key[1:]] = value
                elif microbatch is not None:
                    self.out.cells.setdefault(key, {})[microbatch, NONE] = value
                else:
                    self.out.stages[key] = value
                    self.out.cells.pop(key, None)
        if hits > 1:
            self.budget.spend(hits - 1, mention.span)
        return hits

    def parts(self, chain: StageChain, mention: s.Mention, layer: int | None) -> list[int]:
        """The parts of a chain that have the name, and the layer if one is named."""
        assert mention.part is not None
        name = mention.part.text
        found = self.named.get((id(chain), name))
        if found is None:
            found = {part.layer: i for i, part in enumerate(chain) if part.name == name}
            self.named[id(chain), name] = found
        if layer is None:
            return [*found.values()]
        return [found[layer]] if layer in found else []

    def fits_nowhere(self, mention: s.Mention) -> Diagnostic:
        """What is wrong with a statement that no part of any stage fits."""
        assert mention.part is not None and self.declared.parts is not None
        return diagnosis(
            "no-such-operation",
            f"no stage has a part `{mention.part.text}` that this fits",
            Label(mention.span),
            Label(self.declared.parts.statement.span, "the parts"),
            help="it may have other layers, or its condition does not hold there",
        )


def _wrong(
    statement: s.Cost | s.PartActivation, declared: Declarations, reports: Reports
) -> Diagnostic | None:
    """What is wrong with a statement wherever it applies."""
    mention = statement.operation
    if declared.parts is None:
        assert mention.part is not None
        return no_part(mention.kind, mention.part)
    the_parts = Label(declared.parts.statement.span, "the parts")
    if isinstance(statement, s.Cost) and statement.other is not None:
        return diagnosis(
            "parts-only",
            "pairs of operations that are cut into parts have no cost of their own",
            Label(statement.span),
            the_parts,
            help="a pair takes what its parts take: `cost F.PART = …`",
        )
    if mention.part is None:
        return diagnosis(
            "parts-only",
            f"`{mention.kind}` is cut into parts, and costs what they cost",
            Label(mention.span),
            the_parts,
            help=f"cost {mention.kind}.{parts_of(declared.parts.statement)[0].name.text} = …",
        )
    if mention.kind == "B" and declared.split is not None:
        return no_whole_backward(mention, declared.split)
    return check_part(mention, declared, reports)
