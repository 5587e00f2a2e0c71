"""Problem → Order, where nobody wrote it: engines in the order that pays, the best result checked.

Published schedules that fit come first, so that no order found is worse; the other engines and
their steps stand in `engines/table`. With the extra `solve` installed the loops are compiled and
CP-SAT is there; without it the same engines run in plain Python, and find less.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from time import process_time

from stretto.compiler.bounds.bound import bound
from stretto.compiler.order import Order
from stretto.compiler.order.budget import Budget
from stretto.compiler.order.cache import Remembered, again, recall, remember, tell, worked
from stretto.compiler.order.check import check
from stretto.compiler.order.engines.parts.search import improve_parts, search_parts
from stretto.compiler.order.engines.restarts import robust
from stretto.compiler.order.engines.table import SearchStep, engine, phases
from stretto.compiler.order.kernels.instance import instance_of
from stretto.compiler.order.kernels.sequences import complete, order_of, sequence_of
from stretto.compiler.order.loops import loops_for, one_at_a_time
from stretto.compiler.order.open_search import SearchDone, run_in_turn
from stretto.compiler.order.search_state import Incumbent, SearchState, start_search
from stretto.compiler.problem.problem import Problem
from stretto.compiler.problem.spec import Operation


@one_at_a_time
def search(problem: Problem, budget: Budget) -> Order:
    """The best Order that the budget allows. Raises `LookupError` if none was found at all, or for
    an engine that there is not, and `KeyboardInterrupt` where the Budget's `interrupted` does not
    take it."""
    if problem.spec.streams:
        return search_parts(problem, budget)
    began, core = budget.clock(), process_time()
    if budget.engine is not None:
        budget = replace(budget, engine=engine(budget.engine).name)
    jitter = problem.spec.jitter[0] > 0 and budget.effort != 0 and budget.engine is None
    end = budget.deadline()
    half = replace(budget, until=(began + end) / 2) if jitter else budget
    least = bound(problem)
    old = recall(problem, budget)
    searched = again(old, budget)
    coming = loops_for("whole", len(problem.operations), half) if searched else None
    state = start_search(instance_of(problem), half, least.ticks)
    best = None
    try:
        if old is not None and complete(state.t, old.sequence):
            state.submit(old.sequence, old.engine)
        state.coming = coming  # not before: only what runs engines takes note of them
        if not state.incumbents or searched:
            run_engines(state)
        elif old is not None:
            tell(old, budget)
            best = state.best if jitter else None
    except SearchDone:
        pass
    except KeyboardInterrupt:
        state.interrupt()
        best = state.best
    if not state.incumbents:
        raise LookupError("no order was found")
    if budget.ended is not None:
        budget.ended()
    if jitter and best is None:
        best = robust(state, budget, end)
    best = best or state.best
    order = _checked(state, best)
    seconds = worked(budget, core, old)
    same = not state.interrupted or budget.effort is None  # an effort means the same everywhere
    if same and state.proven <= least.ticks:  # what was proved is not kept, and must not get lost
        _keep(problem, budget, best, seconds)
    return replace(order, bound=least)


@one_at_a_time
def improve(
    problem: Problem, start: Sequence[Sequence[tuple[Operation, ...]]], budget: Budget
) -> Order | None:
    """The best Order that a short search finds from `start`, the units of every rank in the order
    they run; None if there is none. What finds most in a short time: priority search where ranks
    have several stages, and annealing. Raises `KeyboardInterrupt`."""
    if problem.spec.streams:
        return improve_parts(problem, [[o for unit in row for o in unit] for row in start], budget)
    loops_for("whole", len(problem.operations), replace(budget, progress=None), published=False)
    instance = instance_of(problem)
    state = start_search(instance, budget, bound(problem).ticks)
    several = any(many > 1 for many in state.t.stages_on)
    steps = (
        [SearchStep("offsets", 0.4), SearchStep("anneal")] if several else [SearchStep("anneal")]
    )
    try:
        stages = {stage: g for g, stage in enumerate(instance.stages)}
        sequence = sequence_of(state.t, stages, start)
        with state.until_the_deadline():
            if sequence is not None:
                state.submit(sequence, "start")
            _run(state, [SearchStep("library"), SearchStep("list")])
            _run(state, steps if state.incumbents and budget.effort != 0 else [])
    except SearchDone:
        pass
    return _checked(state, state.best) if state.incumbents else None


def run_engines(state: SearchState) -> None:
    """Run the chosen engine and those it starts from, or the whole portfolio. Raises `SearchDone`
    when what was found is good enough or time is up."""
    ahead = list(phases(state.budget.engine))
    first = 1 if ahead[0][0].engine == "library" else 0
    run_in_turn(state, ahead[:first], ahead[first:], lambda steps: _run_phases(state, steps))


def _run_phases(state: SearchState, ahead: Iterable[tuple[SearchStep, ...]]) -> None:
    for steps in ahead:
        _run(state, [step for step in steps if step.when(state)])


def _run(state: SearchState, steps: Iterable[SearchStep]) -> None:
    for step in steps:
        engine(step.engine).run(state, step.share)


def _checked(state: SearchState, best: Incumbent) -> Order:
    """The Order, timed by what shares nothing with the engines."""
    order = order_of(state.instance, state.t, best.sequence, best.engine, state.proven)
    outcome = check(order)
    if (outcome.span if state.span else outcome.makespan) != best.value:
        raise RuntimeError("two ways to time an order disagree")
    return order


def _keep(problem: Problem, budget: Budget, best: Incumbent, seconds: float) -> None:
    sequence = [int(u) for u in best.sequence]
    remember(problem, budget, Remembered(sequence, best.engine, seconds))
