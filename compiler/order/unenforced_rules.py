"""Order → the rules in it that nothing enforces. A rank waits for another only through the data
that it is sent; a rule between two ranks holds in every run only where some chain of results leads
from the earlier operation to the later one. By the clock alone it would hold by luck."""

from itertools import product
from typing import Literal

from stretto.compiler.diagnostics.diagnostic import Diagnostic, Label
from stretto.compiler.order import Order
from stretto.compiler.order.earliest_start import Earliest
from stretto.compiler.problem.kinds import half
from stretto.compiler.problem.problem import EdgeKind
from stretto.compiler.problem.spec import NONE, Operation, show


def unenforced(order: Order, times: Earliest, *, evaluation: bool = False) -> list[Diagnostic]:
    """One `rule-between-ranks` for each such rule, in the order of the text; `evaluation`: the
    Order is of the forwards alone, and they say so."""
    problem, rank = order.problem, order.problem.rank
    if not problem.spec.rules:
        return []
    rules = [
        (a, b)
        for a, b, why in zip(problem.tail, problem.head, problem.why, strict=True)
        if why is EdgeKind.RULE
        and rank[a] != rank[b]
        and NONE not in (times.index[a], times.index[b])
    ]
    column: dict[int, int] = {}  # by lane of an earlier operation its place in a clock
    for a, _ in rules:
        column.setdefault(times.lane[a], len(column))
    heard = _heard(order, times, column, {b for _, b in rules})
    broken = {
        (problem.operations[a], problem.operations[b]): (a, b)
        for a, b in rules
        if heard[b][column[times.lane[a]]] < _mark(order, times, a)
    }
    found: dict[int, list[tuple[int, int]]] = {}  # by the rule's text
    for rule in problem.spec.rules:
        for earlier, later in product(_meant(rule.earlier, "last"), _meant(rule.later, "first")):
            if (earlier, later) in broken:
                found.setdefault(rule.at, []).append(broken[earlier, later])
    return [_unheard(order, at, pairs, evaluation) for at, pairs in found.items()]


def _meant(operation: Operation, which: Literal["first", "last"]) -> list[Operation]:
    """What a rule may mean by the operation: itself, or the half of it where it was split."""
    return list(dict.fromkeys((operation, half(operation, which))))


def _unheard(order: Order, at: int, pairs: list[tuple[int, int]], evaluation: bool) -> Diagnostic:
    """The rule at this place does not hold for these operations, earlier and later."""
    problem, spec, (a, b) = order.problem, order.problem.spec, pairs[0]
    earlier, later = (show(spec, problem.operations[i]) for i in (a, b))
    where = "in an evaluation nothing" if evaluation else "nothing"
    notes = ["a rank waits for another only where it needs its results"]
    if evaluation:
        notes.append("an evaluation runs the forwards alone: no gradient comes back")
    if len(pairs) > 1:
        notes.append(f"likewise for {len(pairs) - 1} more")
    return Diagnostic(
        code="rule-between-ranks",
        message=f"{where} makes `{later}` on rank {problem.rank[b]} wait for `{earlier}` on rank "
        f"{problem.rank[a]}",
        labels=(Label(spec.spans[at]),),
        notes=tuple(notes),
        help="write rules between operations of one rank",
    )


def _mark(order: Order, times: Earliest, i: int) -> int:
    """A number that grows along the lane: what has been done when operation i has ended. A
    message with the first half of a pair leaves before the second is done."""
    unit = order.lanes[times.lane[i]].units[times.index[i]]
    return 2 * times.index[i] + (unit[-1] == i)


def _heard(
    order: Order, times: Earliest, column: dict[int, int], asked: set[int]
) -> dict[int, tuple[int, ...]]:
    """For every operation that is asked for: up to which mark each of the lanes with a column had
    come, for all that the operation's lane knows when it starts; -1 for nothing. Streams of a rank
    tell each other what they need of each other. What an operation tells others is let go of when
    all of them know it."""
    problem, rank = order.problem, order.problem.rank
    inputs: list[list[int]] = [[] for _ in problem.operations]
    users = [0] * len(inputs)
    for a, b, why in zip(problem.tail, problem.head, problem.why, strict=True):
        beside = rank[a] == rank[b] and times.lane[a] != times.lane[b] and why < EdgeKind.ORDER
        told_of = why is EdgeKind.ACTIVATION or why is EdgeKind.GRADIENT or beside
        if told_of and times.index[a] != NONE:
            inputs[b].append(a)
            users[a] += times.index[b] != NONE
    sequence = sorted(
        (place, lane, k) for lane, row in enumerate(times.place) for k, place in enumerate(row)
    )
    heard: dict[int, tuple[int, ...]] = {}
    told: dict[int, tuple[int, ...]] = {}
    known = [(NONE,) * len(column)] * len(order.lanes)
    for _, lane, k in sequence:
        unit, own = order.lanes[lane].units[k], column.get(lane)
        now = known[lane]
        for a in (a for i in unit for a in inputs[i]):
            if told[a] is not now:
                now = tuple(map(max, now, told[a]))
            users[a] -= 1
            if not users[a]:
                del told[a]
        known[lane] = now
        for i in unit:
            if i in asked:
                heard[i] = now
            if users[i]:
                mark = _mark(order, times, i)
                told[i] = now if own is None else (*now[:own], mark, *now[own + 1 :])
    return heard
