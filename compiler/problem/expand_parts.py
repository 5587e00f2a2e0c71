"""Spec → Problem where stages are cut into parts: every part of an operation is an operation.

Of a stage come first its forwards by micro-batch, the parts of each as they run; then its backwards
(I, or B where they are not split) by micro-batch, the parts of each as they run, from the last to
the first; then the weight gradients by micro-batch, in the sequence of their input gradients.
"""

from collections.abc import Iterator, Sequence

from stretto.compiler.problem.edge_lists import EdgeLists
from stretto.compiler.problem.problem import EdgeKind, Holding, Problem
from stretto.compiler.problem.spec import (
    NONE,
    Costs,
    Kind,
    Operation,
    Part,
    Spec,
    backward_kinds,
)
from stretto.compiler.problem.stage_memory import stage_holdings
from stretto.compiler.problem.topology import StageIndex, Topology


class _StageParts:
    """Where the operations of one stage stand: the numbers of each micro-batch follow those of the
    one before. `forward` and `backward` are the numbers of the first operation of micro-batch 0,
    `weights` has, as they run, the parts that have a weight gradient."""

    def __init__(self, chain: tuple[Part, ...], trains: bool, split: bool, first: int, many: int):
        self.chain, self.trains, self.many = chain, trains, many
        self.size = len(chain)
        self.weights = [
            i
            for i in reversed(range(self.size))
            if trains and "W" in backward_kinds(chain[i].stream, split)
        ]
        self.kind: Kind = "I" if split else "B"
        self.forward = first
        self.backward = first + self.size * many
        self.weight = self.backward + (self.size * many if trains else 0)
        self.end = self.weight + len(self.weights) * many
        self.rank_of_weight = {part: k for k, part in enumerate(self.weights)}

    def forwards(self, part: int) -> range:
        """The forwards of a part, by micro-batch; of part -1 those of the last."""
        at = self.forward + part % self.size
        return range(at, self.forward + self.size * self.many, self.size)

    def backwards(self, part: int) -> range:
        """The backwards of a part (I or B), by micro-batch; none without training."""
        if not self.trains:
            return range(0)
        at = self.backward + self.size - 1 - part % self.size
        return range(at, self.backward + self.size * self.many, self.size)

    def weight_gradients(self, part: int) -> range:
        """The weight gradients of a part, by micro-batch."""
        return range(self.weight + self.rank_of_weight[part], self.end, len(self.weights))

    def place(self, kind: Kind, part: int) -> range:
        """The operations of this kind of a part, by micro-batch."""
        if kind == "F":
            return self.forwards(part)
        return self.weight_gradients(part) if kind == "W" else self.backwards(part)

    def runs(self) -> Iterator[tuple[Kind, list[int]]]:
        """The kinds of operations with the parts of one micro-batch, as they are numbered."""
        yield "F", list(range(self.size))
        if self.trains:
            yield self.kind, list(reversed(range(self.size)))
            yield "W", self.weights


def parts_problem(spec: Spec) -> Problem:
    """The operations with their figures, memory and the edges along which data flows."""
    problem = Problem(spec, [], [], [], [], [], [], [], [], [], [], [], [])
    topology, edges, costs = Topology(spec), EdgeLists(problem), Costs(spec)
    stages: dict[StageIndex, _StageParts] = {}
    for p, line in enumerate(spec.pipelines):
        for s in range(len(line.stages)):
            first = len(problem.operations)
            chain, trains = spec.parts[p][s], not line.forward_only
            one = _StageParts(chain, trains, spec.split_backward, first, line.microbatches)
            stages[p, s] = one
            for kind, parts in one.runs():
                _add(problem, costs, (kind, p, s), parts)
            _inside(one, edges)
            _hold(problem, one, p, s)
    for (p, s), one in stages.items():
        for _, target, ticks, ticks_back, trains in topology.leaving[p, s]:
            other = stages[target]
            edges.add(one.forwards(-1), other.forwards(0), EdgeKind.ACTIVATION, ticks)
            if trains:
                edges.add(other.backwards(0), one.backwards(-1), EdgeKind.GRADIENT, ticks_back)
    return problem


def _add(
    problem: Problem, costs: Costs, which: tuple[Kind, int, int], parts: Sequence[int]
) -> None:
    """Add the operations of one kind of one stage: for each micro-batch its parts."""
    spec = problem.spec
    kind, p, s = which
    line = spec.pipelines[p]
    chain = spec.parts[p][s]
    operations = [
        Operation(kind, p, s, m, NONE, i) for m in range(line.microbatches) for i in parts
    ]
    problem.operations.extend(operations)
    problem.duration.extend(map(costs.of, operations))
    problem.stream.extend([chain[i].stream for i in parts] * line.microbatches)
    many = len(operations)
    problem.rank.extend([line.stages[s].rank] * many)
    problem.overlaps_with.extend([NONE] * many)
    problem.at.extend([line.at] * many)


def _inside(one: _StageParts, edges: EdgeLists) -> None:
    """The edges between the operations of one stage: along both chains, from the end of the forward
    to the backward, from an input gradient to its weight gradient."""
    for i in range(1, one.size):
        edges.add(one.forwards(i - 1), one.forwards(i), EdgeKind.LOCAL)
        edges.add(one.backwards(i), one.backwards(i - 1), EdgeKind.LOCAL)
    if one.trains:
        edges.add(one.forwards(-1), one.backwards(-1), EdgeKind.LOCAL)
    for i in one.weights:
        edges.add(one.backwards(i), one.weight_gradients(i), EdgeKind.LOCAL)


def _hold(problem: Problem, one: _StageParts, p: int, s: int) -> None:
    """What the stage holds in memory, micro-batch by micro-batch."""
    rows = [
        (grains, one.place(*taken_by), [one.place(*place) for place in freed_by])
        for grains, taken_by, freed_by in stage_holdings(problem.spec, p, s)
    ]
    for m in range(one.many):
        for grains, taken, freed in rows:
            problem.holdings.append(Holding(grains, taken[m], tuple([some[m] for some in freed])))


def stream_orders(
    spec: Spec, index: dict[Operation, int], problem: Problem, edges: EdgeLists
) -> None:
    """The edges of the written orders: on each stream of a rank its parts run one after the other,
    and streams do not wait for each other."""
    tail, head = [], []
    for units in spec.written:
        before = [NONE] * len(spec.streams)
        row: list[tuple[int, ...]] = []
        for (operation, *_), at in units:
            i = index[operation]
            problem.at[i] = at
            stream = problem.stream[i]
            if before[stream] != NONE:
                tail.append(before[stream])
                head.append(i)
            row.append((i,))
            before[stream] = i
        problem.written.append(row)
    edges.add(tail, head, EdgeKind.ORDER)
