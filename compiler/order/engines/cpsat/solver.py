"""The solver as the engines set it: one worker, a seed, an end by time or by work, and the
propagation that pays for sequences."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

from stretto.compiler.order.budget import Budget

LOOKS = 0.1
"""Seconds between two looks at the clock."""


def solver(budget: Budget, seconds: float, seed: int) -> Any:
    """A CpSolver that ends after so many seconds, or units of deterministic time where the Budget
    counts effort.

    Strong propagation of sequences closes within seconds what else stays open for minutes. One
    worker, since two on one instance took longer wherever we looked."""
    from ortools.sat.python import cp_model

    made = cp_model.CpSolver()
    made.parameters.num_workers = 1
    made.parameters.use_strong_propagation_in_disjunctive = True
    made.parameters.use_dynamic_precedence_in_disjunctive = True
    made.parameters.use_dynamic_precedence_in_cumulative = True
    made.parameters.random_seed = seed
    if budget.effort is None:
        made.parameters.max_time_in_seconds = seconds
    else:
        made.parameters.max_deterministic_time = seconds
    return made


def solved(solver: Any, m: Any, late: Callable[[], bool] = lambda: False) -> tuple[Any, bool]:
    """The solver's status, and whether a Ctrl-C ended it."""
    (status,), interrupted = all_solved([(solver, m)], late)
    return status, interrupted


def all_solved(
    tasks: Sequence[tuple[Any, Any]], late: Callable[[], bool] = lambda: False
) -> tuple[list[Any], bool]:
    """The status of each solver for its model, side by side, and whether a Ctrl-C ended them: on
    the main thread they would take that for themselves and tell nobody. They end too when it gets
    `late`: on a busy machine their own clocks are looked at too seldom."""
    with ThreadPoolExecutor(len(tasks)) as pool:
        for solver, _ in tasks:
            solver.parameters.catch_sigint_signal = False
        running = [pool.submit(solver.solve, m) for solver, m in tasks]
        try:
            while wait(running, timeout=LOOKS).not_done:
                if late():
                    for solver, _ in tasks:
                        solver.stop_search()
            return [one.result() for one in running], False
        except KeyboardInterrupt:
            for solver, _ in tasks:
                solver.stop_search()
            return [one.result() for one in running], True
