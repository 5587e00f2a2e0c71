"""CP-SAT on all parts of a small problem: a better order, or the proof that there is none."""

from typing import Any

from stretto.compiler.bounds.parts.best import windows_of
from stretto.compiler.bounds.parts.graph import parts_graph
from stretto.compiler.bounds.parts.rank_as_chain import rank_chains
from stretto.compiler.order.engines.cpsat import affordable, available
from stretto.compiler.order.engines.cpsat.solver import solved, solver
from stretto.compiler.order.engines.parts.instance import Lanes, PartsInstance, clock
from stretto.compiler.order.engines.parts.state import PartsSearch
from stretto.compiler.order.open_search import WORK

LARGEST = 400
"""Operations at once."""

UNIT = 0.03
"""Deterministic seconds of the solver that count as one unit of effort: what annealing takes for
one."""


def run(state: PartsSearch, share: float) -> None:
    """Improve the best lanes, or prove that none are better. Raises `SearchDone`."""
    if not available() or state.instance.size > LARGEST or state.span:
        return
    if not affordable(state.budget, state.left() * share):
        return
    from ortools.sat.python import cp_model

    seconds = max(0.1, state.left() * share * (1 if state.budget.effort is None else UNIT))
    best = state.best
    m = cp_model.CpModel()
    starts = _model(m, state, best.value)
    timed = clock(state.instance, best.lanes)
    for i, variable in enumerate(starts[:-1]):
        m.add_hint(variable, timed.start[i] if timed else 0)
    m.minimize(starts[-1])
    one = solver(state.budget, seconds, state.budget.seed)
    status, interrupted = solved(one, m, state.stopped)
    if state.budget.effort is not None:
        state.spent += int(seconds / UNIT * WORK)
    if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        state.submit(_lanes(state.instance, [one.value(v) for v in starts[:-1]]), "cpsat")
    if interrupted:
        raise KeyboardInterrupt
    if status == cp_model.OPTIMAL:
        state.prove(round(one.objective_value))


def _model(m: Any, state: PartsSearch, most: int) -> list[Any]:
    """Fill `m` with the orders whose makespan is at most `most` ticks: the start of every
    operation, and last the makespan. How early and how late a part can start, and what memory
    forces, is from the theorems."""
    instance, graph = state.instance, parts_graph(state.problem)
    end = m.new_int_var(state.bound, most, "")
    head, tail = windows_of(graph, rank_chains(graph))
    starts = []
    for i, ticks in enumerate(instance.ticks):
        starts.append(m.new_int_var(head[i], max(head[i], most - ticks - tail[i]), ""))
        if tail[i]:
            m.add(end >= starts[i] + ticks + tail[i])
    for a, b, lag in graph.edges:
        m.add(starts[b] >= starts[a] + instance.ticks[a] + lag)
    rows: list[list[Any]] = [[] for _ in range(instance.lanes)]
    for i, ticks in enumerate(instance.ticks):
        rows[instance.lane[i]].append(m.new_fixed_size_interval_var(starts[i], ticks, ""))
        if not instance.after[i]:
            m.add(end >= starts[i] + ticks)
    for row in rows:
        if row:
            m.add_no_overlap(row)
    _memory(m, instance, starts, most)
    return [*starts, end]


def _memory(m: Any, instance: PartsInstance, starts: list[Any], most: int) -> None:
    """What is held at each moment."""
    rows: list[list[tuple[Any, int]]] = [[] for _ in range(instance.ranks)]
    for grains, taken_by, freed_by in instance.holdings:
        freed = m.new_int_var(0, most, "")
        length = m.new_int_var(0, most, "")
        for i in freed_by:
            m.add(freed >= starts[i] + instance.ticks[i])
        held = m.new_interval_var(starts[taken_by], length, freed, "")
        rows[instance.rank(taken_by)].append((held, grains))
    for rank, row in enumerate(rows):
        if row:
            held = [one for one, _ in row]
            m.add_cumulative(held, [grains for _, grains in row], instance.limit[rank])


def _lanes(instance: PartsInstance, start: list[int]) -> Lanes:
    """The lanes of a solution; what starts at once on a lane ends first if it takes no time."""
    lanes: Lanes = [[] for _ in range(instance.lanes)]
    for i in sorted(range(instance.size), key=lambda i: (start[i], start[i] + instance.ticks[i])):
        lanes[instance.lane[i]].append(i)
    return lanes
