"""Problem → `Model`: the same, as an order sees it that treats equal micro-batches as equal.

The identical operations of one stage are a *letter*, and run in one fixed sequence (by index, if
nothing written speaks against it). Then an order is one *word* per rank over its letters, and only
words need to be searched. This costs nothing: rename the i-th forward, backward, weight gradient
that a stage runs "micro-batch i". The i-th forward of stage s + 1 has i finished forwards of stage
s before it, so the i-th of those is over too; likewise up the gradients, and memory depends on
counts alone. (It may cost something where rules or durations name single micro-batches.)

Letters are numbered 3 · stage + kind, stages counted over all pipelines; kind 0 is F, 1 what
computes the input gradient (I, or B where the backward is whole), 2 is W. Operation n of letter l
has the number base[l] + n, called its place.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

from stretto.compiler.problem.problem import EdgeKind, Problem
from stretto.compiler.problem.spec import NONE, Costs, Operation

F, BACK, W = 0, 1, 2
NO_LIMIT = 1 << 60


@dataclass(frozen=True, slots=True)
class Model:
    """See the module. By letter: `rank`, `count`, `base`, `needs` (letter and lag: operation n
    starts only `lag` ticks after the end of that letter's operation n). By place: `operation`
    (its number in the Problem), `duration`, `take`, `give`, `whole` (a B that leaves no W to do),
    `own` (how many forwards of its stage must be over), `extra` (place and lag, for the edges
    that `needs` does not say). `limit` by rank. `pairs`: ticks of an F letter and a backward
    letter as one unit. `joint` by stage: ticks of its B, where I and W may be run as one.
    `fixed`: letters whose whole sequence on their rank is written. `partner` by place, as in the
    Problem. `job` by stage: pipelines that feed each other share one."""

    problem: Problem
    ranks: int
    stages: tuple[tuple[int, int], ...]
    rank: list[int]
    count: list[int]
    base: list[int]
    needs: list[list[tuple[int, int]]]
    operation: list[int]
    duration: list[int]
    take: list[int]
    give: list[int]
    whole: list[int]
    own: list[int]
    extra: dict[int, list[tuple[int, int]]]
    limit: list[int]
    pairs: dict[tuple[int, int], int]
    joint: list[int]
    fixed: list[bool]
    partner: list[int]
    job: list[int]
    slices: int

    @property
    def size(self) -> int:
        """How many operations there are."""
        return len(self.operation)

    def letters(self, rank: int) -> list[int]:
        """The letters of a rank that have operations."""
        return [x for x, r in enumerate(self.rank) if r == rank and self.count[x]]


def model(problem: Problem) -> Model:
    """The Model of a Problem on compute streams alone."""
    spec = problem.spec
    stages = tuple((p, s) for p, line in enumerate(spec.pipelines) for s in range(len(line.stages)))
    at = {stage: g for g, stage in enumerate(stages)}
    sequences = _sequences(problem, at)
    count = [len(sequence) for sequence in sequences]
    base = [0]
    for many in count[:-1]:
        base.append(base[-1] + many)
    operation = [i for sequence in sequences for i in sequence]
    place = [0] * len(operation)
    for x, i in enumerate(operation):
        place[i] = x
    needs = _needs(problem, stages, at)
    extra, partner = _extra(problem, place, base, sequences)
    return Model(
        problem=problem,
        ranks=spec.ranks,
        stages=stages,
        rank=[spec.pipelines[p].stages[s].rank for p, s in stages for _ in range(3)],
        count=count,
        base=base,
        needs=needs,
        operation=operation,
        duration=[problem.duration[i] for i in operation],
        take=[problem.alloc[i] for i in operation],
        give=[problem.free[i] for i in operation],
        whole=[int(problem.operations[i].kind == "B") for i in operation],
        own=_own(problem, sequences, max(1, spec.slices)),
        extra=extra,
        limit=[one.grains if one else NO_LIMIT for one in spec.limits] or [NO_LIMIT] * spec.ranks,
        pairs=_pairs(problem, stages, count),
        joint=_joint(problem, stages, count),
        fixed=_fixed(problem, at, count),
        partner=partner,
        job=_jobs(problem, stages),
        slices=max(1, spec.slices),
    )


def letter(operation: Operation, at: dict[tuple[int, int], int]) -> int:
    """The number of an operation's letter."""
    return 3 * at[operation[1:3]] + {"F": F, "B": BACK, "I": BACK, "W": W}[operation[0]]


def _sequences(problem: Problem, at: dict[tuple[int, int], int]) -> list[list[int]]:
    """For every letter its operations in the order they will run: by index, forwards from the
    first slice, backwards and weight gradients from the last; where rules or written orders name
    operations, as close to that as their edges allow."""
    sequences: list[list[int]] = [[] for _ in range(3 * len(at))]
    operations = problem.operations
    for i, operation in enumerate(operations):
        sequences[letter(operation, at)].append(i)
    for x, sequence in enumerate(sequences):
        sign = 1 if x % 3 == F else -1
        sequence.sort(key=lambda i: (operations[i].microbatch, sign * operations[i].slice))
    if not problem.spec.rules and not problem.spec.written:
        return sequences
    rank = [0] * len(operations)
    for sequence in sequences:
        for n, i in enumerate(sequence):
            rank[i] = n
    found: list[list[int]] = [[] for _ in sequences]
    for i in _topological(problem, rank):
        found[letter(operations[i], at)].append(i)
    return found


def _topological(problem: Problem, first: Sequence[int]) -> list[int]:
    """The operations in an order that honours every edge; of those free to go, the one with the
    least `first`."""
    after: list[list[int]] = [[] for _ in first]
    waits = [0] * len(first)
    for a, b in zip(problem.tail, problem.head, strict=True):
        after[a].append(b)
        waits[b] += 1
    ready = [(first[i], i) for i, many in enumerate(waits) if not many]
    heapify(ready)
    order = []
    while ready:
        _, i = heappop(ready)
        order.append(i)
        for j in after[i]:
            waits[j] -= 1
            if not waits[j]:
                heappush(ready, (first[j], j))
    return order


def _needs(
    problem: Problem, stages: Sequence[tuple[int, int]], at: dict[tuple[int, int], int]
) -> list[list[tuple[int, int]]]:
    """The edges along which data flows, letter to letter."""
    spec = problem.spec
    transfer = {(t.source, t.target): t.ticks for t in spec.transfers}
    needs: list[list[tuple[int, int]]] = [[] for _ in range(3 * len(stages))]

    def flow(a: tuple[int, int], b: tuple[int, int]) -> None:
        ranks = [spec.pipelines[p].stages[s].rank for p, s in (a, b)]
        needs[3 * at[b]].append((3 * at[a], transfer.get((ranks[0], ranks[1]), 0)))
        if not spec.pipelines[a[0]].forward_only and not spec.pipelines[b[0]].forward_only:
            back = (3 * at[b] + BACK, transfer.get((ranks[1], ranks[0]), 0))
            needs[3 * at[a] + BACK].append(back)

    for p, line in enumerate(spec.pipelines):
        for s in range(len(line.stages) - 1):
            flow((p, s), (p, s + 1))
        for feed in line.feeds:
            flow((p, len(line.stages) - 1), (feed.pipeline, feed.stage))
    return needs


def _extra(
    problem: Problem, place: Sequence[int], base: Sequence[int], sequences: Sequence[Sequence[int]]
) -> tuple[dict[int, list[tuple[int, int]]], list[int]]:
    """The edges of rules, written orders and pairs, by place, and the partners. Where letters do
    not run by index, the data edges too."""
    partner = [NONE] * len(place)
    extra: dict[int, list[tuple[int, int]]] = {}
    if not problem.spec.rules and not problem.spec.written:
        return extra, partner
    for i, j in enumerate(problem.overlaps_with):
        if j != NONE:
            partner[place[i]] = place[j]
    said = {EdgeKind.LOCAL, EdgeKind.SLICE} if problem.spec.slices else {EdgeKind.LOCAL}
    if all(list(sequence) == sorted(sequence) for sequence in sequences):
        said |= {EdgeKind.ACTIVATION, EdgeKind.GRADIENT}
    edges = zip(problem.tail, problem.head, problem.lag, problem.why, strict=True)
    for a, b, lag, why in edges:
        if why not in said:
            extra.setdefault(place[b], []).append((place[a], lag))
    return extra, partner


def _own(problem: Problem, sequences: Sequence[Sequence[int]], slices: int) -> list[int]:
    """For every place the number of forwards of its stage that must be over before it: for the
    first backward of a micro-batch, those of all its slices."""
    own = []
    for x, sequence in enumerate(sequences):
        if x % 3 != BACK:
            own += [0] * len(sequence)
            continue
        forward: dict[tuple[int, int], int] = {}
        for n, i in enumerate(sequences[x - 1]):
            forward[problem.operations[i][3:5]] = n + 1
        most = 0
        for i in sequence:
            most = max(most, forward[problem.operations[i][3:5]])
            own.append(most)
    return own


def _pairs(
    problem: Problem, stages: Sequence[tuple[int, int]], count: Sequence[int]
) -> dict[tuple[int, int], int]:
    """Ticks of every pair of letters that may run as one unit."""
    spec = problem.spec
    if not spec.overlap:
        return {}
    costs = Costs(spec)
    kind = "B" if "B" in spec.overlap else "I"
    pairs = {}
    for g, (p, s) in enumerate(stages):
        for h, (q, t) in enumerate(stages):
            same = spec.pipelines[p].stages[s].rank == spec.pipelines[q].stages[t].rank
            if same and count[3 * g] and count[3 * h + BACK]:
                forward, backward = Operation("F", p, s, 0), Operation(kind, q, t, 0)
                pairs[3 * g, 3 * h + BACK] = costs.pair(forward, backward)
    return pairs


def _joint(problem: Problem, stages: Sequence[tuple[int, int]], count: Sequence[int]) -> list[int]:
    """By stage the ticks of its whole backward, where what is split may also run as one and that
    can be of use: in a pair, or because it is quicker; else -1."""
    spec = problem.spec
    free = spec.split_backward and not spec.rules and not spec.exceptions and not spec.written
    joint = []
    for g, (p, s) in enumerate(stages):
        stage = spec.pipelines[p].stages[s]
        useful = "B" in spec.overlap or stage.B < stage.I + stage.W
        joint.append(stage.B if free and useful and count[3 * g + W] else NONE)
    return joint


def _fixed(problem: Problem, at: dict[tuple[int, int], int], count: Sequence[int]) -> list[bool]:
    """The letters all of whose operations stand in a written order."""
    seen = [0] * len(count)
    for units in problem.spec.written:
        for unit in units:
            for operation in unit.operations:
                seen[letter(operation, at)] += 1
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
