"""Spec → Relaxation: a problem whose best order is no worse than any order of the Spec, so that
what the bounds prove of it holds for every order of the Spec.

Operations of one kind of one stage (and slice) are an *op class*, one operation for each
micro-batch. What is relaxed: a backward that may run whole or as I and W is an I and a W of the
least ticks either way (a real B has room for both inside it, and its memory comes back no earlier;
a real I or W is no shorter). An order that the author wrote for everything is left out, so that
the bound says how far it is from the best; where he fixed a part of it, that part is kept as edges.
Nothing else changes: durations, data, transfers, rules, memory and limits are the Spec's.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from math import gcd
from typing import NamedTuple

from stretto.compiler.problem.spec import NONE, Costs, Kind, Operation, Spec
from stretto.compiler.problem.topology import Topology

ClassKey = tuple[Kind, int, int, int]
"""Kind, pipeline, stage, slice."""

OpKey = tuple[int, int]
"""One operation: the index of its op class, and its micro-batch."""

TickTable = list[list[int]]
"""Ticks of every operation: `table[c][i]` of micro-batch i of op class c."""


class OpClass(NamedTuple):
    """The operations of one kind on one stage and slice; `size`: how many micro-batches there are.
    Kind `B` stands for a backward that is never split."""

    kind: Kind
    pipeline: int
    stage: int
    slice: int
    rank: int
    size: int


class ClassEdge(NamedTuple):
    """Micro-batch i + shift of op class `head` starts no earlier than `lag` ticks after micro-batch
    i of op class `tail` has ended, for every i. `shift` >= 0."""

    tail: int
    head: int
    lag: int = 0
    shift: int = 0


class OpEdge(NamedTuple):
    """One operation starts no earlier than another has ended."""

    tail: OpKey
    head: OpKey


class StageOps(NamedTuple):
    """The op classes of one stage (and slice) that is trained: its forward, its backward, and its
    weight gradient where that may run apart. A forward takes `activation` grains when it starts;
    all but `kept` come back when the backward has ended, `kept` when the weight gradient has."""

    forward: int
    backward: int
    weight: int | None
    activation: int
    kept: int


class Residency(NamedTuple):
    """Memory in grains that each operation of the class `alloc` takes when it starts, and the same
    micro-batch of the class `free` gives back when it ends."""

    alloc: int
    free: int
    grains: int


@dataclass(frozen=True, slots=True)
class Relaxation:
    """The relaxed problem.

    `index`: of every op class in `classes`. `work[c][i]`: ticks that micro-batch i of class c
    occupies its rank when it runs alone. `edges`: data edges, and rules that hold for all
    micro-batches. `rules`: the other rules. `fixed`: the part of an order that the author wrote:
    for each rank units of operations, one unit after another. `stages`: those that are trained.
    `limits`: grains per rank, rounded down to what its activations can add up to.
    """

    spec: Spec
    classes: list[OpClass]
    index: dict[ClassKey, int]
    work: TickTable
    edges: list[ClassEdge]
    rules: list[OpEdge]
    fixed: list[list[list[OpKey]]]
    stages: list[StageOps]
    limits: list[int | None]
    _ranks: "_ByRank" = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_ranks", _by_rank(self.classes, self.stages))

    @property
    def size(self) -> int:
        """How many operations there are."""
        return sum(op_class.size for op_class in self.classes)

    @property
    def ranks(self) -> list[int]:
        """The ranks that have op classes. One rank as one stage is a Relaxation too: whoever asks
        every rank of that does not look at all of the Spec's."""
        return list(self._ranks.classes)

    def on(self, rank: int) -> list[int]:
        """The op classes of a rank."""
        return list(self._ranks.classes.get(rank, ()))

    def trained(self, rank: int) -> list[StageOps]:
        """The stages of a rank that are trained."""
        return list(self._ranks.stages.get(rank, ()))

    def residencies(self, rank: int) -> list[Residency]:
        """What the forwards of a rank leave in memory, in pieces that are given back at once."""
        return list(_residencies(self._ranks.stages.get(rank, ())))

    def op_edges(self) -> list[OpEdge]:
        """The edges that are not alike for all micro-batches."""
        return self.rules + [
            OpEdge(one, other)
            for units in self.fixed
            for before, after in pairwise(units)
            for one in before
            for other in after
        ]


class _ByRank(NamedTuple):
    """By rank, so that what is asked of every rank does not look at all of them: the op classes,
    and the stages that are trained."""

    classes: dict[int, list[int]]
    stages: dict[int, list[StageOps]]


def _by_rank(classes: list[OpClass], stages: list[StageOps]) -> _ByRank:
    found = _ByRank({}, {})
    for c, op_class in enumerate(classes):
        found.classes.setdefault(op_class.rank, []).append(c)
    for stage in stages:
        found.stages.setdefault(classes[stage.forward].rank, []).append(stage)
    return found


def _residencies(stages: Iterable[StageOps]) -> Iterator[Residency]:
    for forward, backward, weight, activation, kept in stages:
        if activation > kept:
            yield Residency(forward, backward, activation - kept)
        if kept and weight is not None:
            yield Residency(forward, weight, kept)


def relax(spec: Spec) -> Relaxation:
    """The Relaxation of the Spec."""
    classes: list[OpClass] = []
    index: dict[ClassKey, int] = {}
    work: TickTable = []
    for key, ticks in _class_ticks(spec):
        _, p, s, _ = key
        index[key] = len(classes)
        line = spec.pipelines[p]
        classes.append(OpClass(*key, line.stages[s].rank, line.microbatches))
        work.append(ticks)
    stages = list(_stages(spec, index))
    limits = [limit and limit.grains for limit in spec.limits] or [None] * spec.ranks
    by_rank = _by_rank(classes, stages)
    for rank, limit in enumerate(limits):
        own = by_rank.stages.get(rank, ())
        sizes = [residency.grains for residency in _residencies(own)]
        if limit is not None and sizes:
            limits[rank] = limit - limit % gcd(*sizes)
    alike, rules = _rules(spec, classes, index)
    edges = [*_data(spec, index), *alike]
    fixed = list(_fixed(spec, index))
    return Relaxation(spec, classes, index, work, edges, rules, fixed, stages, limits)


def _slices(spec: Spec) -> range | tuple[int]:
    return range(spec.slices) if spec.slices else (NONE,)


def _places(spec: Spec) -> Iterator[tuple[int, int, int]]:
    """Every pipeline, stage and slice."""
    for p, line in enumerate(spec.pipelines):
        for s in range(len(line.stages)):
            for k in _slices(spec):
                yield p, s, k


def _class_ticks(spec: Spec) -> Iterator[tuple[ClassKey, list[int]]]:
    """Every op class, and the ticks of its operations."""
    costs = Costs(spec)
    special = {(o.kind, o.pipeline, o.stage, o.slice) for o, _ in spec.exceptions}
    split = spec.split_backward or not _kinds_written(spec).isdisjoint("IW")

    def ticks(kind: Kind, p: int, s: int, k: int) -> list[int]:
        size = spec.pipelines[p].microbatches
        if (kind, p, s, k) in special:
            return [costs.of(Operation(kind, p, s, m, k)) for m in range(size)]
        return [costs.of(Operation(kind, p, s, 0, k))] * size

    for place in _places(spec):
        yield ("F", *place), ticks("F", *place)
        if spec.pipelines[place[0]].forward_only:
            continue
        whole = ticks("B", *place)
        if not split:
            yield ("B", *place), whole
            continue
        first = [min(b, i) for b, i in zip(whole, ticks("I", *place), strict=True)]
        yield ("I", *place), first
        weight = ticks("W", *place)
        yield ("W", *place), [min(b - i, w) for b, i, w in zip(whole, first, weight, strict=True)]


def _stages(spec: Spec, index: dict[ClassKey, int]) -> Iterator[StageOps]:
    """The stages that are trained."""
    for p, s, k in _places(spec):
        stage, forward = spec.pipelines[p].stages[s], index["F", p, s, k]
        if ("B", p, s, k) in index:
            yield StageOps(forward, index["B", p, s, k], None, stage.activation, 0)
        elif ("I", p, s, k) in index:
            halves = index["I", p, s, k], index["W", p, s, k]
            yield StageOps(forward, *halves, stage.activation, stage.kept)


def _backward(index: dict[ClassKey, int], p: int, s: int, k: int, last: bool = False) -> int:
    """The op class that starts a backward, or the one that ends it (`last`)."""
    whole = index.get(("B", p, s, k))
    return index["W" if last else "I", p, s, k] if whole is None else whole


def _data(spec: Spec, index: dict[ClassKey, int]) -> Iterator[ClassEdge]:
    """The edges along which activations and gradients flow, and those between slices."""
    topology = Topology(spec)
    for (kind, p, s, k), head in index.items():
        for need in topology.needs(Operation(kind, p, s, 0, k)):
            yield ClassEdge(_class_of(index, need.operation), head, need.ticks)


def _rules(
    spec: Spec, classes: list[OpClass], index: dict[ClassKey, int]
) -> tuple[list[ClassEdge], list[OpEdge]]:
    """Rules: those between two op classes that hold at one distance for all micro-batches are one
    ClassEdge, the others OpEdges."""
    alike: list[ClassEdge] = []
    single: list[OpEdge] = []
    families: dict[tuple[int, int, int], set[int]] = {}
    for later, earlier, _ in spec.rules:
        tail, head = _class_of(index, earlier, last=True), _class_of(index, later)
        shift = later.microbatch - earlier.microbatch
        families.setdefault((tail, head, shift), set()).add(earlier.microbatch)
    for (tail, head, shift), microbatches in families.items():
        size = min(classes[tail].size, classes[head].size - shift)
        same = classes[tail].size == classes[head].size
        if same and shift >= 0 and microbatches == set(range(size)):
            alike.append(ClassEdge(tail, head, 0, shift))
        else:
            single.extend(OpEdge((tail, m), (head, m + shift)) for m in sorted(microbatches))
    return alike, single


def _class_of(index: dict[ClassKey, int], operation: Operation, last: bool = False) -> int:
    """The op class of an operation; of a B that may be split its first or its `last` half."""
    kind, p, s, _, k, _ = operation
    return _backward(index, p, s, k, last) if kind == "B" else index[kind, p, s, k]


def _fixed(spec: Spec, index: dict[ClassKey, int]) -> Iterator[list[list[OpKey]]]:
    """The part of an order that was written where it does not fix everything, rank by rank."""
    if complete(spec):
        return
    for units in spec.written:
        row = []
        for operations, _ in units:
            halves = (
                (_class_of(index, op, last), op.microbatch)
                for op in operations
                for last in (False, True)
            )
            row.append(list(dict.fromkeys(halves)))
        yield row


def complete(spec: Spec) -> bool:
    """Whether the author's order has every operation of the step (or he wrote none at all)."""
    if not spec.written:
        return True
    slices = max(spec.slices, 1)
    wanted = sum(
        line.microbatches * len(line.stages) * slices * (1 if line.forward_only else 3)
        for line in spec.pipelines
    )
    counts = {"F": 1, "B": 2, "I": 1, "W": 1}
    return wanted == sum(
        [counts[op[0]] for units in spec.written for unit in units for op in unit.operations]
    )


def _kinds_written(spec: Spec) -> set[Kind]:
    """The kinds of operations in the written orders."""
    return {op[0] for units in spec.written for unit in units for op in unit.operations}
