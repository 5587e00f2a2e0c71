"""CP-SAT on the whole problem: proof, and the last polish. It is given our bound as the objective's
lower limit, our order as a hint, and what the bounds know of single operations. What makes it
strong is the propagation that it does for sequences on request: with it instances of 200 operations
close within seconds, often without a choice, which otherwise stay open for minutes; linear ones
of 576 too.
"""

from collections.abc import Sequence
from typing import Any

from stretto.compiler.order.engines.cpsat import large_neighbourhood as stretches
from stretto.compiler.order.engines.cpsat.constraints import Moments, constraints, places
from stretto.compiler.order.engines.cpsat.cuts import complete, implied
from stretto.compiler.order.engines.cpsat.solver import solved, solver
from stretto.compiler.order.kernels.evaluator import evaluate
from stretto.compiler.order.kernels.instance import Model
from stretto.compiler.order.kernels.jit import ints
from stretto.compiler.order.kernels.sequences import units
from stretto.compiler.order.search_state import Hunt
from stretto.compiler.problem.spec import NONE

LARGEST = 700  # operations at once
OFTEN = 600  # operations, up to which it often settles all at once


def suits(model: Model) -> bool:
    """Whether CP-SAT can do something for it."""
    small = model.size <= LARGEST and all(partner == NONE for partner in model.partner)
    return small or (model.size <= stretches.LARGEST and stretches.suits(model))


def solve(hunt: Hunt, word: Sequence[int], best: int, seconds: float) -> None:
    """Look for a word that is better than `word`, whose value is `best`, or prove that there is
    none: at once, and where that does not settle it stretch by stretch. Raises `Stop` when the
    best is good enough."""
    pieces = stretches.suits(hunt.model)
    share = 1.0
    if pieces:
        share = 0.0 if hunt.model.size > LARGEST else 0.1 if hunt.model.size > OFTEN else 0.5
    if share:
        _whole(hunt, word, best, share * seconds)
    if pieces:
        stretches.improve(hunt, hunt.best.word, (1 - share) * seconds)


def _whole(hunt: Hunt, word: Sequence[int], best: int, seconds: float) -> None:
    from ortools.sat.python import cp_model

    m = cp_model.CpModel()
    made = constraints(m, hunt.model, implied(hunt.model), hunt.bound, best - 1)
    _hint(m, hunt, made, word)
    m.minimize(made.goal)
    one = solver(hunt.budget, seconds, hunt.budget.seed)
    status, interrupted = solved(one, m)
    everything = complete(hunt.model)
    if status == cp_model.INFEASIBLE and everything:
        hunt.prove(best)
    if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        hunt.offer(_word(hunt, made, one), "cpsat")
    if interrupted:
        raise KeyboardInterrupt
    if status == cp_model.OPTIMAL and everything:
        hunt.prove(round(one.objective_value))


def _hint(m: Any, hunt: Hunt, made: Moments, word: Sequence[int]) -> None:
    """The replayed word as what to try first."""
    state, t = hunt.state, hunt.t
    evaluate(state, ints(word), hunt.span)
    listed = units(t, word)
    together = set()
    for r, lane in enumerate(listed.lanes):
        used = [p for p in range(int(t.word_at[r]), int(t.word_at[r + 1])) if word[p] >= 0]
        for at, unit in zip(used, lane, strict=True):
            together.add(unit)
            for p in unit:
                m.add_hint(made.start[p], int(state.start[0][at]))
    for unit, one in made.overlaps.items():
        m.add_hint(one, int(unit in together))


def _word(hunt: Hunt, made: Moments, solver: Any) -> list[int]:
    """The flat word of the solution; what starts together goes by kind, what ends first first."""
    model, t = hunt.model, hunt.t
    stages = len(model.stages)
    letter = {p: x for x in range(len(model.rank)) for p in places(model, x)}
    overlapped = {unit for unit, one in made.overlaps.items() if solver.value(one)}
    whole = {q for q, one in made.whole.items() if solver.value(one)}
    gone = {q for _, q in overlapped} | {
        q - model.base[x] + model.base[x + 1] for q in whole for x in [letter[q]]
    }
    unit_of = {q: t.joint[letter[q] // 3] for q in whole}
    unit_of |= {p: t.pair[letter[p] // 3 * stages + letter[q] // 3] for p, q in overlapped}
    flat = [-1] * model.size
    for r in range(model.ranks):
        timed = sorted(
            (solver.value(made.start[p]), solver.value(made.end[p]), x % 3, x, p)
            for x in model.letters(r)
            for p in places(model, x)
            if p not in gone
        )
        for k, (_, _, _, x, p) in enumerate(timed):
            flat[int(t.word_at[r]) + k] = int(unit_of.get(p, x))
    return flat
