"""Spec → Problem. The operations of the step, numbered, with every edge between them.

Operations are numbered by pipeline, then stage: first the stage's forwards by micro-batch and
slice, then its backwards likewise, then the weight gradients of those that are split. Promised:
the edges of the returned Problem have no circle; a Spec whose data, rules and written orders
make one is refused with the shortest.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from stretto.compiler.diagnostics.diagnostic import Diagnostic, Label, Rejected
from stretto.compiler.problem.problem import EdgeKind, Problem
from stretto.compiler.problem.spec import NONE, Costs, Kind, Operation, Spec, show


def expand(spec: Spec) -> Problem:
    """The Problem of the Spec. Raises `Rejected`: `deadlock`, `no-such-operation` (a rule)."""
    problem, table = _operations(spec)
    edges = _Edges(problem)
    _data(spec, table, edges)
    index = (
        {operation: i for i, operation in enumerate(problem.operations)}
        if spec.rules or spec.written
        else {}
    )
    _rules(spec, index, edges)
    _orders(spec, index, problem, edges)
    _share(problem)
    if len(problem.topological()) < len(problem.operations):
        from stretto.compiler.problem.deadlock import explain  # loads networkx, so only now

        raise Rejected([explain(problem)])
    return problem


@dataclass(slots=True)
class _Table:
    """Where the operations stand: `forward[p][s]` and `backward[p][s]` (B or I; empty where there
    is none) are ranges by micro-batch and slice, `weight[p][s]` the pairs (I, its W)."""

    forward: list[list[range]] = field(default_factory=list)
    backward: list[list[range]] = field(default_factory=list)
    weight: list[list[list[tuple[int, int]]]] = field(default_factory=list)


class _Edges:
    """The edge lists of a Problem under construction."""

    def __init__(self, problem: Problem):
        self.tail, self.head, self.lag, self.why = (
            problem.tail,
            problem.head,
            problem.lag,
            problem.why,
        )

    def add(self, tail: Iterable[int], head: Sequence[int], why: EdgeKind, lag: int = 0) -> None:
        """One edge from each of `tail` to its counterpart in `head`."""
        self.tail.extend(tail)
        self.head.extend(head)
        self.lag.extend([lag] * len(head))
        self.why.extend([why] * len(head))


# ---------------------------------------------------------------------------- operations


def _operations(spec: Spec) -> tuple[Problem, _Table]:
    """All operations with their figures, and where they stand; no edges yet."""
    whole, split = _written_backwards(spec)
    costs = Costs(spec)
    problem = Problem(spec, [], [], [], [], [], [], [], [], [], [], [], [])
    table = _Table()
    slices = range(spec.slices) if spec.slices else (NONE,)
    for p, pipeline in enumerate(spec.pipelines):
        table.forward.append([])
        table.backward.append([])
        table.weight.append([])
        for s, stage in enumerate(pipeline.stages):
            places = [(p, s, m, k) for m in range(pipeline.microbatches) for k in slices]
            forward_gives = stage.activation if pipeline.forward_only else 0
            forwards: list[tuple[Kind, int, int]] = [("F", stage.activation, forward_gives)]
            table.forward[p].append(
                _add(problem, stage.rank, pipeline.at, costs, forwards * len(places), places)
            )
            if pipeline.forward_only:
                places = []
            cut = [
                place in split if place in split or place in whole else spec.split_backward
                for place in places
            ]
            full: tuple[Kind, int, int] = ("B", 0, stage.activation)
            half: tuple[Kind, int, int] = ("I", 0, stage.activation - stage.kept)
            backward = _add(
                problem, stage.rank, pipeline.at, costs, [half if c else full for c in cut], places
            )
            places = [place for place, c in zip(places, cut, strict=True) if c]
            rest: list[tuple[Kind, int, int]] = [("W", 0, stage.kept)]
            weight = _add(problem, stage.rank, pipeline.at, costs, rest * len(places), places)
            inputs = [i for i, c in zip(backward, cut, strict=True) if c]
            table.backward[p].append(backward)
            table.weight[p].append(list(zip(inputs, weight, strict=True)))
    return problem, table


def _written_backwards(
    spec: Spec,
) -> tuple[set[tuple[int, int, int, int]], set[tuple[int, int, int, int]]]:
    """The backwards (pipeline, stage, micro-batch, slice) that the written orders run whole, and
    those that they run as I and W."""
    whole, split = set(), set()
    for units in spec.written:
        for operations, _ in units:
            for operation in operations:
                if operation[0] == "B":
                    whole.add(operation[1:5])
                elif operation[0] != "F":
                    split.add(operation[1:5])
    return whole, split


def _add(
    problem: Problem,
    rank: int,
    at: int,
    costs: Costs,
    kinds: Sequence[tuple[Kind, int, int]],
    places: Sequence[tuple[int, int, int, int]],
) -> range:
    """Add one operation for each of `places`, of the kind and with the memory (take, give) that
    stand beside it in `kinds`. The numbers they got."""
    first, many = len(problem.operations), len(places)
    operations = [
        Operation(kind, p, s, m, k)
        for (kind, _, _), (p, s, m, k) in zip(kinds, places, strict=True)
    ]
    problem.operations.extend(operations)
    problem.rank.extend([rank] * many)
    problem.stream.extend([0] * many)
    problem.duration.extend(map(costs.of, operations))
    problem.alloc.extend([take for _, take, _ in kinds])
    problem.free.extend([give for _, _, give in kinds])
    problem.overlaps_with.extend([NONE] * many)
    problem.at.extend([at] * many)
    return range(first, first + many)


# ---------------------------------------------------------------------------- edges


def _data(spec: Spec, table: _Table, edges: _Edges) -> None:
    """The edges along which activations and gradients flow."""
    transfer = {(t.source, t.target): t.ticks for t in spec.transfers}

    def flow(source: tuple[int, int], target: tuple[int, int], gradients: bool) -> None:
        """Forwards from stage `source` to stage `target`, and their gradients back."""
        (p, s), (q, t) = source, target
        a, b = spec.pipelines[p].stages[s].rank, spec.pipelines[q].stages[t].rank
        lag = transfer.get((a, b), 0) if a != b else 0
        edges.add(table.forward[p][s], table.forward[q][t], EdgeKind.ACTIVATION, lag)
        if gradients:
            lag = transfer.get((b, a), 0) if a != b else 0
            edges.add(table.backward[q][t], table.backward[p][s], EdgeKind.GRADIENT, lag)

    for p, pipeline in enumerate(spec.pipelines):
        last = len(pipeline.stages) - 1
        for s in range(len(pipeline.stages)):
            _inside(spec.slices, table, p, s, edges)
            if s < last:
                flow((p, s), (p, s + 1), not pipeline.forward_only)
        for q, stage in pipeline.feeds:
            learns = not pipeline.forward_only and not spec.pipelines[q].forward_only
            flow((p, last), (q, stage), learns)


def _inside(slices: int, table: _Table, p: int, s: int, edges: _Edges) -> None:
    """The edges between the operations of one stage."""
    forward, backward = table.forward[p][s], table.backward[p][s]
    edges.add(forward if backward else (), backward, EdgeKind.LOCAL)
    edges.add(
        [i for i, _ in table.weight[p][s]], [w for _, w in table.weight[p][s]], EdgeKind.LOCAL
    )
    if slices > 1:
        later = [i for i in forward if (i - forward.start) % slices]
        edges.add([i - 1 for i in later], later, EdgeKind.SLICE)
        later = [i for i in backward if (i - backward.start) % slices]
        edges.add(later, [i - 1 for i in later], EdgeKind.SLICE)


def _rules(spec: Spec, index: dict[Operation, int], edges: _Edges) -> None:
    """The edges of the author's rules. `B` also means I and W where they replace it: what comes
    after both comes after W, and what both come after, I comes after."""
    wrong: dict[int, list[Operation]] = {}  # by the rule's text
    for rule in spec.rules:
        earlier = _stands_for(rule.earlier, "W", index)
        later = _stands_for(rule.later, "I", index)
        if earlier is None or later is None:
            wrong.setdefault(rule.at, []).append(rule.earlier if earlier is None else rule.later)
        else:
            edges.add((earlier,), (later,), EdgeKind.RULE)
    if wrong:
        raise Rejected([_missing(spec, at, operations) for at, operations in wrong.items()])


def _stands_for(operation: Operation, half: Kind, index: dict[Operation, int]) -> int | None:
    """The operation's number; for a B that was split, that of its `half`."""
    found = index.get(operation)
    if found is None and operation.kind == "B":
        found = index.get(operation._replace(kind=half))
    return found


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


def _orders(spec: Spec, index: dict[Operation, int], problem: Problem, edges: _Edges) -> None:
    """The edges of the written orders: each unit comes after the one before it."""
    tail, head = [], []
    for units in spec.written:
        before: tuple[int, ...] = ()
        for operations, at in units:
            unit = tuple([index[operation] for operation in operations])
            for i in unit:
                problem.at[i] = at
                for j in before:
                    tail.append(j)
                    head.append(i)
            if len(unit) == 2:
                problem.overlaps_with[unit[0]], problem.overlaps_with[unit[1]] = unit[1], unit[0]
            before = unit
    edges.add(tail, head, EdgeKind.ORDER)


def _share(problem: Problem) -> None:
    """Give both operations of a pair the edges of either, since they start and end together.
    (Order edges have them already.)"""
    partner, tail, head = problem.overlaps_with, problem.tail, problem.head
    if not any(unit.operations[1:] for units in problem.spec.written for unit in units):
        return
    edges = list(zip(tail, head, problem.lag, problem.why, strict=True))
    ordered, pair = EdgeKind.ORDER, EdgeKind.PAIR
    for a, b, lag, why in edges:
        if why is ordered or partner[a] == partner[b] == NONE:
            continue
        tails = (a,) if partner[a] == NONE else (a, partner[a])
        heads = (b,) if partner[b] == NONE else (b, partner[b])
        for c, d in [(c, d) for c in tails for d in heads][1:]:
            tail.append(c)
            head.append(d)
            problem.lag.append(lag)
            problem.why.append(pair)
