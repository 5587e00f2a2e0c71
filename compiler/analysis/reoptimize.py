"""A Program's order under another Spec: timed anew, and as the start of a short search that can
only make it better. For demands that are eased.
"""

from msgspec.structs import replace

from stretto.compiler.bounds.bound import bound
from stretto.compiler.order import Order
from stretto.compiler.order.budget import Budget
from stretto.compiler.order.check import check
from stretto.compiler.order.search import improve
from stretto.compiler.order.written import order_like
from stretto.compiler.problem.problem import Problem
from stretto.compiler.problem.spec import Operation, Spec
from stretto.compiler.program.program import Program

Units = list[list[tuple[Operation, ...]]]


def step_spec(program: Program) -> Spec:
    """The Spec of what the Program runs: of forwards alone, without all that learns."""
    spec = program.spec
    if program.name == "train":
        return spec
    lines = tuple(replace(line, forward_only=True) for line in spec.pipelines)
    return replace(spec, pipelines=lines, rules=(), written=())


def units_of(program: Program) -> Units:
    """For every rank its units in the order they run."""
    return [program.operations(rank) for rank in range(len(program.ranks))]


def timed(units: Units, problem: Problem) -> int:
    """What the Problem's Spec minimizes (ticks) of this order of its operations. Raises
    `ValueError` where the order does not keep to the Spec."""
    return _value(order_like(problem, units, "again"))


def _value(order: Order) -> int:
    outcome = check(order)
    return outcome.span if order.problem.spec.minimize == "span" else outcome.makespan


def least(problem: Problem) -> int:
    """No order of the Problem takes fewer ticks."""
    return bound(problem).ticks


def better(units: Units, problem: Problem, budget: Budget) -> int | None:
    """The value (ticks) of the best order that the budget finds, starting from this one; None if
    there is none. Raises `KeyboardInterrupt`."""
    order = improve(problem, units, budget)
    return None if order is None else _value(order)
