"""CP-SAT on all of a problem where it is small enough for a proof, stretch by stretch where not.
OR-tools are loaded when they are needed; without them this engine does nothing.
"""

import sys
from functools import cache
from importlib.util import find_spec

from stretto.compiler.order.budget import Budget
from stretto.compiler.order.open_search import WORK
from stretto.compiler.order.search_state import SearchState


def run(state: SearchState, share: float) -> None:
    """Improve the best order, or prove that none is better. Raises `SearchDone`."""
    from stretto.compiler.order.engines.cpsat.solve import solve, suits

    if state.incumbents and available() and suits(state.instance):
        seconds = state.left() * share
        if not affordable(state.budget, seconds):
            return
        solve(state, state.best.sequence, state.best.value, seconds)
        if state.budget.effort is not None:
            state.spent += int(seconds * WORK)


LOADING = 1.5
"""Seconds of one core that it takes to load OR-tools, about."""


def affordable(budget: Budget, seconds: float) -> bool:
    """Whether in so many seconds the solver can be loaded, and then do something."""
    if budget.effort is not None:
        return True
    loading = 0.0 if "ortools.sat.python.cp_model" in sys.modules else LOADING
    return seconds > loading * budget.slower()


@cache
def available() -> bool:
    """Whether OR-tools are installed."""
    return find_spec("ortools") is not None
