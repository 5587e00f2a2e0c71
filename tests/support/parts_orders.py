"""Specs with parts and legal orders of them, drawn at random."""

from collections.abc import Sequence
from random import Random

from msgspec.structs import replace

from stretto.compiler.order import Order, RankOrder
from stretto.compiler.problem.expand import expand
from stretto.compiler.problem.problem import Problem
from stretto.compiler.problem.spec import (
    Feed,
    Limit,
    Part,
    PartFigures,
    Pipeline,
    Rule,
    Spec,
    Stage,
    StageTicks,
    Transfer,
)
from tests.support.parts import parts_spec


def random_spec(rng: Random) -> Spec:
    """Small, and with anything that a Spec with parts can have. Its limits are for whoever has an
    order to set."""
    ranks, streams = rng.randint(1, 3), rng.choice((1, 2, 2, 2, 3))
    places = rng.choice(
        (
            (lambda s: s,),
            (lambda s: s, lambda s: ranks - 1 - s),
            (lambda s: 0,),
            (lambda s: (3 * s + 1) % ranks, lambda s: 0),
        )
    )
    spec = parts_spec(ranks, len(places) * rng.randint(1, 3), places)
    split, most = rng.random() < 0.7, rng.choice((0, 5, 5, 5, 5, 5, 5))  # ticks of a part
    chains: list[list[tuple[Part, ...]]] = []
    lines: list[Pipeline] = []
    for line in spec.pipelines:
        own = [_chain(rng, streams) for _ in line.stages]
        if line.replicates != -1:
            own = chains[0]
        stages = tuple(
            _stage(rng, stage.rank, chain, split, most)
            for stage, chain in zip(line.stages, own, strict=True)
        )
        chains.append(own)
        lines.append(replace(line, stages=stages, forward_only=rng.random() < 0.1))
    if len(lines) == 2 and rng.random() < 0.4:  # another model's, which may feed this one
        feeds = (Feed(0, rng.randrange(len(lines[0].stages))),) if rng.random() < 0.7 else ()
        lines[1] = replace(lines[1], replicates=-1, first=0, model="up", feeds=feeds)
    unshard = [
        StageTicks(p, s, rng.randint(0, 4)) for p, x in enumerate(lines) for s in range(ranks)
    ]
    trained = [line for line in lines if not line.forward_only]
    models = {line.model for line in trained}
    reduce = [one for one in unshard if lines[one.pipeline].model in models]
    return replace(
        spec,
        pipelines=tuple(lines),
        parts=tuple(tuple(row) for row in chains),
        streams=("compute", "comm", "third")[:streams],
        split_backward=split,
        transfers=tuple(
            Transfer(a, b, rng.randint(1, 4))
            for a in range(ranks)
            for b in range(ranks)
            if a != b and rng.random() < 0.4 and most
        ),
        unshard_weights=tuple(unshard) if rng.random() < 0.2 else (),
        reduce_gradients=tuple(reduce) if rng.random() < 0.3 else (),
    )


def _chain(rng: Random, streams: int) -> tuple[Part, ...]:
    return tuple(Part(f"part{k}", -1, rng.randrange(streams)) for k in range(rng.randint(1, 4)))


def _stage(rng: Random, rank: int, chain: tuple[Part, ...], split: bool, most: int) -> Stage:
    def ticks() -> int:
        return min(most, rng.choice((0, 0, 1, 1, 2, 3, 5)))

    figures = []
    for part in chain:
        i, w = ticks(), ticks() if split and part.stream == 0 else 0
        b = 0 if split else ticks()
        figures.append(PartFigures(ticks(), b, i if split else 0, w, rng.choice((0, 0, 1, 2))))
    F, B, I, W = (sum(getattr(one, kind) for one in figures) for kind in "FBIW")  # noqa: E741
    B = I + W if split else B
    activation = rng.randint(0, 3)
    kept = rng.randint(0, activation)
    return Stage(rank, F, B, I, W, activation, kept, parts=tuple(figures))


def with_rules(spec: Spec, problem: Problem, sequence: Sequence[int], rng: Random) -> Spec:
    """The Spec with some rules between operations of one rank that this sequence keeps."""
    rules = []
    for _ in range(rng.randint(0, 3) if len(sequence) > 1 else 0):
        a, b = sorted(rng.sample(range(len(sequence)), 2))
        i, j = sequence[a], sequence[b]
        if problem.rank[i] == problem.rank[j]:
            rules.append(Rule(problem.operations[j], problem.operations[i], 0))
    return replace(spec, rules=tuple(rules))


def random_sequence(problem: Problem, rng: Random) -> list[int]:
    """All operations, each after what it needs. Some draws are greedy for what was free last."""
    after: list[list[int]] = [[] for _ in problem.operations]
    waits = [0] * len(after)
    for a, b in zip(problem.tail, problem.head, strict=True):
        after[a].append(b)
        waits[b] += 1
    free, found = [i for i, many in enumerate(waits) if not many], []
    greed = rng.choice((0.0, 0.5, 0.9))
    while free:
        last = rng.random() < greed
        found.append(free.pop(-1 if last else rng.randrange(len(free))))
        for b in after[found[-1]]:
            waits[b] -= 1
            if not waits[b]:
                free.append(b)
    return found


def order_of(problem: Problem, sequence: Sequence[int], engine: str = "by hand") -> Order:
    """The Order whose lists follow the sequence."""
    ranks, streams = range(problem.spec.ranks), range(len(problem.spec.streams))
    lists = [tuple(i for i in sequence if problem.rank[i] == rank) for rank in ranks]
    lanes = [
        RankOrder(rank, stream, tuple((i,) for i in lists[rank] if problem.stream[i] == stream))
        for rank in ranks
        for stream in streams
    ]
    return Order(problem, tuple(lanes), engine, lists=tuple(lists))


def listed_anew(order: Order, rng: Random) -> Order:
    """The same streams in other lists: every rank's are merged anew, each operation behind what it
    needs of its rank. Lists of several ranks need not fit together then."""
    problem, lists = order.problem, []
    needs: list[list[int]] = [[] for _ in problem.operations]
    for a, b in zip(problem.tail, problem.head, strict=True):
        if problem.rank[a] == problem.rank[b]:
            needs[b].append(a)
    for rank in range(problem.spec.ranks):
        rows = [[i for (i,) in lane.units] for lane in order.lanes if lane.rank == rank]
        listed: dict[int, None] = {}
        while any(rows):
            ready = [row for row in rows if row and all(a in listed for a in needs[row[0]])]
            listed[rng.choice(ready).pop(0)] = None
        lists.append(tuple(listed))
    return Order(problem, order.lanes, order.engine, lists=tuple(lists))


def random_order(rng: Random) -> Order:
    """A legal order of a random Spec, with rules that it keeps; limits are still to be set."""
    spec = random_spec(rng)
    problem = expand(spec)
    sequence = random_sequence(problem, rng)
    order = order_of(expand(with_rules(spec, problem, sequence, rng)), sequence)
    return listed_anew(order, rng) if rng.random() < 0.5 else order


def limited(order: Order, peaks: Sequence[int]) -> Order:
    """The same order, of a Spec with these peaks for limits."""
    limits = tuple(Limit(grains, 0) for grains in peaks)
    problem = expand(replace(order.problem.spec, limits=limits))
    return Order(problem, order.lanes, order.engine, lists=order.lists)
