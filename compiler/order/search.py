"""Problem → Order, where nobody wrote it: engines in the order that pays, the best result checked.

Known schedules that fit come first, so that no order found is worse; then list schedules, offset
search, annealing. With `solve` installed the loops are compiled and CP-SAT helps.
"""

from contextlib import suppress

from stretto.compiler.bound import bound
from stretto.compiler.order import Order
from stretto.compiler.order.budget import Budget
from stretto.compiler.order.check import check
from stretto.compiler.order.engines import exact, library, lists, offsets, periodic, polish, warm
from stretto.compiler.order.hunt import Hunt, Stop, hunt
from stretto.compiler.order.model import model
from stretto.compiler.order.words import order_of
from stretto.compiler.problem import Problem


def search(problem: Problem, budget: Budget) -> Order:
    """The best Order that the budget allows. Raises `LookupError` if none was found at all."""
    found = hunt(model(problem), budget, bound(problem).ticks)
    warm(found)
    with suppress(Stop, KeyboardInterrupt):
        _engines(found)
    if not found.found:
        raise LookupError("no order was found")
    best = found.best
    order = order_of(found.model, found.t, best.word, best.engine, found.proven)
    outcome = check(order)
    value = outcome.span if found.span else outcome.makespan
    assert value == best.value, (value, best.value)
    return order


def _engines(found: Hunt) -> None:
    """Run what the budget names, or everything that pays."""
    only = found.budget.engine
    if only in (None, "library", "anneal", "cpsat"):
        library(found)
    if only in (None, "list", "anneal", "cpsat"):
        lists(found)
    if found.budget.effort == 0:
        return
    if only in (None, "offsets"):
        offsets(found, 0.15 if only is None else 1.0)
    if only == "periodic" or (only is None and _crowded(found)):
        periodic(found, 0.3 if only is None else 1.0)
    if only in (None, "anneal") and found.found:
        polish(found, 1.0 if only else 0.3)
    if only in (None, "cpsat") and found.found:
        exact(found, 0.6 if only is None else 1.0)
    if only is None and found.found:
        polish(found, 1.0)


def _crowded(found: Hunt) -> bool:
    """Whether list schedules probably lose much: several stages on a rank under a limit, and what
    was found so far is not close to the bound."""
    several = any(many > 1 for many in found.t.many)
    return several and bool(found.found) and found.best.value > found.bound * 1.01
