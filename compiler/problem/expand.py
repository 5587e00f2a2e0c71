"""Spec → Problem. The operations of the step, numbered, with every edge between them.

Operations are numbered by pipeline, then stage: first the stage's forwards by micro-batch and
slice, then its backwards likewise, then the weight gradients of those that are split (how parts go
among them, `expand_parts` says). Promised: the edges of the returned Problem have no circle; a Spec
whose data, rules and written orders make one is refused with the shortest.
"""

from collections.abc import Sequence
from itertools import repeat

from msgspec import Struct

from stretto.compiler.diagnostics.diagnostic import Diagnostic, Label, Rejected
from stretto.compiler.problem.edge_lists import EdgeLists
from stretto.compiler.problem.kinds import KINDS, half
from stretto.compiler.problem.problem import EdgeKind, Problem
from stretto.compiler.problem.spec import NONE, Costs, Kind, Operation, Spec, operation_of, show
from stretto.compiler.problem.topology import Topology


def expand(spec: Spec) -> Problem:
    """The Problem of the Spec. Raises `Rejected`: `deadlock`, `listed-too-early`,
    `no-such-operation` (a rule)."""
    if spec.parts:
        from stretto.compiler.problem.expand_parts import parts_problem

        problem, table = parts_problem(spec), _Table()
        edges = EdgeLists(problem)
    else:
        problem, table = _operations(spec)
        edges = EdgeLists(problem)
        _data(Topology(spec), table, edges)
    index: dict[Operation, int] = {}
    if spec.rules or spec.parts:
        index = {operation: i for i, operation in enumerate(problem.operations)}
        _rules(spec, index, edges)
    if spec.parts:
        from stretto.compiler.problem.expand_parts import stream_orders

        stream_orders(spec, index, problem, edges)
    else:
        _orders(spec, table, problem, edges)
        _share(problem)
    if len(problem.topological()) < len(problem.operations):
        from stretto.compiler.problem.deadlock import explain  # loads networkx, so only now

        raise Rejected([explain(problem)])
    if spec.parts:
        from stretto.compiler.problem.list_order import too_early

        if early := too_early(problem):
            raise Rejected(early)
    return problem


class _Table(Struct):
    """Where the operations stand: the numbers of `forward[p][s]` and `backward[p][s]` (B or I;
    empty where there is none) by micro-batch and slice; `cut[p][s]`, the I's that have a W, and
    `weight[p][s]`, these."""

    forward: list[list[list[int]]] = []
    backward: list[list[list[int]]] = []
    cut: list[list[list[int]]] = []
    weight: list[list[list[int]]] = []

    def numbers(self, kind: Kind, p: int, s: int) -> Sequence[int] | dict[int, int]:
        """Those of one kind of a stage, by micro-batch and slice."""
        if kind == "F":
            return self.forward[p][s]
        backward, cut, weight = self.backward[p][s], self.cut[p][s], self.weight[p][s]
        if kind != "W" or len(cut) == len(backward):
            return weight if kind == "W" else backward
        return {i - backward[0]: w for i, w in zip(cut, weight, strict=True)}


# ---------------------------------------------------------------------------- operations


def _operations(spec: Spec) -> tuple[Problem, _Table]:
    """All operations with their figures, and where they stand; no edges yet."""
    whole, split = _written_backwards(spec)
    operations, table = _Operations(spec), _Table()
    slices = range(spec.slices) if spec.slices else (NONE,)
    for p, pipeline in enumerate(spec.pipelines):
        table.forward.append([])
        table.backward.append([])
        table.cut.append([])
        table.weight.append([])
        for s in range(len(pipeline.stages)):
            places = [(m, k) for m in range(pipeline.microbatches) for k in slices]
            table.forward[p].append(operations.add(p, s, ["F"] * len(places), places))
            if pipeline.forward_only:
                places = []
            cut = [spec.split_backward] * len(places)
            if whole if spec.split_backward else split:  # the orders say otherwise of some
                cut = [
                    place in split if place in split or place in whole else spec.split_backward
                    for place in [(p, s, m, k) for m, k in places]
                ]
            backward = operations.add(p, s, ["I" if c else "B" for c in cut], places)
            places = [place for place, c in zip(places, cut, strict=True) if c]
            weight = operations.add(p, s, ["W"] * len(places), places)
            table.backward[p].append(backward)
            table.cut[p].append([i for i, c in zip(backward, cut, strict=True) if c])
            table.weight[p].append(weight)
    return operations.problem, table


class _Operations:
    """The operation lists of a Problem under construction."""

    def __init__(self, spec: Spec):
        self.problem = Problem(spec, [], [], [], [], [], [], [], [], [], [], [], [])
        self.costs = Costs(spec)

    def add(
        self, p: int, s: int, kinds: Sequence[Kind], places: Sequence[tuple[int, int]]
    ) -> list[int]:
        """Add one operation of stage s of pipeline p for each of `places`, a micro-batch and slice,
        of the kind that stands beside it in `kinds`. Returns the numbers that they got."""
        problem, pipeline = self.problem, self.problem.spec.pipelines[p]
        stage, trained = pipeline.stages[s], not pipeline.forward_only
        first, many = len(problem.operations), len(places)
        microbatches, slices = zip(*places, strict=True) if places else ((), ())
        columns = kinds, repeat(p), repeat(s), microbatches, slices, repeat(NONE)
        operations = [*map(operation_of, zip(*columns, strict=False))]
        effects = {kind: KINDS[kind].memory(stage, trained) for kind in set(kinds)}
        ticks = {kind: stage.ticks(kind) for kind in effects}
        alloc = {kind: effect.alloc for kind, effect in effects.items()}
        free = {kind: effect.free for kind, effect in effects.items()}
        problem.operations.extend(operations)
        problem.rank.extend([stage.rank] * many)
        problem.stream.extend([0] * many)
        if problem.spec.exceptions:
            problem.duration.extend(map(self.costs.of, operations))
        else:
            problem.duration.extend(map(ticks.__getitem__, kinds))
        problem.alloc.extend(map(alloc.__getitem__, kinds))
        problem.free.extend(map(free.__getitem__, kinds))
        problem.overlaps_with.extend([NONE] * many)
        problem.at.extend([pipeline.at] * many)
        return list(range(first, first + many))


_Backwards = set[tuple[int, int, int, int]]


def _written_backwards(spec: Spec) -> tuple[_Backwards, _Backwards]:
    """The backwards (pipeline, stage, micro-batch, slice) that the written orders run whole, and
    those that they run as I and W; both empty where all run as the Spec says of all."""
    whole: _Backwards = set()
    split: _Backwards = set()
    usual = {"F", "I", "W"} if spec.split_backward else {"F", "B"}
    if {o[0] for units in spec.written for unit in units for o in unit[0]} <= usual:
        return whole, split
    for units in spec.written:
        for operations, _ in units:
            for operation in operations:
                if operation[0] == "B":
                    whole.add(operation[1:5])
                elif operation[0] != "F":
                    split.add(operation[1:5])
    return whole, split


# ---------------------------------------------------------------------------- edges


def _data(topology: Topology, table: _Table, edges: EdgeLists) -> None:
    """The edges along which activations and gradients flow, and those between the operations of a
    stage."""
    for p, pipeline in enumerate(topology.spec.pipelines):
        for s in range(len(pipeline.stages)):
            _inside(topology.spec.slices, table, p, s, edges)
            for _, (q, t), ticks, ticks_back, trains in topology.leaving[p, s]:
                forward, backward = table.forward, table.backward
                edges.add(forward[p][s], forward[q][t], EdgeKind.ACTIVATION, ticks)
                if trains:
                    edges.add(backward[q][t], backward[p][s], EdgeKind.GRADIENT, ticks_back)


def _inside(slices: int, table: _Table, p: int, s: int, edges: EdgeLists) -> None:
    """The edges between the operations of one stage."""
    forward, backward = table.forward[p][s], table.backward[p][s]
    edges.add(forward if backward else (), backward, EdgeKind.LOCAL)
    edges.add(table.cut[p][s], table.weight[p][s], EdgeKind.LOCAL)
    if slices > 1:
        later = [i for place, i in enumerate(forward) if place % slices]
        edges.add([i - 1 for i in later], later, EdgeKind.SLICE)
        later = [i for place, i in enumerate(backward) if place % slices]
        edges.add(later, [i - 1 for i in later], EdgeKind.SLICE)


def _rules(spec: Spec, index: dict[Operation, int], edges: EdgeLists) -> None:
    """The edges of the author's rules. `B` also means I and W where they replace it: what comes
    after both comes after W, and what both come after, I comes after."""
    wrong: dict[int, list[Operation]] = {}  # by the rule's text
    for rule in spec.rules:
        earlier = index.get(rule.earlier, index.get(half(rule.earlier, "last")))
        later = index.get(rule.later, index.get(half(rule.later, "first")))
        if earlier is None or later is None:
            wrong.setdefault(rule.at, []).append(rule.earlier if earlier is None else rule.later)
        else:
            edges.add((earlier,), (later,), EdgeKind.RULE)
    if wrong:
        raise Rejected([_missing(spec, at, operations) for at, operations in wrong.items()])


def _missing(spec: Spec, at: int, operations: list[Operation]) -> Diagnostic:
    """A rule names the I or W of backwards that run whole."""
    first, *others = operations
    many = f"; likewise for {len(others)} more" if others else ""
    return Diagnostic(
        code="no-such-operation",
        message=f"`{show(spec, first)}` does not exist: this backward runs whole{many}",
        labels=(Label(spec.spans[at]),),
        help=f"write `{show(spec, first._replace(kind='B'))}`, which means I and W too where they "
        "replace it",
    )


def _orders(spec: Spec, table: _Table, problem: Problem, edges: EdgeLists) -> None:
    """The edges of the written orders: each unit comes after the one before it. Raises `KeyError`
    for an operation that the Spec does not have."""
    tail, head = [], []
    own, asked, slices = problem.operations, problem.at, max(spec.slices, 1)
    stages: dict[tuple[Kind, int, int], Sequence[int] | dict[int, int]] = {}
    for units in spec.written:
        row: list[tuple[int, ...]] = []
        before: tuple[int, ...] = ()
        for operations, at in units:
            numbers: tuple[int, ...] = ()
            for operation in operations:
                kind, p, s, microbatch, slice_, _ = operation
                like = kind, p, s
                if like not in stages:
                    stages[like] = table.numbers(*like)
                i = stages[like][microbatch * slices + (slice_ if slices > 1 else 0)]
                if own[i] != operation:
                    raise KeyError(operation)
                own[i] = operation  # the Spec's: one object for both
                asked[i] = at
                numbers += (i,)
                for j in before:
                    tail.append(j)
                    head.append(i)
            if len(numbers) == 2:
                problem.overlaps_with[numbers[0]], problem.overlaps_with[numbers[1]] = numbers[::-1]
            row.append(numbers)
            before = numbers
        problem.written.append(row)
    edges.add(tail, head, EdgeKind.ORDER)


def _share(problem: Problem) -> None:
    """Give both operations of a pair the edges of either, since they start and end together.
    (Order edges have them already.)"""
    other, tail, head = problem.overlaps_with, problem.tail, problem.head
    if not any(unit.operations[1:] for units in problem.spec.written for unit in units):
        return
    edges = list(zip(tail, head, problem.lag, problem.why, strict=True))
    ordered, pair = EdgeKind.ORDER, EdgeKind.PAIR
    for a, b, lag, why in edges:
        if why is ordered or other[a] == other[b] == NONE:
            continue
        tails = (a,) if other[a] == NONE else (a, other[a])
        heads = (b,) if other[b] == NONE else (b, other[b])
        for c, d in [(c, d) for c in tails for d in heads][1:]:
            tail.append(c)
            head.append(d)
            problem.lag.append(lag)
            problem.why.append(pair)
