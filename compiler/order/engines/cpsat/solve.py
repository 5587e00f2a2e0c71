"""CP-SAT on the whole problem: proof, and the last polish. It is given our bound as the objective's
lower limit, our order as a hint, and what the bounds know of single operations. What makes it
strong is the propagation that it does for sequences on request: with it instances of 200 operations
close within seconds, often without a choice, which otherwise stay open for minutes; linear ones
of 576 too.
"""

from collections.abc import Sequence
from typing import Any

from stretto.compiler.order.engines.cpsat import large_neighbourhood as lns
from stretto.compiler.order.engines.cpsat.constraints import CpVariables, constraints, ops_of
from stretto.compiler.order.engines.cpsat.cuts import covers_problem, cuts_of
from stretto.compiler.order.engines.cpsat.solver import solved, solver
from stretto.compiler.order.kernels.evaluator import evaluate
from stretto.compiler.order.kernels.instance import SearchInstance
from stretto.compiler.order.kernels.jit import ints
from stretto.compiler.order.kernels.op_classes import BACK, W, kind_of, stage_of
from stretto.compiler.order.kernels.sequences import expand_units, pair_of
from stretto.compiler.order.search_state import SearchState
from stretto.compiler.problem.spec import NONE

LARGEST = 700  # operations at once
OFTEN = 600  # operations, up to which it often settles all at once


def suits(instance: SearchInstance) -> bool:
    """Whether CP-SAT can do something for it."""
    small = instance.size <= LARGEST and all(partner == NONE for partner in instance.partner)
    return small or (instance.size <= lns.LARGEST and lns.suits(instance))


def solve(state: SearchState, sequence: Sequence[int], best: int, seconds: float) -> None:
    """Look for a sequence that is better than `sequence`, whose value is `best`, or prove that
    there is none: at once, and where that does not settle it stretch by stretch. Raises `Stop` when
    the best is good enough."""
    pieces = lns.suits(state.instance)
    share = 1.0
    if pieces:
        share = (
            0.0 if state.instance.size > LARGEST else 0.1 if state.instance.size > OFTEN else 0.5
        )
    if share:
        _whole(state, sequence, best, share * seconds)
    if pieces:
        lns.improve(state, state.best.sequence, (1 - share) * seconds)


def _whole(state: SearchState, sequence: Sequence[int], best: int, seconds: float) -> None:
    from ortools.sat.python import cp_model

    m = cp_model.CpModel()
    made = constraints(m, state.instance, cuts_of(state.instance), state.bound, best - 1)
    _hint(m, state, made, sequence)
    m.minimize(made.goal)
    if state.stopped():
        return
    one = solver(state.budget, seconds, state.budget.seed)
    status, interrupted = solved(one, m, state.stopped)
    everything = covers_problem(state.instance)
    if status == cp_model.INFEASIBLE and everything:
        state.prove(best)
    if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        state.submit(_word(state, made, one), "cpsat")
    if interrupted:
        raise KeyboardInterrupt
    if status == cp_model.OPTIMAL and everything:
        state.prove(round(one.objective_value))


def _hint(m: Any, state: SearchState, made: CpVariables, sequence: Sequence[int]) -> None:
    """The replayed sequence as what to try first."""
    s, t = state.evaluator, state.t
    evaluate(s, ints(sequence), state.span)
    expanded = expand_units(t, sequence)
    together = set()
    for r, lane in enumerate(expanded.ranks):
        used = [
            p for p in range(int(t.sequence_at[r]), int(t.sequence_at[r + 1])) if sequence[p] >= 0
        ]
        for at, unit in zip(used, lane, strict=True):
            together.add(unit)
            for p in unit:
                m.add_hint(made.start[p], int(s.start[0][at]))
    for unit, one in made.overlaps.items():
        m.add_hint(one, int(unit in together))


def _word(state: SearchState, made: CpVariables, solver: Any) -> list[int]:
    """The flat sequence of the solution; what starts together goes by kind, what ends first
    first."""
    instance, t = state.instance, state.t
    op_class = {p: x for x in range(len(instance.rank)) for p in ops_of(instance, x)}
    overlapped = {unit for unit, one in made.overlaps.items() if solver.value(one)}
    whole = {q for q, one in made.whole.items() if solver.value(one)}
    gone = {q for _, q in overlapped} | {
        q - instance.base[x] + instance.base[x - BACK + W] for q in whole for x in [op_class[q]]
    }
    unit_of = {q: t.full_backward[stage_of(op_class[q])] for q in whole}
    unit_of |= {p: pair_of(t, op_class[p], op_class[q]) for p, q in overlapped}
    flat = [-1] * instance.size
    for r in range(instance.ranks):
        timed = sorted(
            (solver.value(made.start[p]), solver.value(made.end[p]), kind_of(x), x, p)
            for x in instance.classes(r)
            for p in ops_of(instance, x)
            if p not in gone
        )
        for k, (_, _, _, x, p) in enumerate(timed):
            flat[int(t.sequence_at[r]) + k] = int(unit_of.get(p, x))
    return flat
