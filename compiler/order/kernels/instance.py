"""Problem → `SearchInstance`: the same, as an order sees it that treats equal micro-batches as
equal.

The identical operations of one stage are an *op class*, and run in one fixed sequence (by index, if
nothing written speaks against it). Then an order is one *sequence* of op classes per rank, and only
these need to be searched. This costs nothing: rename the i-th forward, backward, weight gradient
that a stage runs "micro-batch i". The i-th forward of stage s + 1 has i finished forwards of stage
s before it, so the i-th of those is over too; likewise up the gradients, and memory depends on
counts alone. (It may cost something where rules or durations name single micro-batches.)

Operation n of class x has the number base[x] + n, called its op index. How classes are numbered
stands in `op_classes`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from stretto.compiler.order.kernels.op_classes import (
    BACK,
    F,
    W,
    backward_of,
    forward_of,
    kind_of,
    weight_of,
)
from stretto.compiler.problem.problem import EdgeKind, Problem
from stretto.compiler.problem.spec import NONE, Costs, Operation
from stretto.compiler.problem.topological import topological
from stretto.compiler.problem.topology import Topology

NO_LIMIT = 1 << 60
"""Grains: the limit of a rank that has none."""

StageNumbers = dict[tuple[int, int], int]
"""The number of each stage, by pipeline and stage within it."""


@dataclass(frozen=True, slots=True)
class SearchInstance:
    """See the module. By class: `rank`, `count`, `base`, `needs` (class and lag: operation n starts
    only `lag` ticks after the end of that class's operation n). By op index: `operation` (its
    number in the Problem), `duration`, `alloc`, `free`, `is_full` (a B that leaves no W to do),
    `forwards_before` (how many forwards of its stage must be over), `extra` (op index and lag, for
    the edges that `needs` does not say). `limit` by rank. `pairs`: ticks of a forward class and a
    backward class as one unit. `full_backward` by stage: ticks of its B, where I and W may be run
    as one. `fixed`: classes whose whole sequence on their rank is written. `partner` by op index:
    what it was written to overlap with; `alone`: op indices of what was written without a partner
    where such things may have one. `job` by stage: pipelines that feed each other share
    one."""

    problem: Problem
    ranks: int
    stages: tuple[tuple[int, int], ...]
    rank: list[int]
    count: list[int]
    base: list[int]
    needs: list[list[tuple[int, int]]]
    operation: list[int]
    duration: list[int]
    alloc: list[int]
    free: list[int]
    is_full: list[int]
    forwards_before: list[int]
    extra: dict[int, list[tuple[int, int]]]
    limit: list[int]
    pairs: dict[tuple[int, int], int]
    full_backward: list[int]
    fixed: list[bool]
    partner: list[int]
    alone: frozenset[int]
    job: list[int]
    slices: int

    @property
    def size(self) -> int:
        """How many operations there are."""
        return len(self.operation)

    def classes(self, rank: int) -> list[int]:
        """The op classes of a rank that have operations."""
        return [x for x, r in enumerate(self.rank) if r == rank and self.count[x]]

    def classes_by_rank(self) -> list[list[int]]:
        """The same of every rank."""
        found: list[list[int]] = [[] for _ in range(self.ranks)]
        for x, r in enumerate(self.rank):
            if self.count[x]:
                found[r].append(x)
        return found


def instance_of(problem: Problem) -> SearchInstance:
    """The SearchInstance of a Problem on compute streams alone."""
    spec = problem.spec
    stages = tuple((p, s) for p, line in enumerate(spec.pipelines) for s in range(len(line.stages)))
    at = {stage: g for g, stage in enumerate(stages)}
    sequences = _sequences(problem, at)
    count = [len(sequence) for sequence in sequences]
    base = [0]
    for many in count[:-1]:
        base.append(base[-1] + many)
    operation = [i for sequence in sequences for i in sequence]
    op_index = [0] * len(operation)
    for op, i in enumerate(operation):
        op_index[i] = op
    extra, partner = _extra(problem, op_index, sequences)
    return SearchInstance(
        problem=problem,
        ranks=spec.ranks,
        stages=stages,
        rank=[spec.pipelines[p].stages[s].rank for p, s in stages for _ in range(3)],
        count=count,
        base=base,
        needs=_needs(problem, at),
        operation=operation,
        duration=[problem.duration[i] for i in operation],
        alloc=[problem.alloc[i] for i in operation],
        free=[problem.free[i] for i in operation],
        is_full=[int(problem.operations[i].kind == "B") for i in operation],
        forwards_before=_forwards_before(problem, sequences),
        extra=extra,
        limit=[one.grains if one else NO_LIMIT for one in spec.limits] or [NO_LIMIT] * spec.ranks,
        pairs=_pairs(problem, stages, count),
        full_backward=_full_backward(problem, stages, count),
        fixed=_fixed(problem, at, count),
        partner=partner,
        alone=_alone(problem, op_index),
        job=_jobs(problem, stages),
        slices=max(1, spec.slices),
    )


def class_of(operation: Operation, at: StageNumbers) -> int:
    """The number of an operation's op class."""
    return forward_of(at[operation[1:3]]) + {"F": F, "B": BACK, "I": BACK, "W": W}[operation[0]]


def _sequences(problem: Problem, at: StageNumbers) -> list[list[int]]:
    """For every class its operations in the order they will run: by index, forwards from the
    first slice, backwards and weight gradients from the last; where rules or written orders name
    operations, as close to that as their edges allow."""
    sequences: list[list[int]] = [[] for _ in range(3 * len(at))]
    operations = problem.operations
    for i, operation in enumerate(operations):
        sequences[class_of(operation, at)].append(i)
    for x, sequence in enumerate(sequences):
        sign = 1 if kind_of(x) == F else -1
        sequence.sort(key=lambda i: (operations[i].microbatch, sign * operations[i].slice))
    if not problem.spec.rules and not problem.spec.written:
        return sequences
    rank = [0] * len(operations)
    for sequence in sequences:
        for n, i in enumerate(sequence):
            rank[i] = n
    found: list[list[int]] = [[] for _ in sequences]
    heads: list[list[int]] = [[] for _ in operations]
    waits = [0] * len(operations)
    for a, b in zip(problem.tail, problem.head, strict=True):
        heads[a].append(b)
        waits[b] += 1
    for i in topological(heads, waits, rank.__getitem__):
        found[class_of(operations[i], at)].append(i)
    return found


def _needs(problem: Problem, at: StageNumbers) -> list[list[tuple[int, int]]]:
    """The edges along which data flows, class to class."""
    topology = Topology(problem.spec)
    needs: list[list[tuple[int, int]]] = [[] for _ in range(3 * len(at))]
    for stage in at:
        for flow in topology.leaving[stage]:
            a, b = at[flow.source], at[flow.target]
            needs[forward_of(b)].append((forward_of(a), flow.ticks))
            if flow.trains:
                needs[backward_of(a)].append((backward_of(b), flow.ticks_back))
    return needs


def _extra(
    problem: Problem, op_index: Sequence[int], sequences: Sequence[Sequence[int]]
) -> tuple[dict[int, list[tuple[int, int]]], list[int]]:
    """The edges of rules, written orders and pairs, by op index, and the partners. Where classes do
    not run by index, the data edges too."""
    partner = [NONE] * len(op_index)
    extra: dict[int, list[tuple[int, int]]] = {}
    if not problem.spec.rules and not problem.spec.written:
        return extra, partner
    for i, j in enumerate(problem.overlaps_with):
        if j != NONE:
            partner[op_index[i]] = op_index[j]
    said: set[EdgeKind] = set()
    if all(list(sequence) == sorted(sequence) for sequence in sequences):
        said = {EdgeKind.LOCAL, EdgeKind.ACTIVATION, EdgeKind.GRADIENT}
        if problem.spec.slices:
            said.add(EdgeKind.SLICE)
    edges = zip(problem.tail, problem.head, problem.lag, problem.why, strict=True)
    for a, b, lag, why in edges:
        if why not in said:
            extra.setdefault(op_index[b], []).append((op_index[a], lag))
    return extra, partner


def _alone(problem: Problem, op_index: Sequence[int]) -> frozenset[int]:
    """What was written without a partner, where there are pairs."""
    if not problem.spec.overlap or not problem.spec.written:
        return frozenset()
    return frozenset(op_index[one[0]] for row in problem.written for one in row if len(one) == 1)


def _forwards_before(problem: Problem, sequences: Sequence[Sequence[int]]) -> list[int]:
    """By op index the number of forwards of its stage that must be over before it: for the
    first backward of a micro-batch, those of all its slices."""
    before = []
    for x, sequence in enumerate(sequences):
        if kind_of(x) != BACK:
            before += [0] * len(sequence)
            continue
        forward: dict[tuple[int, int], int] = {}
        for n, i in enumerate(sequences[x - BACK]):
            forward[problem.operations[i][3:5]] = n + 1
        most = 0
        for i in sequence:
            most = max(most, forward[problem.operations[i][3:5]])
            before.append(most)
    return before


def _pairs(
    problem: Problem, stages: Sequence[tuple[int, int]], count: Sequence[int]
) -> dict[tuple[int, int], int]:
    """Ticks of every pair of classes that may run as one unit."""
    spec = problem.spec
    if not spec.overlap:
        return {}
    costs = Costs(spec)
    kind = "B" if "B" in spec.overlap else "I"
    pairs = {}
    for g, (p, s) in enumerate(stages):
        for h, (q, t) in enumerate(stages):
            same = spec.pipelines[p].stages[s].rank == spec.pipelines[q].stages[t].rank
            # Only where an I may overlap, and backwards are whole, there is nothing to overlap.
            there = count[backward_of(h)] and (kind == "B" or count[weight_of(h)])
            if same and count[forward_of(g)] and there:
                forward, backward = Operation("F", p, s, 0), Operation(kind, q, t, 0)
                pairs[forward_of(g), backward_of(h)] = costs.pair(forward, backward)
    return pairs


def _full_backward(
    problem: Problem, stages: Sequence[tuple[int, int]], count: Sequence[int]
) -> list[int]:
    """By stage the ticks of its full backward, where what is split may also run as one and that
    can be of use: in a pair, or because it is quicker; else -1."""
    spec = problem.spec
    free = spec.split_backward and not spec.rules and not spec.exceptions and not spec.written
    ticks = []
    for g, (p, s) in enumerate(stages):
        stage = spec.pipelines[p].stages[s]
        useful = "B" in spec.overlap or stage.B < stage.I + stage.W
        ticks.append(stage.B if free and useful and count[weight_of(g)] else NONE)
    return ticks


def _fixed(problem: Problem, at: StageNumbers, count: Sequence[int]) -> list[bool]:
    """The classes all of whose operations stand in a written order."""
    seen = [0] * len(count)
    for units in problem.spec.written:
        for unit in units:
            for operation in unit.operations:
                seen[class_of(operation, at)] += 1
    return [0 < many == count[x] for x, many in enumerate(seen)]


def _jobs(problem: Problem, stages: Iterable[tuple[int, int]]) -> list[int]:
    """By stage a number that pipelines share where one feeds the other."""
    lines = problem.spec.pipelines
    job = list(range(len(lines)))
    for p, line in enumerate(lines):
        for feed in line.feeds:
            old, new = job[feed.pipeline], job[p]
            job = [new if one == old else one for one in job]
    return [job[p] for p, _ in stages]
