"""A Program's order under another Spec: timed anew, and as the start of a short search that can
only make it better. For demands that are eased.
"""

from typing import Any

from stretto.compiler.bounds.bound import bound
from stretto.compiler.order import Lane, Order
from stretto.compiler.order.budget import Budget
from stretto.compiler.order.check import check
from stretto.compiler.order.engines.restarts import polish
from stretto.compiler.order.engines.run import library, lists, offsets, warm
from stretto.compiler.order.fuse_backwards import merged
from stretto.compiler.order.kernels.arrays import Tables
from stretto.compiler.order.kernels.instance import BACK, W, letter, model
from stretto.compiler.order.kernels.replay import NOTHING
from stretto.compiler.order.kernels.sequences import complete, order_of
from stretto.compiler.order.search_state import Hunt, Stop, hunt
from stretto.compiler.problem.problem import Problem
from stretto.compiler.problem.spec import NONE, Operation
from stretto.compiler.program.program import Compute, Program

Units = list[list[tuple[Operation, ...]]]


def units_of(program: Program) -> Units:
    """For every rank its units in the order they run."""
    found: Units = []
    for row in program.ranks:
        units: list[tuple[Operation, ...]] = []
        unit = NONE
        for one in row:
            if type(one) is Compute:
                if one.unit != NONE and one.unit == unit:
                    units[-1] += (one.operation,)
                else:
                    units.append((one.operation,))
                unit = one.unit
        found.append(units)
    return found


def timed(units: Units, problem: Problem) -> int:
    """What the Problem's Spec minimizes (ticks) of this order of its operations. Raises
    `ValueError` where the order does not keep to the Spec."""
    index = {operation: i for i, operation in enumerate(problem.operations)}
    whole: dict[int, int] = {}  # backwards that the order runs whole: I to W
    for row in units:
        for unit in row:
            for o in unit:
                if o not in index and o.kind == "B":
                    whole[index[o._replace(kind="I")]] = index[o._replace(kind="W")]
    joined, _ = merged(problem, whole)
    index = {operation: i for i, operation in enumerate(joined.operations)}
    lanes = tuple(
        Lane(rank, 0, tuple(tuple(index[o] for o in unit) for unit in row))
        for rank, row in enumerate(units)
    )
    return _value(Order(joined, lanes, "again"))


def _value(order: Order) -> int:
    outcome = check(order)
    return outcome.span if order.problem.spec.minimize == "span" else outcome.makespan


def least(problem: Problem) -> int:
    """No order of the Problem takes fewer ticks."""
    return bound(problem).ticks


def better(units: Units, problem: Problem, budget: Budget) -> int | None:
    """The value (ticks) of the best order that the budget finds, starting from this one; None if
    there is none. Raises `KeyboardInterrupt`."""
    found = hunt(model(problem), budget, least(problem))
    warm(found)
    try:
        word = _word(units, problem, found.t)
        if word is not None:
            found.offer(word, "start")
        library(found)
        lists(found)
        if found.found:
            _search(found)
    except Stop:
        pass
    if not found.found:
        return None
    best = found.best
    return _value(order_of(found.model, found.t, best.word, best.engine))


def _search(found: Hunt) -> None:
    """What finds most in a short time: offsets where ranks have several stages, and annealing."""
    if found.budget.effort == 0:
        return
    if any(many > 1 for many in found.t.many):
        offsets(found, 0.4)
    polish(found, 1.0)


def _word(units: Units, problem: Problem, t: Tables) -> list[int] | None:
    """The order as the engines' flat word; None where they have no word for it."""
    lines = problem.spec.pipelines
    stages = [(p, s) for p, line in enumerate(lines) for s in range(len(line.stages))]
    at = {stage: g for g, stage in enumerate(stages)}
    word = [NOTHING] * len(t.ticks)
    for rank, row in enumerate(units):
        p, end = int(t.word_at[rank]), int(t.word_at[rank + 1])
        for unit in row:
            for u in _letters(unit, at, t):
                if p == end:
                    return None
                word[p] = u
                p += 1
    return word if complete(t, word) else None


def _letters(unit: tuple[Operation, ...], at: dict[tuple[int, int], int], t: Tables) -> list[int]:
    """A unit as the engines' units: one, or several where they cannot run it at once."""
    letters = [letter(o, at) for o in unit]
    back = letters[-1]
    rest = [back - BACK + W] if unit[-1].kind == "B" and t.count[back - BACK + W] else []
    joint: Any = NONE
    if len(unit) == 2 and len(t.pair):
        joint = t.pair[letters[0] // 3 * (len(t.rank) // 3) + back // 3]
    elif len(unit) == 1 and rest:
        joint = t.joint[back // 3]
    if joint < 0:
        return [*letters, *rest]
    return [int(joint)] if t.merged[joint] or not rest else [int(joint), *rest]
