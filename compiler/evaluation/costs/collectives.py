"""The statements `reduce gradients` and `unshard weights`: what each costs on every stage."""

from stretto.compiler.evaluation.costs.table import CostTable, Exact
from stretto.compiler.evaluation.declared import Deferred
from stretto.compiler.evaluation.expressions.compile import compile_expression
from stretto.compiler.evaluation.expressions.ranges import bindings
from stretto.compiler.evaluation.expressions.values import Env
from stretto.compiler.evaluation.reports import AlreadyReported, EvalError
from stretto.compiler.evaluation.resolved import ResolvedPipeline
from stretto.compiler.language import syntax as s
from stretto.compiler.problem.spec import NONE

StageTimes = dict[tuple[int, int], Exact]
"""By pipeline and stage, in the units of the file."""


def collective(
    deferred: Deferred | None, pipelines: tuple[ResolvedPipeline, ...], out: CostTable
) -> StageTimes:
    """What the statement's cost is on every stage that it is about: for `reduce gradients` those
    that are trained, in a copy at least. Nothing where there is no statement. Mistakes go to the
    reports, where each value stands to the table `out`."""
    if deferred is None:
        return {}
    statement: s.ReduceGradients | s.UnshardWeights = deferred.statement
    gradients = isinstance(statement, s.ReduceGradients)
    trained = {_original(p) for p in pipelines if not p.forward_only}
    stages = [
        (p.index, stage)
        for p in pipelines
        if not gradients or _original(p) in trained
        for stage in range(len(p.ranks))
    ]
    if statement.value is None:
        return dict.fromkeys(stages, 0)
    scope = deferred.scope.frame()
    scope.binding_hint = "end the statement with `for stage {}`"
    slot = scope.define_slot(statement.stage, varies=True) if statement.stage else None
    value = compile_expression(statement.value, scope)
    env: Env = [None] * scope.size
    found: StageTimes = {}
    for place in stages:
        if slot is not None:
            env[slot] = place[1]
        try:
            found[place] = out.duration(value(env), statement.value.span)
        except EvalError as error:
            scope.reports.add_repeated(error.diagnostic, bindings(scope, env))
        except AlreadyReported:
            return found
    return found


def _original(p: ResolvedPipeline) -> int:
    """The pipeline whose weights it has."""
    return p.index if p.replicates == NONE else p.replicates
