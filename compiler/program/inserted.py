"""Order → Order with the operations that no order names, each right behind the unit of what it
accompanies (`OperationKind.behind`). An Order that has none comes back as it is. Behind stages that
are cut into parts there can be none yet: that is refused."""

from dataclasses import replace

from stretto.compiler.diagnostics.diagnostic import Diagnostic, Rejected
from stretto.compiler.order import Order, RankOrder
from stretto.compiler.problem.kinds import KINDS, OperationKind
from stretto.compiler.problem.problem import EdgeKind, Problem
from stretto.compiler.problem.spec import NONE, Costs


def inserted(order: Order) -> Order:
    """The Order, of a Problem that has these operations too. Raises `Rejected`: `not-yet`."""
    for kind in KINDS.values():
        if kind.behind:
            if order.problem.spec.parts:
                raise Rejected([_beside_parts(kind)])
            order = _with(order, kind)
    return order


def _beside_parts(kind: OperationKind) -> Diagnostic:
    return Diagnostic(
        "not-yet",
        f"a {kind.name} cannot stand behind `{kind.behind}` yet where stages are cut into parts",
        help="leave `split F into …` out",
    )


def _with(order: Order, kind: OperationKind) -> Order:
    """The Order with all operations of one such kind."""
    problem, beside = _extended(order.problem, kind)
    lanes = []
    for lane in order.lanes:
        units: list[tuple[int, ...]] = []
        for unit in lane.units:
            units.append(unit)
            units.extend([(beside[i],) for i in unit if i in beside])
        lanes.append(RankOrder(lane.rank, lane.stream, tuple(units)))
    return replace(order, problem=problem, lanes=tuple(lanes))


def _extended(problem: Problem, kind: OperationKind) -> tuple[Problem, dict[int, int]]:
    """The Problem with one more operation for each that the kind accompanies; and its number, by
    the number of that one."""
    spec, costs = problem.spec, Costs(problem.spec)
    of = [
        i
        for i, one in enumerate(problem.operations)
        if one.kind == kind.behind
        and not (kind.trains and spec.pipelines[one.pipeline].forward_only)
    ]
    first = len(problem.operations)
    added = [problem.operations[i]._replace(kind=kind.letter) for i in of]
    effects = [
        kind.memory(line.stages[one.stage], not line.forward_only)
        for one in added
        for line in (spec.pipelines[one.pipeline],)
    ]
    beside = {i: first + k for k, i in enumerate(of)}
    extended = Problem(
        spec=spec,
        operations=problem.operations + added,
        rank=problem.rank + [problem.rank[i] for i in of],
        stream=problem.stream + [problem.stream[i] for i in of],
        duration=problem.duration + [costs.of(one) for one in added],
        alloc=problem.alloc + [effect.alloc for effect in effects],
        free=problem.free + [effect.free for effect in effects],
        overlaps_with=problem.overlaps_with + [NONE] * len(of),
        at=problem.at + [problem.at[i] for i in of],
        tail=problem.tail + of,
        head=problem.head + list(beside.values()),
        lag=problem.lag + [0] * len(of),
        why=problem.why + [EdgeKind.LOCAL] * len(of),
    )
    return extended, beside
