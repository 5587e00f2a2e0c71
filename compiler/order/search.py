"""Problem → Order, where nobody wrote it: engines in the order that pays, the best result checked.

Known schedules that fit come first, so that no order found is worse; then list schedules, offset
search, periodic steady states, annealing, CP-SAT. With the extra `solve` installed the loops are
compiled and CP-SAT is there; without it the same engines run in plain Python, and find less.
"""

from dataclasses import replace
from time import monotonic

from stretto.compiler.bounds.bound import bound
from stretto.compiler.order import Order
from stretto.compiler.order.budget import Budget
from stretto.compiler.order.cache import Remembered, recall, remember
from stretto.compiler.order.check import check
from stretto.compiler.order.engines.restarts import polish, robust
from stretto.compiler.order.engines.run import (
    alternate,
    exact,
    library,
    lists,
    offsets,
    paces,
    periodic,
    warm,
)
from stretto.compiler.order.kernels.instance import model
from stretto.compiler.order.kernels.sequences import complete, order_of
from stretto.compiler.order.search_state import Found, Hunt, Stop, hunt
from stretto.compiler.problem.problem import Problem

ENGINES = (
    "library",
    "list",
    "alternating",
    "offsets",
    "periodic",
    "anneal",
    "cpsat",
)
ROUNDS = 3
LONG = 2000  # operations, beyond which annealing whole words gets slow
SMALL = 250  # operations, of which CP-SAT proves most


def search(problem: Problem, budget: Budget) -> Order:
    """The best Order that the budget allows. Raises `LookupError` if none was found at all,
    and `KeyboardInterrupt` where a Budget's `interrupted` does not take it."""
    began = monotonic()
    jitter = problem.spec.jitter[0] > 0 and budget.effort != 0 and budget.engine is None
    half = replace(budget, seconds=budget.seconds / 2) if jitter else budget
    least = bound(problem)
    found = hunt(model(problem), half, least.ticks)
    old = recall(problem, budget)
    best = None
    try:
        if old is not None and complete(found.t, old.word):
            found.proven = old.proven
            found.offer(old.word, old.engine)
        if not found.found or old is None or old.seconds < budget.seconds:
            warm(found)
            _engines(found)
        elif jitter:
            best = found.best
    except Stop:
        pass
    except KeyboardInterrupt:
        found.interrupt()
        best = found.best
    if not found.found:
        raise LookupError("no order was found")
    if jitter and best is None:
        best = robust(found, budget)
    best = best or found.best
    order = order_of(found.model, found.t, best.word, best.engine, found.proven)
    outcome = check(order)
    if (outcome.span if found.span else outcome.makespan) != best.value:
        raise RuntimeError("two ways to time an order disagree")
    seconds = budget.seconds
    if found.interrupted:
        seconds = max(monotonic() - began, old.seconds if old is not None else 0.0)
    if not found.interrupted or budget.effort is None:  # an effort means the same everywhere
        _keep(problem, budget, best, found.proven, min(seconds, budget.seconds))
    return replace(order, bound=least)


def _keep(problem: Problem, budget: Budget, best: Found, proven: int, seconds: float) -> None:
    word = [int(u) for u in best.word]
    remember(problem, budget, Remembered(word, best.engine, proven, seconds))


def _engines(found: Hunt) -> None:
    """Run what the budget names (with what it needs to start from), or everything that pays."""
    only = found.budget.engine
    if only in (None, "library", "anneal", "cpsat"):
        library(found)
    if only in (None, "list", "anneal", "cpsat"):
        lists(found)
    small = found.model.size <= SMALL
    if only is None and small and found.found and found.budget.effort != 0:
        exact(found, 0.3)  # most close at once
    if only in (None, "alternating"):
        alternate(found, 1.0 if only else 0.6 if found.model.size > LONG else 0.3)
    if found.budget.effort == 0 and only in (None, "library", "list", "alternating"):
        if only is None and _crowded(found):
            paces(found)
        return
    if only in (None, "offsets"):
        offsets(found, 1.0 if only else 0.1 if _crowded(found) else 0.4)
    if only == "periodic":
        periodic(found, 1.0)
    crowded = _crowded(found)
    if only is None and crowded:
        _steady(found, 0.55)
    elif only in (None, "anneal") and found.found:
        polish(found, 1.0 if only else 0.3)
    if only in (None, "cpsat") and found.found:
        exact(found, 1.0 if only else 0.6 if crowded or small else 0.3)
    if only is None and found.found:
        polish(found, 1.0)


def _steady(found: Hunt, share: float) -> None:
    """Steady states and their polish, again and again: luck decides which of them lead far."""
    for turn in range(ROUNDS):
        part = share / (ROUNDS - share * turn)
        periodic(found, 0.5 * part, 100 * turn)
        polish(found, 0.5 * part / (1 - 0.5 * part))


def _crowded(found: Hunt) -> bool:
    """Whether list schedules probably lose much: several stages on a rank under a limit, and what
    was found so far is not close to the bound."""
    several = any(many > 1 for many in found.t.many)
    return several and bool(found.found) and found.best.value > found.bound * 1.01
