"""Spec → Model: a relaxation of the Spec whose best order is no worse than any order of the Spec.
What the bounds prove of the Model therefore holds for every order of the Spec.

Operations of one kind of one stage (and slice) are a *strand*, one for each micro-batch. What is
relaxed: a backward that may run whole or as I and W is an I and a W of the least ticks either way
(a real B of the Spec has room for both inside it, and its memory comes back no earlier; a real I
or W is no shorter). An order that the author wrote for everything is left out, so that the bound
says how far it is from the best; where he fixed a part of it, that part is kept as edges.
Nothing else changes: durations, data, transfers, rules, memory and limits are the Spec's.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import gcd
from typing import NamedTuple

from stretto.compiler.problem.spec import NONE, Costs, Kind, Operation, Spec


class OpClass(NamedTuple):
    """The operations of one kind on one stage and slice; `many` micro-batches of them. Kind `B`
    stands for a backward that is never split."""

    kind: Kind
    pipeline: int
    stage: int
    slice: int
    rank: int
    size: int


class ClassEdge(NamedTuple):
    """Micro-batch i + shift of strand `head` starts no earlier than `lag` ticks after micro-batch
    i of strand `tail` has ended, for every i. `shift` >= 0."""

    tail: int
    head: int
    lag: int = 0
    shift: int = 0


OpKey = tuple[int, int]
"""One operation: a strand and a micro-batch."""


class OpEdge(NamedTuple):
    """The same between two operations, without lag."""

    tail: OpKey
    head: OpKey


class StageOps(NamedTuple):
    """The strands of one stage (and slice) that is trained: its forward, its backward, and its
    weight gradient where that may run apart. A forward takes `activation` grains when it starts;
    all but `kept` come back when the backward has ended, `kept` when the weight gradient has."""

    forward: int
    backward: int
    weight: int | None
    activation: int
    kept: int


class Residency(NamedTuple):
    """Memory that strand `take` takes when it starts and `give` gives back when it ends."""

    take: int
    give: int
    grains: int


@dataclass(frozen=True, slots=True)
class Relaxation:
    """`work[c][m]`: ticks that micro-batch m of strand c occupies its rank when it runs alone.
    `edges` are data edges and rules that hold for all micro-batches, `rules` the other rules,
    `turns` what the author fixed: for each rank groups of operations, one group after another."""

    spec: Spec
    classes: list[OpClass]
    work: list[list[int]]
    edges: list[ClassEdge]
    rules: list[OpEdge]
    turns: list[list[list[OpKey]]]
    stages: list[StageOps]
    limits: list[int | None]

    def residencies(self, rank: int) -> list[Residency]:
        """What the forwards of a rank leave in memory, in pieces that are given back at once."""
        found = []
        for forward, backward, weight, activation, kept in self.stages:
            if self.classes[forward].rank != rank:
                continue
            if activation > kept:
                found.append(Residency(forward, backward, activation - kept))
            if kept and weight is not None:
                found.append(Residency(forward, weight, kept))
        return found

    def op_edges(self) -> list[OpEdge]:
        """The edges that are not alike for all micro-batches."""
        return self.rules + [
            OpEdge(one, other)
            for groups in self.turns
            for before, after in pairwise(groups)
            for one in before
            for other in after
        ]

    def on(self, rank: int) -> list[int]:
        """The strands of a rank."""
        return [c for c, op_class in enumerate(self.classes) if op_class.rank == rank]


def relax(spec: Spec) -> Relaxation:
    """The Model of the Spec."""
    table: dict[tuple[Kind, int, int, int], int] = {}
    relaxed = Relaxation(
        spec, [], [], [], [], [], [], [limit and limit.grains for limit in spec.limits]
    )
    if not relaxed.limits:
        relaxed.limits.extend([None] * spec.ranks)
    _strands(relaxed, table)
    _whole(relaxed)
    _data(relaxed, table)
    _rules(relaxed, table)
    _fixed(relaxed, table)
    return relaxed


def _slices(spec: Spec) -> range | tuple[int]:
    return range(spec.slices) if spec.slices else (NONE,)


def _strands(relaxed: Relaxation, table: dict[tuple[Kind, int, int, int], int]) -> None:
    """The strands, their work, and what memory they take and give."""
    spec, costs = relaxed.spec, _Least(relaxed.spec)
    split = spec.split_backward or any(op.kind in "IW" for op in _written(spec))

    def add(kind: Kind, p: int, s: int, k: int, work: list[int]) -> int:
        table[kind, p, s, k] = len(relaxed.classes)
        line = spec.pipelines[p]
        relaxed.classes.append(OpClass(kind, p, s, k, line.stages[s].rank, line.microbatches))
        relaxed.work.append(work)
        return table[kind, p, s, k]

    for p, pipeline in enumerate(spec.pipelines):
        for s, stage in enumerate(pipeline.stages):
            for k in _slices(spec):
                forward = add("F", p, s, k, costs.ticks("F", p, s, k))
                if pipeline.forward_only:
                    continue
                whole = costs.ticks("B", p, s, k)
                if not split:
                    backward = add("B", p, s, k, whole)
                    relaxed.stages.append(StageOps(forward, backward, None, stage.activation, 0))
                    continue
                first = [min(b, i) for b, i in zip(whole, costs.ticks("I", p, s, k), strict=True)]
                second = [
                    min(b - i, w)
                    for b, i, w in zip(whole, first, costs.ticks("W", p, s, k), strict=True)
                ]
                backward, weight = add("I", p, s, k, first), add("W", p, s, k, second)
                relaxed.edges.append(ClassEdge(backward, weight))
                relaxed.stages.append(
                    StageOps(forward, backward, weight, stage.activation, stage.kept)
                )


def _whole(relaxed: Relaxation) -> None:
    """Take from the limits what no sum of the rank's activations can use."""
    for rank, limit in enumerate(relaxed.limits):
        sizes = [residency.grains for residency in relaxed.residencies(rank)]
        if limit is not None and sizes:
            relaxed.limits[rank] = limit - limit % gcd(*sizes)


class _Least:
    """Durations of a strand, one for each micro-batch."""

    def __init__(self, spec: Spec):
        self.spec, self.costs = spec, Costs(spec)
        self.special = {(o.kind, o.pipeline, o.stage, o.slice) for o, _ in spec.exceptions}

    def ticks(self, kind: Kind, p: int, s: int, k: int) -> list[int]:
        many = self.spec.pipelines[p].microbatches
        if (kind, p, s, k) in self.special:
            return [self.costs.of(Operation(kind, p, s, m, k)) for m in range(many)]
        return [self.costs.of(Operation(kind, p, s, 0, k))] * many


def _backward(
    table: dict[tuple[Kind, int, int, int], int], last: bool, p: int, s: int, k: int
) -> int:
    """The strand that ends (`last`) or starts a backward."""
    whole = table.get(("B", p, s, k))
    return table["W" if last else "I", p, s, k] if whole is None else whole


def _data(relaxed: Relaxation, table: dict[tuple[Kind, int, int, int], int]) -> None:
    """The edges along which activations and gradients flow, and those between slices."""
    spec = relaxed.spec
    transfer = {(t.source, t.target): t.ticks for t in spec.transfers}

    def edge(tail: int, head: int) -> None:
        a, b = relaxed.classes[tail].rank, relaxed.classes[head].rank
        relaxed.edges.append(ClassEdge(tail, head, transfer.get((a, b), 0) if a != b else 0))

    def flow(source: tuple[int, int], target: tuple[int, int], gradients: bool) -> None:
        for k in _slices(spec):
            edge(table["F", *source, k], table["F", *target, k])
            if gradients:
                edge(_backward(table, False, *target, k), _backward(table, False, *source, k))

    for p, pipeline in enumerate(spec.pipelines):
        learns = not pipeline.forward_only
        for s in range(len(pipeline.stages)):
            if s:
                flow((p, s - 1), (p, s), learns)
            for k in _slices(spec):
                if learns:
                    edge(table["F", p, s, k], _backward(table, False, p, s, k))
                if k > 0:
                    edge(table["F", p, s, k - 1], table["F", p, s, k])
                    if learns:
                        later = _backward(table, False, p, s, k)
                        edge(later, _backward(table, False, p, s, k - 1))
        for q, stage in pipeline.feeds:
            both = learns and not spec.pipelines[q].forward_only
            flow((p, len(pipeline.stages) - 1), (q, stage), both)


def _rules(relaxed: Relaxation, table: dict[tuple[Kind, int, int, int], int]) -> None:
    """Rules: those between two strands that hold at one distance for all micro-batches are one
    Edge, the others Singles."""
    families: dict[tuple[int, int, int], set[int]] = {}
    for later, earlier, _ in relaxed.spec.rules:
        tail = _strand(table, earlier, last=True)
        head = _strand(table, later, last=False)
        shift = later.microbatch - earlier.microbatch
        families.setdefault((tail, head, shift), set()).add(earlier.microbatch)
    for (tail, head, shift), bound in families.items():
        many = min(relaxed.classes[tail].size, relaxed.classes[head].size - shift)
        same = relaxed.classes[tail].size == relaxed.classes[head].size
        if same and shift >= 0 and bound == set(range(many)):
            relaxed.edges.append(ClassEdge(tail, head, 0, shift))
        else:
            relaxed.rules.extend(OpEdge((tail, m), (head, m + shift)) for m in sorted(bound))


def _strand(table: dict[tuple[Kind, int, int, int], int], operation: Operation, last: bool) -> int:
    """The strand of an operation; of a B that may be split its last or its first half."""
    kind, p, s, _, k, _ = operation
    return _backward(table, last, p, s, k) if kind == "B" else table[kind, p, s, k]


def _fixed(relaxed: Relaxation, table: dict[tuple[Kind, int, int, int], int]) -> None:
    """The part of an order that was written where it does not fix everything."""
    if complete(relaxed.spec):
        return
    for units in relaxed.spec.written:
        groups = []
        for operations, _ in units:
            group = []
            for op in operations:
                first, last = (_strand(table, op, last) for last in (False, True))
                group.append((first, op[3]))
                if last != first:
                    group.append((last, op[3]))
            groups.append(group)
        relaxed.turns.append(groups)


def complete(spec: Spec) -> bool:
    """Whether the author's order has every operation of the step (or he wrote none at all)."""
    if not spec.written:
        return True
    slices = max(spec.slices, 1)
    wanted = sum(
        line.microbatches * len(line.stages) * slices * (1 if line.forward_only else 3)
        for line in spec.pipelines
    )
    return wanted == sum({"F": 1, "B": 2, "I": 1, "W": 1}[op.kind] for op in _written(spec))


def _written(spec: Spec) -> Iterator[Operation]:
    """The operations of the written orders."""
    return (Operation(*op) for units in spec.written for unit in units for op in unit.operations)
