"""CP-SAT on the whole problem: proof, and the last polish. It is given our bound as the objective's
lower limit and our order as a hint; then most small instances close at once, because nothing is
left to search. Its own bound is of no use beyond some hundred operations.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from stretto.compiler.order.hunt import Hunt
from stretto.compiler.order.model import BACK, NO_LIMIT, F, Model, W
from stretto.compiler.spec import NONE

LARGEST = 400  # operations


def suits(model: Model) -> bool:
    """Whether the model below says everything. (Units that may overlap it does not know.)"""
    return not model.pairs and model.size <= LARGEST and all(x == NONE for x in model.joint)


def solve(hunt: Hunt, word: Sequence[int], best: int, seconds: float) -> None:
    """Look for a word that is better than `word`, whose value is `best`, or prove that there is
    none. Raises `Stop` when that settles it."""
    from ortools.sat.python import cp_model

    model = hunt.model
    start_of = _times(hunt, word)
    m = cp_model.CpModel()
    start = [m.new_int_var(0, best, "") for _ in range(model.size)]
    for place, at in enumerate(start_of):
        m.add_hint(start[place], at)
    _sequences(m, model, start)
    goal = m.new_int_var(hunt.bound, best - 1, "")
    for r in range(model.ranks):
        places = [
            p
            for x in model.letters(r)
            for p in range(model.base[x], model.base[x] + model.count[x])
        ]
        if not places:
            continue
        _one_at_a_time(m, model, start, places)
        _memory(m, model, hunt, start, r, best)
        first = m.new_int_var(0, best, "") if hunt.span else 0
        for p in places:
            if hunt.span:
                m.add(first <= start[p])
            m.add(goal >= start[p] + model.duration[p] - first)
    m.minimize(goal)
    solver = cp_model.CpSolver()
    if hunt.budget.effort is None:
        solver.parameters.max_time_in_seconds = seconds
        solver.parameters.num_workers = 2
    else:
        solver.parameters.max_deterministic_time = seconds
        solver.parameters.num_workers = 1
    solver.parameters.random_seed = hunt.budget.seed
    status, interrupted = solved(solver, m)
    if status == cp_model.INFEASIBLE:
        hunt.prove(best)
        return
    if status != cp_model.UNKNOWN:
        hunt.offer(_word(model, hunt, [solver.value(one) for one in start]), "cpsat")
    if interrupted:
        raise KeyboardInterrupt
    if status == cp_model.OPTIMAL:
        hunt.prove(round(solver.objective_value))


def solved(solver: Any, m: Any) -> tuple[Any, bool]:
    """The solver's status, and whether a Ctrl-C ended it: on the main thread it would take that
    for itself and tell nobody."""
    solver.parameters.catch_sigint_signal = False
    with ThreadPoolExecutor(1) as pool:
        status = pool.submit(solver.solve, m)
        try:
            return status.result(), False
        except KeyboardInterrupt:
            solver.stop_search()
            return status.result(), True


def _times(hunt: Hunt, word: Sequence[int]) -> list[int]:
    """The start of every place in the replayed word."""
    from stretto.compiler.order.anneal import evaluate
    from stretto.compiler.order.jit import ints

    state = hunt.state
    evaluate(state, ints(word), hunt.span)
    start = [0] * hunt.model.size
    for p, u in enumerate(word):
        if u >= 0:
            start[int(state.first[p])] = int(state.start[0][p])
    return start


def _sequences(m: Any, model: Model, start: list[Any]) -> None:
    """Edges: data, what is its own, letter by letter in index order, and what was written."""
    for x in range(len(model.rank)):
        base = model.base[x]
        for n in range(model.count[x]):
            p = base + n
            if n:
                m.add(start[p] >= start[p - 1] + model.duration[p - 1])
            for y, lag in model.needs[x]:
                if model.count[y]:
                    q = model.base[y] + n
                    m.add(start[p] >= start[q] + model.duration[q] + lag)
            if x % 3 == BACK and model.own[p]:
                q = model.base[x - 1] + model.own[p] - 1
                m.add(start[p] >= start[q] + model.duration[q])
        if x % 3 == W:
            halves = [
                p
                for p in range(model.base[x - 1], model.base[x - 1] + model.count[x - 1])
                if not model.whole[p]
            ]
            for n, p in zip(range(model.count[x]), halves, strict=False):
                m.add(start[base + n] >= start[p] + model.duration[p])
    for p, edges in model.extra.items():
        for q, lag in edges:
            m.add(start[p] >= start[q] + model.duration[q] + lag)
    for p, q in enumerate(model.partner):
        if q != NONE:
            m.add(start[p] == start[q])


def _one_at_a_time(m: Any, model: Model, start: list[Any], places: Sequence[int]) -> None:
    alone = [p for p in places if model.duration[p]]
    m.add_no_overlap(
        [m.new_fixed_size_interval_var(start[p], model.duration[p], "") for p in alone]
    )


def _memory(m: Any, model: Model, hunt: Hunt, start: list[Any], r: int, best: int) -> None:
    """What is held at each moment: a cumulative of what is taken at the start of F and given back
    at the end of I and of W. One stage with whole release needs only that a forward waits for the
    W of the micro-batch that many before it."""
    limit = model.limit[r]
    if limit >= NO_LIMIT:
        return
    letters = model.letters(r)
    forwards = [x for x in letters if x % 3 == F]
    if len(forwards) == 1 and _chain(m, model, start, forwards[0], limit):
        return
    intervals, sizes = [], []
    for x in forwards:
        for n in range(model.count[x]):
            p = model.base[x] + n
            if model.give[p]:
                continue
            for y in (x + BACK, x + W):
                q = model.base[y] + n if n < model.count[y] else -1
                if q >= 0 and model.give[q]:
                    end = start[q] + model.duration[q]
                    length = m.new_int_var(0, best, "")
                    intervals.append(m.new_interval_var(start[p], length, end, ""))
                    sizes.append(model.give[q])
    m.add_cumulative(intervals, sizes, limit)


def _chain(m: Any, model: Model, start: list[Any], x: int, limit: int) -> bool:
    last = x + W if model.count[x + W] else x + BACK
    base, many = model.base[x], model.count[x]
    if model.count[last] != many or not model.take[base]:
        return False
    if any(model.give[p] for p in range(model.base[x + BACK], model.base[x + BACK] + many)) and (
        last != x + BACK
    ):
        return False
    room = limit // model.take[base]
    for n in range(room, many):
        q = model.base[last] + n - room
        m.add(start[base + n] >= start[q] + model.duration[q])
    return True


def _word(model: Model, hunt: Hunt, start: Sequence[int]) -> list[int]:
    """The flat word of these starts; what starts together goes by kind, what ends first first."""
    flat = [-1] * model.size
    for r in range(model.ranks):
        timed = sorted(
            (start[p], model.duration[p] > 0, x % 3, x)
            for x in model.letters(r)
            for p in range(model.base[x], model.base[x] + model.count[x])
        )
        for k, (_, _, _, x) in enumerate(timed):
            flat[int(hunt.t.word_at[r]) + k] = x
    return flat
