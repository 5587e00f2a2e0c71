"""The Problem of a Spec with parts, made a second time: operation by operation, from what the
language says of them. What `expand` makes is compared with it."""

from collections.abc import Iterator

from stretto.compiler.problem.problem import EdgeKind, Holding, Problem
from stretto.compiler.problem.spec import NONE, Costs, Operation, Spec
from stretto.compiler.problem.topology import Topology


def parts_problem(spec: Spec) -> Problem:
    """All operations, and what each needs. Orders are left out."""
    costs, problem = Costs(spec), Problem(spec, *([] for _ in range(12)))
    for p, line in enumerate(spec.pipelines):
        for s, stage in enumerate(line.stages):
            for one in _operations(spec, p, s):
                problem.operations.append(one)
                problem.rank.append(stage.rank)
                problem.stream.append(spec.parts[p][s][one.part].stream)
                problem.duration.append(costs.of(one))
                problem.overlaps_with.append(NONE)
                problem.at.append(line.at)
    index = {one: i for i, one in enumerate(problem.operations)}
    edges = [*_edges(spec, index), *((r.earlier, r.later, EdgeKind.RULE, 0) for r in spec.rules)]
    for earlier, later, why, lag in edges:
        problem.tail.append(index[earlier])
        problem.head.append(index[later])
        problem.why.append(why)
        problem.lag.append(lag)
    for grains, taken, freed in _holdings(spec, index):
        problem.holdings.append(Holding(grains, index[taken], tuple(index[one] for one in freed)))
    return problem


def _operations(spec: Spec, p: int, s: int) -> Iterator[Operation]:
    line, chain = spec.pipelines[p], spec.parts[p][s]
    numbers, mirrored = range(len(chain)), range(len(chain) - 1, -1, -1)
    for m in range(line.microbatches):
        yield from (Operation("F", p, s, m, part=k) for k in numbers)
    for m in range(line.microbatches if not line.forward_only else 0):
        kind = "I" if spec.split_backward else "B"
        yield from (Operation(kind, p, s, m, part=k) for k in mirrored)
    for m in range(line.microbatches if not line.forward_only and spec.split_backward else 0):
        yield from (Operation("W", p, s, m, part=k) for k in mirrored if not chain[k].stream)


Edge = tuple[Operation, Operation, EdgeKind, int]


def _edges(spec: Spec, index: dict[Operation, int]) -> Iterator[Edge]:
    """What each operation needs."""
    topology = Topology(spec)
    for one in index:
        last = len(spec.parts[one.pipeline][one.stage]) - 1
        if one.kind == "W":
            yield one._replace(kind="I"), one, EdgeKind.LOCAL, 0
        elif one.kind == "F":
            if one.part:
                yield one._replace(part=one.part - 1), one, EdgeKind.LOCAL, 0
            if one.part == last:
                yield from _handed_on(spec, topology, one, index)
        elif one.part == last:
            yield one._replace(kind="F"), one, EdgeKind.LOCAL, 0
        else:
            yield one._replace(part=one.part + 1), one, EdgeKind.LOCAL, 0


def _handed_on(
    spec: Spec, topology: Topology, one: Operation, index: dict[Operation, int]
) -> Iterator[Edge]:
    """A stage's output goes to the next, its gradient comes back."""
    for flow in topology.leaving[one.pipeline, one.stage]:
        q, t = flow.target
        after = one._replace(pipeline=q, stage=t, part=0)
        yield one, after, EdgeKind.ACTIVATION, flow.ticks
        if flow.trains:
            back = "I" if spec.split_backward else "B"
            before = after._replace(kind=back)
            yield before, one._replace(kind=back), EdgeKind.GRADIENT, flow.ticks_back


def _holdings(
    spec: Spec, index: dict[Operation, int]
) -> Iterator[tuple[int, Operation, list[Operation]]]:
    for one in index:
        if one.kind != "F":
            continue
        line, chain = spec.pipelines[one.pipeline], spec.parts[one.pipeline][one.stage]
        stage = line.stages[one.stage]
        back = one._replace(kind="I" if spec.split_backward else "B")
        weights = [back._replace(kind="W", part=k) for k, x in enumerate(chain) if not x.stream]
        end = [back._replace(part=0)]
        kept = end + (weights if spec.split_backward else [])
        own = [back._replace(kind="W")] if back._replace(kind="W") in index else [back]
        if line.forward_only:
            end = kept = own = [one._replace(part=len(chain) - 1)]
        if one.part == 0 and stage.activation > stage.kept:
            yield stage.activation - stage.kept, one, end
        if one.part == 0 and stage.kept:
            yield stage.kept, one, kept
        if stage.parts[one.part].activation:
            yield stage.parts[one.part].activation, one, own
