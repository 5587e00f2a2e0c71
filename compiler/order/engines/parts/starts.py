"""The orders that people have published, for stages that are cut into parts: sequences of all parts
of every rank.

They are those of `published`, for the same stages whole, with each overlapped pair interleaved as
`X | Y` of an order is (`problem/interleave`); beside them the rule of Megatron's and Kimi's overlap
of all-to-all: 1F1B, interleaved or not, with one forward more ahead, so that each further forward
meets the backward of an older micro-batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from msgspec.structs import replace

from stretto.compiler.order.engines.parts.instance import Lanes
from stretto.compiler.order.engines.published import published_schedules
from stretto.compiler.order.engines.published.placement import placement_of, ranks_of
from stretto.compiler.order.engines.published.writer import OpUnit, RankWriter, cut
from stretto.compiler.order.kernels.instance import SearchInstance, instance_of
from stretto.compiler.order.kernels.op_classes import (
    backward_of,
    forward_of,
    kind_of,
    stage_of,
    weight_of,
)
from stretto.compiler.problem.expand import expand
from stretto.compiler.problem.interleave import interleave
from stretto.compiler.problem.problem import Problem
from stretto.compiler.problem.spec import NONE, Costs, Kind, Operation, Pair, Spec, Stage
from stretto.compiler.problem.strands import Strand
from stretto.compiler.problem.wholes import parts_of, strand

PAIRED = "moe_1f1b"
"""The name of 1F1B with one forward more ahead, in pairs."""

NAMES = {"dualpipe": "deepseek_v3", "dualpipe_v": "deepseek_v3_v"}
"""Published orders that have another name where stages are cut into parts."""


def starts(problem: Problem) -> Iterator[tuple[str, Lanes]]:
    """Name and lanes of every published order that fits the placement."""
    whole = instance_of(expand(whole_stages(problem.spec)))
    writer = _PartsWriter(problem, whole)
    seen: set[tuple[tuple[int, ...], ...]] = set()
    for name, ranks in (*published_schedules(whole, _WholeBackwards), *_paired(whole)):
        lanes = writer.lanes(ranks)
        key = tuple(map(tuple, lanes))
        if key not in seen:
            seen.add(key)
            yield NAMES.get(name, name), lanes


def whole_stages(spec: Spec) -> Spec:
    """The same stages whole, every two operations of which may overlap."""
    lines = tuple(
        replace(line, stages=tuple(_whole(stage) for stage in line.stages))
        for line in spec.pipelines
    )
    places = [(p, s, stage) for p, line in enumerate(lines) for s, stage in enumerate(line.stages)]
    pairs = [
        Pair(one.rank, (p, s), "B", (q, t), max(one.F, other.B))
        for p, s, one in places
        for q, t, other in places
        if one.rank == other.rank
    ]
    return replace(
        spec,
        pipelines=lines,
        overlap=("B",),
        pairs=tuple(pairs),
        exceptions=(),
        exceptional_pairs=(),
        rules=(),
        order=("",) * spec.ranks,
        written=(),
        streams=(),
        parts=(),
    )


def _whole(stage: Stage) -> Stage:
    """Its parts' memory counts from the start of its forward."""
    more = sum(one.activation for one in stage.parts)
    return replace(stage, activation=stage.activation + more, kept=stage.kept + more, parts=())


def _paired(whole: SearchInstance) -> Iterator[tuple[str, list[list[OpUnit]]]]:
    """1F1B in pairs, for chains and loops: first with one forward more ahead, then with more."""
    placement = placement_of(whole)
    if placement is None or placement.family not in ("chain", "loop"):
        return
    line, ranks = placement.lines[0], whole.ranks
    chunks, many = len(line) // ranks, whole.count[forward_of(line[0])]
    if not whole.count[backward_of(line[0])]:
        return
    group = many if chunks == 1 else ranks
    for more in (1, 2, ranks):
        written: list[list[OpUnit]] = [[] for _ in range(ranks)]
        for r, rank in enumerate(ranks_of(whole, line)):
            ahead = ranks - 1 - r if chunks == 1 else 2 * (ranks - 1 - r) + (chunks - 1) * group
            pen = _WholeBackwards(whole)
            visits = partial(_visits, line[r::ranks], group, many)
            _in_pairs(pen, visits(False), visits(True), ahead + more)
            written[rank] = cut(whole, pen.units)
        yield PAIRED, written


def _visits(stages: Sequence[int], group: int, many: int, back: bool) -> list[int]:
    """The stages of a rank in the order in which groups of micro-batches visit them."""
    order = stages[::-1] if back else stages
    return [
        stage
        for first in range(0, many, group)
        for stage in order
        for _ in range(min(group, many - first))
    ]


def _in_pairs(pen: RankWriter, forward: list[int], backward: list[int], warmup: int) -> None:
    """Forwards for the warm-up, then pairs, then what backwards are left."""
    first = min(len(forward), warmup)
    for stage in forward[:first]:
        pen.f(stage)
    paired = len(forward) - first
    for f, b in zip(forward[first:], backward, strict=False):
        pen.fb(f, b)
    for stage in backward[paired:]:
        pen.b(stage)


class _WholeBackwards(RankWriter):
    """Writes a backward that takes its weight gradient along as one unit: its parts alternate."""

    def b(self, stage: int) -> None:
        """The two as one unit."""
        weight = (weight_of(stage),) if self.instance.count[weight_of(stage)] else ()
        self.units.append((backward_of(stage), *weight))


@dataclass(slots=True)
class _Counts:
    """How far a stage has come: the micro-batches whose weight gradients wait, oldest first, and
    how many forwards and backwards there were."""

    waiting: list[int]
    forwards: int = 0
    backwards: int = 0

    def take(self, kind: Kind) -> int:
        """The micro-batch of the next operation of this kind."""
        if kind == "F":
            self.forwards += 1
            return self.forwards - 1
        if kind == "W":
            return self.waiting.pop(0)
        if kind == "I":
            self.waiting.append(self.backwards)
        self.backwards += 1
        return self.backwards - 1


class _PartsWriter:
    """From units of whole operations to lanes of parts."""

    def __init__(self, problem: Problem, whole: SearchInstance):
        self.problem, self.whole = problem, whole
        self.index = {operation: i for i, operation in enumerate(problem.operations)}
        self.costs = Costs(problem.spec)
        self.split = problem.spec.split_backward

    def lanes(self, ranks: Sequence[Sequence[OpUnit]]) -> Lanes:
        """The lanes of these units of every rank."""
        streams = len(self.problem.spec.streams)
        lanes: Lanes = [[] for _ in range(self.problem.spec.ranks * streams)]
        for rank, units in enumerate(ranks):
            pens: dict[int, _Counts] = {}
            for unit in units:
                for i in self._unit(unit, pens):
                    lanes[rank * streams + self.problem.stream[i]].append(i)
        return lanes

    def _unit(self, unit: OpUnit, counts: dict[int, "_Counts"]) -> list[int]:
        """The parts of a unit. `counts`: by stage what came before."""
        parts = []
        for x in unit:
            kind = ("F", "I" if self.split else "B", "W")[kind_of(x)]
            if kind == "W" and len(unit) == 2:
                continue  # it went along
            if kind == "I" and len(unit) == 2:
                kind = "B"
            seen = counts.setdefault(stage_of(x), _Counts([]))
            parts.append(self._operation(kind, stage_of(x), seen.take(kind)))
        if len(parts) == 1:
            return [self.index[o] for o in parts[0]]
        other, begins = parts
        found = interleave(self._strand(begins), self._strand(other)).sequence
        return [self.index[(begins, other)[o][k]] for o, k in found]

    def _operation(self, kind: Kind, g: int, microbatch: int) -> list[Operation]:
        p, s = self.whole.stages[g]
        own = parts_of(kind, self.problem.spec.parts[p][s], self.split)
        return [Operation(k, p, s, microbatch, NONE, part) for k, part in own]

    def _strand(self, operations: Sequence[Operation]) -> Strand:
        _, p, s, *_ = operations[0]
        own = [(o.kind, o.part) for o in operations]
        ticks = {(o.kind, o.part): self.costs.of(o) for o in operations}
        return strand(own, self.problem.spec.parts[p][s], lambda kind, k: ticks[kind, k])
