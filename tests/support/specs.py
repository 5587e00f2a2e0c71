"""Specs made by hand, without a parser: the known schedules, and random ones.

A `Spec` is made in two steps: the model (`model`, `linear`, `vee`, `both_ways`, …) without an
order, and the order laid over it (`ordered(spec, one_f_one_b)`, `random_order(spec, random)`).
Each unit of an order gets a span of its own: line = rank + 1, column = place in the order + 1.
"""

from collections.abc import Callable, Iterable, Sequence, Set
from random import Random
from typing import Any

import msgspec

from stretto.compiler.diagnostics.source import Span
from stretto.compiler.problem.spec import (
    NONE,
    Feed,
    Operation,
    Pair,
    Pipeline,
    Spec,
    Stage,
    Transfer,
    Unit,
    digest,
)

Units = Sequence[tuple[Operation, ...]]
Costs = tuple[int, int, int]  # F, I, W; a full backward costs I + W
StageCosts = Costs | Callable[[int], Costs]  # of every stage, or by its number


# ---------------------------------------------------------------------------- models


def pipeline(
    name: str,
    ranks: Iterable[int],
    microbatches: int,
    costs: StageCosts = (1, 1, 1),
    *,
    first: int = 0,
    replicates: int = NONE,
    feeds: tuple[Feed, ...] = (),
    forward_only: bool = False,
    activation: int = 2,
    kept: int = 1,
) -> Pipeline:
    """A pipeline whose stage s is on the s-th of `ranks`; sizes in grains, two to a unit."""
    stages = []
    for s, rank in enumerate(ranks):
        f, i, w = costs(s) if callable(costs) else costs
        stages.append(Stage(rank=rank, F=f, B=i + w, I=i, W=w, activation=activation, kept=kept))
    return Pipeline(
        name, tuple(stages), microbatches, first, 0, replicates, "", feeds, forward_only
    )


def model(
    ranks: int,
    *pipelines: Pipeline,
    transfer: int = 0,
    split: bool = False,
    slices: int = 0,
    pair: int | None = None,
    **more: Any,
) -> Spec:
    """A Spec without an order. `transfer` ticks between any two ranks; `pair`, the ticks of every
    overlapped F and B, their sum where it is None."""
    transfers = tuple(
        Transfer(a, b, transfer) for a in range(ranks) for b in range(ranks) if a != b and transfer
    )
    stages = [
        ((p, s), stage.rank)
        for p, line in enumerate(pipelines)
        for s, stage in enumerate(line.stages)
    ]
    pairs = tuple(
        Pair(r, f, kind, b, pair)
        for f, r in stages
        for b, q in stages
        for kind in ("B", "I")
        if q == r and pair is not None
    )
    return Spec(
        name="made",
        ranks=ranks,
        microbatches=sum(p.microbatches for p in pipelines),
        pipelines=tuple(pipelines),
        time_unit=1,
        size_unit=2,
        spans=(Span("made.pipe", 1, 1, 1, 1),),
        slices=slices,
        split_backward=split,
        overlap=("B", "I"),
        pairs=pairs,
        transfers=transfers,
        order=("",) * ranks,
        **more,
    )


def linear(ranks: int, microbatches: int, costs: StageCosts = (1, 1, 1), **more: Any) -> Spec:
    """Stage s on rank s."""
    return model(ranks, pipeline("main", range(ranks), microbatches, costs), **more)


def interleaved(
    ranks: int, chunks: int, microbatches: int, costs: StageCosts = (1, 1, 1), **more: Any
) -> Spec:
    """Stage s on rank s % ranks."""
    place = [s % ranks for s in range(ranks * chunks)]
    return model(ranks, pipeline("main", place, microbatches, costs), **more)


def vee(ranks: int, microbatches: int, costs: StageCosts = (1, 1, 1), **more: Any) -> Spec:
    """Down the ranks and back up: rank `ranks - 1` hands over to itself."""
    place = [min(s, 2 * ranks - 1 - s) for s in range(2 * ranks)]
    return model(ranks, pipeline("main", place, microbatches, costs), **more)


def both_ways(ranks: int, microbatches: int, costs: StageCosts = (1, 1, 1), **more: Any) -> Spec:
    """Two copies of one model in opposite directions, `microbatches` over both."""
    half = microbatches // 2
    return model(
        ranks,
        pipeline("down", range(ranks), microbatches - half, costs),
        pipeline("up", range(ranks)[::-1], half, costs, first=microbatches - half, replicates=0),
        **more,
    )


# ---------------------------------------------------------------------------- orders


def written(spec: Spec, order: Sequence[Units]) -> Spec:
    """The Spec with this order of every rank."""
    spans = list(spec.spans)
    lists = []
    for rank, units in enumerate(order):
        line = []
        for column, operations in enumerate(units):
            line.append(Unit(tuple(operations), len(spans)))
            spans.append(Span("made.pipe", rank + 1, column + 1, rank + 1, column + 2))
        lists.append(tuple(line))
    return msgspec.structs.replace(
        spec,
        spans=tuple(spans),
        order=tuple(digest(units) for units in order),
        written=tuple(lists),
    )


def ordered(spec: Spec, schedule: Callable[[Spec, int], Iterable[str]]) -> Spec:
    """The Spec of one pipeline, ordered by the words that `schedule` gives for each rank: a kind
    means the next micro-batch of the rank's only stage, `F3.5` micro-batch 5 of stage 3."""
    order = []
    for rank in range(spec.ranks):
        taken = {"F": 0, "B": 0, "I": 0, "W": 0}
        own = [s for s, stage in enumerate(spec.pipelines[0].stages) if stage.rank == rank]
        units = []
        for word in schedule(spec, rank):
            kind, rest = word[0], word[1:]
            stage, microbatch = map(int, rest.split(".")) if rest else (own[0], taken[kind])
            taken[kind] += 1
            units.append((Operation(kind, 0, stage, microbatch),))
        order.append(units)
    return written(spec, order)


def gpipe(spec: Spec, rank: int) -> list[str]:
    return ["F"] * spec.microbatches + ["B"] * spec.microbatches


def one_f_one_b(spec: Spec, rank: int) -> list[str]:
    m = spec.microbatches
    warmup = min(m, spec.ranks - 1 - rank)
    return ["F"] * warmup + ["F", "B"] * (m - warmup) + ["B"] * warmup


def eager_1f1b(spec: Spec, rank: int) -> list[str]:
    """1F1B with twice the warm-up."""
    m = spec.microbatches
    warmup = min(m, 2 * (spec.ranks - 1 - rank))
    return ["F"] * warmup + ["F", "B"] * (m - warmup) + ["B"] * warmup


def zb_h1(spec: Spec, rank: int) -> list[str]:
    m, p = spec.microbatches, spec.ranks
    warmup = p - 1 - rank
    words = ["F"] * warmup + ["F", "I"] * rank + ["F", "I", "W"] * (m - p + 1)
    return words + ["I", "W"] * warmup + ["W"] * rank


def interleaved_1f1b(spec: Spec, rank: int) -> list[str]:
    """Megatron's, with groups of as many micro-batches as there are ranks."""
    p, m = spec.ranks, spec.microbatches
    chunks = len(spec.pipelines[0].stages) // p
    places = [(g * p + i, c) for g in range(m // p) for c in range(chunks) for i in range(p)]
    forward = [f"F{c * p + rank}.{i}" for i, c in places]
    backward = [f"B{(chunks - 1 - c) * p + rank}.{i}" for i, c in places]
    warmup = min(len(forward), 2 * (p - 1 - rank) + (chunks - 1) * p)
    steady = [word for both in zip(forward[warmup:], backward, strict=False) for word in both]
    return forward[:warmup] + steady + backward[len(forward) - warmup :]


# ---------------------------------------------------------------------------- random orders


def needs(spec: Spec, operation: Operation, cut: Set[tuple[int, ...]]) -> list[Operation]:
    """What the operation needs, from the rules of the language; `cut` has the backwards
    (pipeline, stage, micro-batch, slice) that run as I and W."""

    def backward(p: int, s: int, m: int, k: int) -> Operation:
        return Operation("I" if (p, s, m, k) in cut else "B", p, s, m, k)

    kind, p, s, m, k, _ = operation
    line, last = spec.pipelines[p], len(spec.pipelines[p].stages) - 1
    if kind == "W":
        return [Operation("I", p, s, m, k)]
    found = []
    if kind == "F":
        if s:
            found.append(Operation("F", p, s - 1, m, k))
        if k > 0:
            found.append(Operation("F", p, s, m, k - 1))
        for q, other in enumerate(spec.pipelines):
            if Feed(p, s) in other.feeds:
                found.append(Operation("F", q, len(other.stages) - 1, m, k))
        return found
    found.append(Operation("F", p, s, m, k))
    if s < last:
        found.append(backward(p, s + 1, m, k))
    elif any(not spec.pipelines[q].forward_only for q, _ in line.feeds):
        found += [backward(q, t, m, k) for q, t in line.feeds if not spec.pipelines[q].forward_only]
    if 0 <= k < spec.slices - 1:
        found.append(backward(p, s, m, k + 1))
    return found


def random_order(spec: Spec, random: Random, pairs: float = 0.0, split: float = 0.5) -> Spec:
    """A random order that can finish. Backwards are split with probability `split`; an F and a B
    that are both ready on a rank become a pair with probability `pairs`. Micro-batches are often
    used in another order than they were made."""
    cut: set[tuple[int, ...]] = set()
    todo: list[Operation] = []
    for p, line in enumerate(spec.pipelines):
        for s in range(len(line.stages)):
            for m in range(line.microbatches):
                for k in range(spec.slices) if spec.slices else (NONE,):
                    todo.append(Operation("F", p, s, m, k))
                    if line.forward_only:
                        continue
                    if random.random() < split:
                        cut.add((p, s, m, k))
                        todo.append(Operation("I", p, s, m, k))
                        todo.append(Operation("W", p, s, m, k))
                    else:
                        todo.append(Operation("B", p, s, m, k))
    rank_of = [[stage.rank for stage in line.stages] for line in spec.pipelines]
    waiting = {op: set(needs(spec, op, cut)) for op in todo}
    users: dict[Operation, list[Operation]] = {op: [] for op in todo}
    for op, what in waiting.items():
        for other in what:
            users[other].append(op)
    ready = [op for op in todo if not waiting[op]]
    order: list[list[tuple[Operation, ...]]] = [[] for _ in range(spec.ranks)]
    while ready:
        unit: tuple[Operation, ...] = (ready.pop(random.randrange(len(ready))),)
        rank = rank_of[unit[0].pipeline][unit[0].stage]
        if unit[0].kind == "F" and random.random() < pairs:
            fits = [
                op for op in ready if op.kind in "BI" and rank_of[op.pipeline][op.stage] == rank
            ]
            if fits:
                unit += (random.choice(fits),)
                ready.remove(unit[1])
        order[rank].append(unit)
        for op in unit:
            for user in users[op]:
                waiting[user].discard(op)
                if not waiting[user]:
                    ready.append(user)
    return written(spec, order)


def shuffled(spec: Spec, random: Random, swaps: int) -> Spec:
    """The order with some neighbours exchanged: often it can still finish, often not."""
    order = [[unit.operations for unit in units] for units in spec.written]
    for _ in range(swaps):
        units = random.choice([u for u in order if len(u) > 1])
        i = random.randrange(len(units) - 1)
        units[i], units[i + 1] = units[i + 1], units[i]
    return written(msgspec.structs.replace(spec, spans=spec.spans[:1]), order)


def random_model(random: Random) -> Spec:
    """A small model of a random shape: linear, interleaved, a V, both ways, random places, fed by
    another, in slices; random costs and transfers."""

    def costs(_: int) -> Costs:
        return (random.randint(0, 4), random.randint(0, 4), random.randint(0, 4))

    ranks = random.randint(1, 4)
    many = random.randint(1, 4)
    stages = random.randint(1, 5)
    place = random.choice(
        [
            list(range(ranks)),
            [s % ranks for s in range(2 * ranks)],
            [min(s, 2 * ranks - 1 - s) for s in range(2 * ranks)],
            [random.randrange(ranks) for _ in range(stages)],
        ]
    )
    shape = random.choice(["one", "one", "both ways", "copies", "fed", "fed by many"])
    lines = [pipeline("main", place, many, costs)]
    if shape in ("both ways", "copies"):
        other = place[::-1] if shape == "both ways" else random.sample(place, len(place))
        more = random.randint(1, 3)
        lines.append(pipeline("up", other, more, costs, first=many, replicates=0))
    elif shape.startswith("fed"):
        feeds = tuple(
            sorted({Feed(0, random.randrange(len(place))) for _ in range(random.randint(1, 3))})
        )
        for q in range(1 if shape == "fed" else 2):
            short = [random.randrange(ranks) for _ in range(random.randint(1, 3))]
            lines.append(
                pipeline(
                    f"side{q}", short, many, costs, feeds=feeds, forward_only=random.random() < 0.3
                )
            )
    return model(
        ranks,
        *lines,
        transfer=random.choice([0, 0, 1, 2, 5]),
        slices=random.choice([0, 0, 0, 2, 3]),
        pair=random.choice([None, 3, 5]),
    )
