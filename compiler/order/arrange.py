"""Problem → Order: the author's order where it is complete, else the best that the budget finds."""

from dataclasses import replace

from stretto.compiler.diagnostics.diagnostic import Diagnostic, Label, Rejected
from stretto.compiler.order import Order
from stretto.compiler.order.budget import Budget
from stretto.compiler.order.written import incomplete, written
from stretto.compiler.problem.computations import computations
from stretto.compiler.problem.problem import Problem


def arrange(problem: Problem, budget: Budget) -> Order:
    """An Order of everything in the Problem. What runs beside the computations (`reduce gradients`,
    `unshard weights`) is not looked at: the search orders computations. Raises `Rejected`:
    `limit-too-small`, `no-order`."""
    if not incomplete(problem):
        return written(problem)
    from stretto.compiler.bounds.feasible import feasible

    feasible(problem)
    from stretto.compiler.order.search import search  # the engines load numba where it is there

    alone = replace(problem, spec=computations(problem.spec))
    try:
        order = search(alone, budget)
    except LookupError:
        raise Rejected([_nothing(problem)]) from None
    if alone.spec is problem.spec:
        return order
    return replace(order, problem=replace(order.problem, spec=problem.spec), bound=None)


def _nothing(problem: Problem) -> Diagnostic:
    """No engine found an order at all, though one may exist."""
    spec = problem.spec
    limits = [
        Label(spec.spans[limit.at], "this limit")
        for limit in {limit for limit in spec.limits if limit}
    ]
    rules = [Label(spec.spans[at]) for at in dict.fromkeys(rule.at for rule in spec.rules)]
    return Diagnostic(
        code="no-order",
        message="no order was found that keeps to everything this file asks for",
        labels=(*limits[:1], *rules[:3]) or (Label(spec.spans[spec.pipelines[0].at]),),
        notes=("there may be one: the search tries many, not all",),
        help="raise the limit, or leave out a rule or a part of the written order",
    )
