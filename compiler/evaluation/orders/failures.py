"""Steps of an order that cannot be taken: which of them are reported, and with which bindings."""

from typing import Any

from stretto.compiler.evaluation.expressions.ranges import bindings
from stretto.compiler.evaluation.expressions.scope import Scope
from stretto.compiler.evaluation.expressions.values import Env
from stretto.compiler.evaluation.orders.resolver import RankResolver
from stretto.compiler.evaluation.reports import (
    MOST_PER_RANK,
    EvalError,
    Reports,
    SecondaryError,
    TooManyRounds,
)


class TooManyErrors(Exception):
    """The rank has had `MOST_PER_RANK` errors; the rest of its order is not run."""


def fail(error: EvalError, resolver: RankResolver[Any], scope: Scope, env: Env) -> None:
    """Records a step that could not be taken; the rank goes on with the next one. Raises
    `TooManyErrors` after many of them, and `TooManyRounds` as it is."""
    if isinstance(error, TooManyRounds):
        raise error
    record(located(error, scope, env), resolver, scope.reports)
    if resolver.failures >= MOST_PER_RANK:
        raise TooManyErrors


def record(error: EvalError, resolver: RankResolver[Any], reports: Reports) -> None:
    """Reports a mistake in the order of a rank, unless an earlier one may explain it."""
    if not (resolver.failures and isinstance(error, SecondaryError)):
        reports.add_repeated(error.diagnostic, error.bindings or "", resolver.rank)
    resolver.failures += 1


def located(error: EvalError, scope: Scope, env: Env) -> EvalError:
    """The same error, with the values that the innermost loops around it had given their names."""
    if error.bindings is None:
        error.bindings = bindings(scope, env)
    return error
