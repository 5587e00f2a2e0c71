"""Problem → Order, where the units of every rank are known already: the order that the author
wrote, which is taken as it stands, or that of another Program."""

from collections.abc import Sequence

from stretto.compiler.order import WRITTEN, Order, RankOrder
from stretto.compiler.order.fuse_backwards import fuse_backwards
from stretto.compiler.problem.problem import Problem
from stretto.compiler.problem.spec import NONE, Operation


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
    return _order(problem, problem.written, WRITTEN)


def _order(problem: Problem, rows: Sequence[Sequence[tuple[int, ...]]], engine: str) -> Order:
    """The Order of these units, rank by rank; where stages are cut into parts, each stream has its
    own of them, in the same sequence."""
    streams = problem.spec.streams
    if not streams:
        lanes = tuple(RankOrder(rank, 0, tuple(row)) for rank, row in enumerate(rows))
        return Order(problem, lanes, engine)
    lanes = tuple(
        RankOrder(rank, stream, tuple(unit for unit in row if problem.stream[unit[0]] == stream))
        for rank, row in enumerate(rows)
        for stream in range(len(streams))
    )
    return Order(problem, lanes, engine, lists=tuple(tuple(i for (i,) in row) for row in rows))


def order_like(
    problem: Problem, ranks: Sequence[Sequence[tuple[Operation, ...]]], engine: str
) -> Order:
    """The Order in which every rank runs these units; where they have a whole B that the Problem
    has split, of the Problem with that backward in full. Raises `KeyError` for an operation that
    the Problem does not have. Whether it can finish is not looked at: see `check`."""
    index = {operation: i for i, operation in enumerate(problem.operations)}
    full: dict[int, int] = {}  # I to W
    for row in ranks:
        for unit in row:
            for o in unit:
                if o not in index and o.kind == "B" and o.part == NONE:
                    full[index[o._replace(kind="I")]] = index[o._replace(kind="W")]
    fused, _ = fuse_backwards(problem, full)
    index = {operation: i for i, operation in enumerate(fused.operations)}
    return _order(fused, [[tuple(index[o] for o in unit) for unit in row] for row in ranks], engine)
