"""Order with parts → the same order with every operation whole, on one stream: how stages that have
no parts run it. Each stands where its last part stood in the sequence in which parts are issued, a
W not before its I. So it can finish, whatever the order was: what one operation needs of another it
needs from its last part. A stage's activation is taken no earlier then, and freed no later. What
parts take on top can be held for longer, so that the order may break a limit that its parts kept:
the proof says so."""

from msgspec.structs import replace

from stretto.compiler.order import WRITTEN, Order
from stretto.compiler.order.earliest_start import earliest
from stretto.compiler.order.written import order_like, written
from stretto.compiler.problem.expand import expand
from stretto.compiler.problem.spec import Operation, Spec, Unit, digest
from stretto.compiler.problem.whole import whole_of, whole_spec
from stretto.compiler.program.issue import issue

PlacedOperation = tuple[Operation, int]
"""An operation, and the index in `Spec.spans` of the text that asks for it."""


def whole_order(order: Order) -> Order:
    """The Order, of a Problem whose stages are whole. Raises `Rejected`: `deadlock`, where a rule
    holds between parts and not between the operations that they are of."""
    spec = whole_spec(order.problem.spec)
    rows = [_row(spec, steps) for steps in _steps(order)]
    fixed = replace(
        spec,
        written=tuple([tuple([Unit((one,), at) for one, at in row]) for row in rows]),
        order=tuple([digest([(one,) for one, _ in row]) for row in rows]),
    )
    problem = expand(fixed)
    if order.engine == WRITTEN:
        return written(problem)
    sequences = [[(one,) for one, _ in row] for row in rows]
    return order_like(expand(spec), sequences, order.engine)


def _steps(order: Order) -> list[list[PlacedOperation]]:
    """The parts of every rank as they are issued."""
    problem = order.problem
    found: list[list[PlacedOperation]] = []
    for units in issue(order, earliest(order)).ranks:
        numbers = [order.lanes[lane].units[k][0] for lane, k in units]
        found.append([(problem.operations[i], problem.at[i]) for i in numbers])
    return found


def _row(spec: Spec, steps: list[PlacedOperation]) -> list[PlacedOperation]:
    """One rank's operations, whole. A stage of whose parts none has a weight gradient has one that
    costs nothing."""
    places: dict[Operation, tuple[int, int]] = {}  # and a W stands behind an I at the same place
    at: dict[Operation, int] = {}
    for place, (part, line) in enumerate(steps):
        one = whole_of(part)
        at[one] = line
        places[one] = place, 0
        if one.kind == "I":  # a W comes no earlier, and may come later
            weight = one._replace(kind="W")
            at[weight] = at.get(weight, line)
            places[weight] = place, 1
    return [(one, at[one]) for one in sorted(places, key=places.__getitem__)]
