"""`rule OP after OP for …`: one `Rule` of the Spec for every binding."""

from collections.abc import Callable

from stretto.compiler.diagnostics.diagnostic import Diagnostic, Label
from stretto.compiler.diagnostics.source import Span
from stretto.compiler.evaluation.chains import check_part, no_whole_backward
from stretto.compiler.evaluation.costs.targets import check_place, find_pipeline, no_such_index
from stretto.compiler.evaluation.declared import Declarations, Deferred
from stretto.compiler.evaluation.expressions.ranges import LoopBudget, compile_ranges, for_each
from stretto.compiler.evaluation.expressions.scope import Scope
from stretto.compiler.evaluation.expressions.values import Env
from stretto.compiler.evaluation.indices import IndexCodes, compile_indices
from stretto.compiler.evaluation.reports import Reports, backward_not_split, diagnosis, no_part
from stretto.compiler.evaluation.resolved import ResolvedPipeline
from stretto.compiler.evaluation.rule_parts import OperationsCode, parts_named
from stretto.compiler.language import syntax as s
from stretto.compiler.problem.spec import NONE, Operation, Rule


def rules(
    declared: Declarations,
    pipelines: tuple[ResolvedPipeline, ...],
    intern: Callable[[Span], int],
    budget: LoopBudget,
    reports: Reports,
) -> tuple[Rule, ...]:
    """All rules, as they are written: a `B` in one also stands for the I and W that replace it."""
    found: list[Rule] = []
    for deferred in declared.rules:
        _one(deferred, declared, pipelines, intern(deferred.statement.span), budget, reports, found)
    return tuple(found)


def _one(
    deferred: Deferred,
    declared: Declarations,
    pipelines: tuple[ResolvedPipeline, ...],
    at: int,
    budget: LoopBudget,
    reports: Reports,
    found: list[Rule],
) -> None:
    statement: s.Rule = deferred.statement
    scope = deferred.scope.frame()
    scope.binding_hint = "end the statement with `for {} in a .. b`"
    ranges = compile_ranges(statement.ranges, scope)
    after = _operation(statement.later, scope, declared, pipelines, after=True)
    before = _operation(statement.earlier, scope, declared, pipelines, after=False)
    if after is None or before is None:
        return

    def apply(env: Env) -> None:
        rules = [Rule(x, y, at) for x in after(env) for y in before(env)]
        if len(rules) > 1:
            budget.spend(len(rules), statement.span)
        found.extend(rules)

    for_each(ranges, scope, budget, reports, apply)


def _operation(
    mention: s.Mention,
    scope: Scope,
    declared: Declarations,
    pipelines: tuple[ResolvedPipeline, ...],
    after: bool,
) -> OperationsCode | None:
    """The operations that a mention names exactly: one, or all slices of a micro-batch; where
    stages are cut into parts those that decide when it stands `after` others, or before them."""
    reports = scope.reports
    p = _pipeline(mention, scope, pipelines, reports)
    codes = compile_indices(mention, scope)
    if mention.stage is None or mention.microbatch is None:
        reports.add(
            diagnosis(
                "no-such-operation",
                "a rule names its operations exactly: pipeline, stage and micro-batch",
                mention.span,
                help=f"{mention.kind} {p.name if p else 'main'}[stage, microbatch]",
            )
        )
        return None
    if mention.kind in "IW" and declared.split is None:
        reports.add_once("split B", backward_not_split(mention.kind, mention.span))
        return None
    if mention.part is not None:
        wrong = _wrong_part(mention, mention.part, declared, reports)
        if wrong is not None:
            reports.add(wrong)
            return None
    if p is None:
        return None
    if mention.kind != "F" and p.forward_only:
        reports.add(_no_backward(mention, p))
        return None
    if declared.parts is not None:
        return parts_named(mention, codes, p, declared.split is not None, after)
    return _named(mention, codes, p, declared.slices or 0)


def _wrong_part(
    mention: s.Mention, part: s.Word, declared: Declarations, reports: Reports
) -> Diagnostic | None:
    if declared.parts is None:
        return no_part(mention.kind, part)
    if mention.kind == "B" and declared.split is not None:
        return no_whole_backward(mention, declared.split)
    return check_part(mention, declared, reports)


def _named(
    mention: s.Mention,
    codes: IndexCodes,
    p: ResolvedPipeline,
    slices: int,
) -> OperationsCode:
    stage, microbatch, slice_, _ = codes
    assert stage is not None and microbatch is not None

    def run(env: Env) -> list[Operation]:
        at, m = stage(env), microbatch(env)
        check_place(mention, p, at, m)
        if slice_ is None:
            parts = range(slices) if slices else (NONE,)
            return [Operation(mention.kind, p.index, at, m, k) for k in parts]
        k = slice_(env)
        if not 0 <= k < slices:
            raise no_such_index("", "slice", k, slices, mention.slice)
        return [Operation(mention.kind, p.index, at, m, k)]

    return run


def _pipeline(
    mention: s.Mention, scope: Scope, pipelines: tuple[ResolvedPipeline, ...], reports: Reports
) -> ResolvedPipeline | None:
    if mention.pipeline is not None:
        return find_pipeline(mention.pipeline, scope, pipelines)
    if len(pipelines) < 2:
        return pipelines[0] if pipelines else None
    names = " or ".join(f"`{mention.kind} {p.name}`" for p in pipelines)
    reports.add(
        diagnosis(
            "ambiguous",
            f"`{mention.kind}` of which pipeline?",
            mention.span,
            help=f"say {names}",
        )
    )
    return None


def _no_backward(mention: s.Mention, p: ResolvedPipeline) -> Diagnostic:
    return diagnosis(
        "no-such-operation",
        f"`{p.name}` is `forward only` and has no `{mention.kind}`",
        Label(mention.span),
        Label(p.declaration.stated_at["forward only"], "no backward here"),
    )
