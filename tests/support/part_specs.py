"""Random Specs of stages that are cut into parts: chains of any length on one to three streams,
stages that differ, layers, placements in a line, a V and both ways, limits, transfers, rules,
pipelines that only run forwards or feed another."""

from random import Random

from stretto.compiler.diagnostics.source import Span
from stretto.compiler.problem.spec import (
    CostOverride,
    Feed,
    Limit,
    Operation,
    Part,
    PartFigures,
    Pipeline,
    Rule,
    Spec,
    Stage,
    Transfer,
)

STREAMS = ("compute", "comm", "copy")


def random_chain(random: Random, longest: int, streams: int) -> tuple[Part, ...]:
    """Some parts, some of them in layers."""
    layers = random.choice([0, 0, 1, 2])
    group = [(f"g{k}", random.randrange(streams)) for k in range(random.randint(1, 2))]
    alone = [Part(f"p{k}", -1, random.randrange(streams)) for k in range(random.randint(1, 2))]
    grouped = [Part(name, layer, on) for layer in range(layers) for name, on in group]
    return tuple([*alone[:1], *grouped, *alone[1:]][:longest])


def random_stage(
    random: Random, rank: int, chain: tuple[Part, ...], *, split: bool, most: int = 3
) -> Stage:
    """A stage with random costs, 0 among them, and memory by part."""
    rows = []
    for part in chain:
        F, B, I, W = (random.randint(0, most) for _ in "FBIW")  # noqa: E741
        own = split and part.stream == 0
        grains = random.choice([0, 0, 1])
        rows.append(PartFigures(F, 0 if split else B, I if split else 0, W if own else 0, grains))
    F, B, I, W = (sum(getattr(row, kind) for row in rows) for kind in "FBIW")  # noqa: E741
    activation = random.randint(0, 2)
    kept = random.randint(0, activation)
    return Stage(rank, F, I + W if split else B, I, W, activation, kept, parts=tuple(rows))


def random_parts(
    random: Random, *, ranks: int = 2, microbatches: int = 2, longest: int = 3
) -> Spec:
    """A Spec without limits."""
    streams, split = random.randint(1, 3), random.random() < 0.7
    shape = random.choice(["line", "line", "vee", "both", "fed", "evaluated"])
    alike = random_chain(random, longest, streams)
    parts: list[tuple[tuple[Part, ...], ...]] = []
    lines: list[Pipeline] = []

    def pipeline(places: list[int], many: int, first: int = 0, **more: object) -> None:
        chains = [
            alike if random.random() < 0.6 else random_chain(random, longest, streams)
            for _ in places
        ]
        if "replicates" in more:
            chains = list(parts[0])
        parts.append(tuple(chains))
        stages = tuple(
            random_stage(random, rank, own, split=split)
            for rank, own in zip(places, chains, strict=True)
        )
        name = ("down", "up", "side")[len(lines)]
        lines.append(Pipeline(name, stages, many, first, 0, **more))  # type: ignore[arg-type]

    line = list(range(ranks))
    if shape == "vee":
        pipeline([*line, *reversed(line)], microbatches)
    elif shape == "both":
        pipeline(line, microbatches)
        pipeline(line[::-1], microbatches, microbatches, replicates=0)
    elif shape == "fed":
        pipeline(line, microbatches)
        where = random.randrange(ranks)
        pipeline([ranks - 1], microbatches, feeds=(Feed(0, where),))
        if random.random() < 0.5:
            pipeline([0], microbatches, feeds=(Feed(0, where),), forward_only=True)
    elif shape == "evaluated":
        pipeline(line, microbatches, forward_only=True)
    else:
        pipeline(line, microbatches)
    travel = random.choice([0, 0, 1])
    pairs = [(a, b) for a in range(ranks) for b in range(ranks) if a != b]
    return Spec(
        name="at_random",
        ranks=ranks,
        microbatches=sum(one.microbatches for one in lines),
        pipelines=tuple(lines),
        time_unit=1,
        size_unit=1,
        spans=(Span("at_random.pipe", 1, 1, 1, 2),),
        split_backward=split,
        transfers=tuple(Transfer(a, b, travel) for a, b in pairs) if travel else (),
        order=("",) * ranks,
        streams=STREAMS[:streams],
        parts=tuple(parts),
    )


def limited(spec: Spec, grains: int) -> Spec:
    """The Spec with this limit on every rank."""
    from msgspec.structs import replace

    return replace(spec, limits=(Limit(grains, 0),) * spec.ranks)


def ruled(spec: Spec, later: Operation, earlier: Operation) -> Spec:
    """The Spec with a rule."""
    from msgspec.structs import replace

    return replace(spec, rules=(*spec.rules, Rule(later, earlier, 0)))


def costly(spec: Spec, operation: Operation, ticks: int) -> Spec:
    """The Spec with a cost of its own for this operation."""
    from msgspec.structs import replace

    return replace(spec, exceptions=(*spec.exceptions, CostOverride(operation, ticks)))
