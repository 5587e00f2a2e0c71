"""CP-SAT on all of a problem where it is small enough for a proof, stretch by stretch where not.
OR-tools are loaded when they are needed; without them this engine does nothing.
"""

from functools import cache

from stretto.compiler.order.open_search import WORK
from stretto.compiler.order.search_state import SearchState


def run(state: SearchState, share: float) -> None:
    """Improve the best order, or prove that none is better. Raises `SearchDone`."""
    from stretto.compiler.order.engines.cpsat.solve import solve, suits

    if state.incumbents and available() and suits(state.instance):
        seconds = state.left() * share
        if state.budget.effort is None and seconds <= 0:
            return
        solve(state, state.best.sequence, state.best.value, seconds)
        if state.budget.effort is not None:
            state.spent += int(seconds * WORK)


@cache
def available() -> bool:
    """Whether OR-tools are installed."""
    try:
        import ortools  # noqa: F401
    except ImportError:
        return False
    return True
