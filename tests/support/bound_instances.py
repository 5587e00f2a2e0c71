"""Small random Specs of every shape, for the bounds to be wrong about."""

from random import Random
from typing import Any

import msgspec

from stretto.compiler.problem.spec import CostOverride, Feed, Limit, Operation, Rule, Spec, Stage
from tests.support import specs

SHAPES = (
    "linear",
    "unequal",
    "release",
    "interleaved",
    "vee",
    "both ways",
    "pairs",
    "random places",
    "fed",
    "slices",
)


def instance(shape: str, random: Random, operations: int) -> Spec:
    """A random Spec of the shape with about so many operations, under a limit that leaves room
    for one micro-batch at a time and up to three times that."""
    split = random.random() < 0.7
    kinds = 3 if split else 2
    ranks = random.randint(2, 4)
    chunks = {"interleaved": 2, "vee": 2, "both ways": 1, "pairs": 1}.get(shape, 1)
    slices = 2 if shape == "slices" else 0
    per_microbatch = ranks * chunks * kinds * max(slices, 1)
    many = max(2, operations // per_microbatch)
    costs = drawn(random)
    more: dict[str, Any] = {
        "transfer": random.choice([0, 0, 1, 2]),
        "split": split,
        "slices": slices,
        "minimize": "span" if random.random() < 0.3 else "makespan",
    }

    def uneven(_: int) -> specs.Costs:
        return drawn(random)

    model = uneven if shape in ("unequal", "random places", "fed") else costs
    if shape == "pairs":
        more["pair"] = random.randint(max(costs[0], sum(costs[1:])), sum(costs))
    if shape == "interleaved":
        spec = specs.interleaved(ranks, 2, many, model, **more)
    elif shape == "vee":
        spec = specs.vee(ranks, many, model, **more)
    elif shape in ("both ways", "pairs"):
        spec = specs.both_ways(ranks, many, model, **more)
    elif shape == "random places":
        place = [random.randrange(ranks) for _ in range(random.randint(2, 4))]
        many = max(2, operations // (kinds * len(place)))
        spec = specs.model(ranks, specs.pipeline("main", place, many, model), **more)
    elif shape == "fed":
        spec = _fed(ranks, max(2, many // 2), model, random, more)
    else:
        spec = specs.linear(ranks, many, model, **more)
    return limited(sized(spec, shape, random), random)


def drawn(random: Random) -> specs.Costs:
    return random.randint(1, 6), random.randint(1, 6), random.randint(1, 6)


def _fed(
    ranks: int, many: int, model: specs.StageCosts, random: Random, more: dict[str, Any]
) -> Spec:
    """A pipeline that feeds another; sometimes it learns nothing."""
    side = specs.pipeline(
        "side",
        [random.randrange(ranks)],
        many,
        model,
        feeds=(Feed(0, random.randrange(ranks)),),
        forward_only=random.random() < 0.4,
    )
    return specs.model(ranks, specs.pipeline("main", range(ranks), many, model), side, **more)


def bent(spec: Spec, random: Random) -> Spec:
    """The Spec with something that makes micro-batches differ, or with demands on the order that
    some order meets."""
    way = random.choice(["quicker whole", "exceptions", "rules", "family", "part", "ranks"])
    if way == "quicker whole":
        return msgspec.structs.replace(
            spec,
            pipelines=tuple(
                msgspec.structs.replace(
                    line,
                    stages=tuple(
                        msgspec.structs.replace(s, B=random.randint(1, s.B + 2))
                        for s in line.stages
                    ),
                )
                for line in spec.pipelines
            ),
        )
    free = msgspec.structs.replace(spec, limits=() if way != "exceptions" else spec.limits)
    order = specs.random_order(free, random, split=1.0 if spec.split_backward else 0.0)
    listed = [unit.operations[0] for units in order.written for unit in units]
    if way == "exceptions":
        some = random.sample(listed, 3)
        odd = tuple(CostOverride(op, random.randint(1, 9)) for op in dict.fromkeys(some))
        return msgspec.structs.replace(spec, exceptions=odd)
    if way == "rules":
        rules = []
        for units in order.written:
            if len(units) > 1:
                a, b = sorted(random.sample(range(len(units)), 2))
                rules.append(Rule(units[b].operations[0], units[a].operations[0], 0))
        return msgspec.structs.replace(free, rules=tuple(rules[:3]))
    if way == "family":
        shift, line = random.randint(1, 3), spec.pipelines[0]
        s, k = random.randrange(len(line.stages)), max(spec.slices - 1, -1)
        ms = range(shift, 0 if line.forward_only else line.microbatches)
        family = [
            Rule(Operation("F", 0, s, m, min(k, 0)), Operation("B", 0, s, m - shift, k), 0)
            for m in ms
        ]
        return msgspec.structs.replace(free, rules=tuple(family))
    keep = set(random.choice(["FI", "F", "FIBW"]))
    written = tuple(
        tuple(unit for unit in units if unit.operations[0].kind in keep)
        if way == "part" or random.random() < 0.5
        else ()
        for units in order.written
    )
    return msgspec.structs.replace(order, written=written)


def sized(spec: Spec, shape: str, random: Random) -> Spec:
    """Sizes of activations: alike, but where the shape is about them."""
    odd = shape in ("release", "unequal", "fed")
    lines = []
    for line in spec.pipelines:
        stages = []
        for stage in line.stages:
            size = random.randint(1, 4) if odd else 2
            kept = random.randint(0, size) if shape == "release" else size
            stages.append(msgspec.structs.replace(stage, activation=size, kept=kept))
        lines.append(msgspec.structs.replace(line, stages=tuple(stages)))
    return msgspec.structs.replace(spec, pipelines=tuple(lines))


def limited(spec: Spec, random: Random) -> Spec:
    """A limit on every rank, sometimes none."""
    if random.random() < 0.1:
        return spec
    limits = []
    for rank in range(spec.ranks):
        one = smallest(spec, rank)
        limits.append(Limit(random.randint(one, max(one, 3 * one)), 0))
    return msgspec.structs.replace(spec, limits=tuple(limits))


def smallest(spec: Spec, rank: int) -> int:
    """What one micro-batch at a time leaves on a rank: pipelines of which one feeds another hold
    theirs together."""
    size = 0
    for p, line in enumerate(spec.pipelines):
        sizes = [_held(s, spec) for s in line.stages if s.rank == rank]
        if line.forward_only:
            size = max([size, *sizes])
            continue
        sizes += [
            _held(s, spec)
            for q, other in enumerate(spec.pipelines)
            if q != p and not other.forward_only and any(f.pipeline == p for f in other.feeds)
            for s in other.stages
            if s.rank == rank
        ]
        size = max(size, sum(sizes))
    return size


def _held(stage: Stage, spec: Spec) -> int:
    return stage.activation * max(spec.slices, 1)
