"""`rule OP after OP for …`: one `Rule` of the Spec for every binding."""

from collections.abc import Callable

from stretto.compiler.diagnostics.diagnostic import Diagnostic, Label
from stretto.compiler.diagnostics.source import Span
from stretto.compiler.evaluation.costs.targets import missing, named
from stretto.compiler.evaluation.declared import Declared, Later
from stretto.compiler.evaluation.expressions.compile import compile_whole
from stretto.compiler.evaluation.expressions.ranges import Budget, compile_ranges, for_each
from stretto.compiler.evaluation.expressions.scope import Scope
from stretto.compiler.evaluation.expressions.values import Env
from stretto.compiler.evaluation.placement import Placed
from stretto.compiler.evaluation.reports import Reports, diagnosis, no_split
from stretto.compiler.language import syntax as s
from stretto.compiler.problem.spec import NONE, Operation, Rule

Named = Callable[[Env], list[Operation]]


def rules(
    said: Declared,
    placed: tuple[Placed, ...],
    intern: Callable[[Span], int],
    budget: Budget,
    reports: Reports,
) -> tuple[Rule, ...]:
    """All rules. A `B` in one stands for what replaces it too; the Spec keeps it as written."""
    found: list[Rule] = []
    for later in said.rules:
        _one(later, said, placed, intern(later.statement.span), budget, reports, found)
    return tuple(found)


def _one(
    later: Later,
    said: Declared,
    placed: tuple[Placed, ...],
    at: int,
    budget: Budget,
    reports: Reports,
    found: list[Rule],
) -> None:
    statement: s.Rule = later.statement
    scope = later.scope.frame()
    scope.binds = "for {} in a .. b"
    ranges = compile_ranges(statement.ranges, scope)
    after = _operation(statement.later, scope, said, placed, reports)
    before = _operation(statement.earlier, scope, said, placed, reports)
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
    said: Declared,
    placed: tuple[Placed, ...],
    reports: Reports,
) -> Named | None:
    """The operations that a mention names exactly: one, or all slices of a micro-batch."""
    p = _pipeline(mention, scope, placed, reports)
    codes = [
        None if e is None else compile_whole(e, scope, what)
        for e, what in (
            (mention.stage, "a stage"),
            (mention.microbatch, "a micro-batch"),
            (mention.slice, "a slice"),
        )
    ]
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
    if mention.kind in "IW" and said.split is None:
        reports.once("split B", no_split(mention.kind, mention.span))
        return None
    if p is None:
        return None
    if mention.kind != "F" and p.forward_only:
        reports.add(_no_backward(mention, p))
        return None
    return _named(mention, codes, p, said.slices or 0)


def _named(
    mention: s.Mention,
    codes: list[Callable[[Env], int] | None],
    p: Placed,
    slices: int,
) -> Named:
    stage, microbatch, slice_ = codes
    assert stage is not None and microbatch is not None
    who = f"`{p.name}`"

    def run(env: Env) -> list[Operation]:
        at, m = stage(env), microbatch(env)
        if not 0 <= at < len(p.ranks):
            raise missing(who, "stage", at, len(p.ranks), mention.stage)
        if not 0 <= m < p.microbatches:
            raise missing(who, "micro-batch", m, p.microbatches, mention.microbatch)
        if slice_ is None:
            parts = range(slices) if slices else (NONE,)
            return [Operation(mention.kind, p.index, at, m, k) for k in parts]
        k = slice_(env)
        if not 0 <= k < slices:
            raise missing("", "slice", k, slices, mention.slice)
        return [Operation(mention.kind, p.index, at, m, k)]

    return run


def _pipeline(
    mention: s.Mention, scope: Scope, placed: tuple[Placed, ...], reports: Reports
) -> Placed | None:
    if mention.pipeline is not None:
        return named(mention.pipeline, scope, placed)
    if len(placed) < 2:
        return placed[0] if placed else None
    names = " or ".join(f"`{mention.kind} {p.name}`" for p in placed)
    reports.add(
        diagnosis(
            "ambiguous",
            f"`{mention.kind}` of which pipeline?",
            mention.span,
            help=f"say {names}",
        )
    )
    return None


def _no_backward(mention: s.Mention, p: Placed) -> Diagnostic:
    return diagnosis(
        "no-such-operation",
        f"`{p.name}` is `forward only` and has no `{mention.kind}`",
        Label(mention.span),
        Label(p.draft.said["forward only"], "no backward here"),
    )
