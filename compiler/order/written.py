"""Problem → Order, where the author wrote the whole order: it is taken as it stands."""

from stretto.compiler.order import WRITTEN, Lane, Order
from stretto.compiler.problem.problem import Problem


def incomplete(problem: Problem) -> list[int]:
    """The ranks whose written order leaves operations out."""
    missing = dict.fromkeys(range(problem.spec.ranks), 0)
    for rank in problem.rank:
        missing[rank] += 1
    for rank, units in enumerate(problem.spec.written):
        missing[rank] -= sum(len(unit.operations) for unit in units)
    return [rank for rank, many in missing.items() if many]


def written(problem: Problem) -> Order:
    """The author's order, which must be complete on every rank. It can finish, since its edges
    are in the Problem and the Problem has no circle."""
    index = {operation: i for i, operation in enumerate(problem.operations)}
    lanes = [
        Lane(rank, 0, tuple([tuple([index[o] for o in operations]) for operations, _ in units]))
        for rank, units in enumerate(problem.spec.written)
    ]
    return Order(problem, tuple(lanes), WRITTEN)
