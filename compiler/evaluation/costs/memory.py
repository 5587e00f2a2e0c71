"""The statements `activation`, `activation after I` and `limit`, and `transfer` between ranks."""

from collections.abc import Iterator

from stretto.compiler.diagnostics.source import Span
from stretto.compiler.evaluation.costs.table import CostTable, Exact
from stretto.compiler.evaluation.costs.targets import (
    CompiledIndex,
    matching_pipelines,
    no_such_target,
)
from stretto.compiler.evaluation.declared import Declarations, Deferred
from stretto.compiler.evaluation.expressions.compile import compile_expression
from stretto.compiler.evaluation.expressions.ranges import (
    LoopBudget,
    bindings,
    compile_ranges,
    for_each,
)
from stretto.compiler.evaluation.expressions.scope import NO_VALUE, Scope
from stretto.compiler.evaluation.expressions.values import Env, show
from stretto.compiler.evaluation.reports import AlreadyReported, EvalError, Reports, diagnosis
from stretto.compiler.evaluation.resolved import ResolvedPipeline
from stretto.compiler.language import syntax as s


def apply_memory(
    statement: s.Activation | s.Kept,
    scope: Scope,
    pipelines: tuple[ResolvedPipeline, ...],
    budget: LoopBudget,
    out: CostTable,
) -> None:
    """Applies one `activation` statement to the table `out`. `scope` is a frame of its own."""
    scope.binding_hint = NO_VALUE
    ranges = compile_ranges(statement.ranges, scope)
    places = CompiledIndex(statement, scope)
    value = compile_expression(statement.value, scope)
    among = matching_pipelines(statement.pipeline, scope, pipelines)

    def apply(env: Env) -> None:
        amount = out.size(value(env), statement.value.span)
        budget.spend(len(among) - 1, statement.span)
        hit = False
        for p in among:
            stage = places.at(env, len(p.ranks)).stage
            if stage is not None and not 0 <= stage < len(p.ranks):
                continue
            hit = True
            if stage is None:
                budget.spend(len(p.ranks) - 1, statement.span)
            for at in range(len(p.ranks)) if stage is None else (stage,):
                if isinstance(statement, s.Kept):
                    out.kept[p.index, at] = (amount, statement.value.span)
                else:
                    out.activation[p.index, at] = amount
        if not hit:
            raise no_such_target(statement, places, env, among, 0)

    if among:
        for_each(ranges, scope, budget, scope.reports, apply)


def check_kept(costs: CostTable, pipelines: tuple[ResolvedPipeline, ...], reports: Reports) -> None:
    """Reports a stage of which more would be left after I than its forward leaves in memory."""
    for (p, stage), (kept, span) in sorted(costs.kept.items()):
        whole = costs.activation.get((p, stage), 1)
        if kept > whole:
            after = f"after `I {pipelines[p].name}[{stage}]`"
            message = f"{after} {show(kept)} would be left of an activation of {show(whole)}"
            reports.add_repeated(diagnosis("out-of-range", message, span))


def transfer(deferred: Deferred, pipelines: tuple[ResolvedPipeline, ...], out: CostTable) -> None:
    """The transfer time of every pair of ranks that exchange data."""
    statement: s.Transfer = deferred.statement
    scope = deferred.scope.frame()
    scope.binding_hint = "end the statement with `for rank a -> b`"
    names = [w for w in (statement.source, statement.target) if w is not None]
    slots = [scope.define_slot(word, varies=True) for word in names]
    value = compile_expression(statement.value, scope)
    env: Env = [None] * scope.size
    for link in links(pipelines):
        for slot, rank in zip(slots, link, strict=False):
            env[slot] = rank
        try:
            out.transfers[link] = out.duration(value(env), statement.value.span)
        except EvalError as error:
            scope.reports.add_repeated(error.diagnostic, bindings(scope, env))
        except AlreadyReported:
            return


def links(pipelines: tuple[ResolvedPipeline, ...]) -> list[tuple[int, int]]:
    """The directed pairs of ranks between which something travels, in order."""
    found: set[tuple[int, int]] = set()
    for p in pipelines:
        hops = [(p.ranks[i], p.ranks[i + 1]) for i in range(len(p.ranks) - 1)]
        hops += [(p.ranks[-1], pipelines[f.pipeline].ranks[f.stage]) for f in p.feeds]
        for a, b in hops:
            if a != b:
                found.add((a, b))
                if not p.forward_only:
                    found.add((b, a))
    return sorted(found)


def limits(declared: Declarations, budget: LoopBudget, out: CostTable) -> None:
    """Applies every `limit` to its ranks; of several the tightest counts, of equals the first."""
    for_all: tuple[Exact, int, Span] | None = None
    found: dict[int, tuple[Exact, int, Span]] = {}
    for number, deferred in enumerate(declared.limits):
        statement: s.Limit = deferred.statement
        at = statement.span
        for rank, most in _limit(statement, deferred.scope.frame(), declared, budget, out):
            one = most, number, at
            if rank is None:
                for_all = one if for_all is None else min(for_all, one)
            else:
                found[rank] = min(found.get(rank, one), one)
    for rank in range(declared.ranks or 0):
        least = [one for one in (for_all, found.get(rank)) if one is not None]
        if least:
            most, _, at = min(least)
            out.limits[rank] = most, at


def _limit(
    statement: s.Limit, scope: Scope, declared: Declarations, budget: LoopBudget, out: CostTable
) -> Iterator[tuple[int | None, Exact]]:
    """What one `limit` allows: rank by rank, or where it names none every rank (None). Raises
    `TooManyRounds`. `scope` is a frame of its own."""
    scope.binding_hint = "end the statement with `for rank {}`"
    slot = scope.define_slot(statement.rank, varies=True) if statement.rank else None
    value = compile_expression(statement.value, scope)
    env: Env = [None] * scope.size
    if slot is not None:
        budget.spend(declared.ranks or 0, statement.span)
    for rank in range(declared.ranks or 0) if slot is not None else (None,):
        if slot is not None:
            env[slot] = rank
        try:
            yield rank, out.size(value(env), statement.value.span)
        except EvalError as error:
            scope.reports.add_repeated(error.diagnostic, bindings(scope, env))
        except AlreadyReported:
            return
