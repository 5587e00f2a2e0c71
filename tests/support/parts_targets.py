"""Instances of stages that are cut into parts: those of `tests/data/parts_targets.json` by their
names, and random ones."""

import json
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from msgspec.structs import replace

from stretto.compiler.problem.spec import Limit, Part, PartFigures, Pipeline, Spec, Stage, Transfer
from tests.support.parts import chain, parts_spec, stage

TABLE = Path(__file__).parent.parent / "data" / "parts_targets.json"


@cache
def targets() -> list[dict[str, Any]]:
    """The rows: best value known, proven bound, and the published order's value."""
    rows: list[dict[str, Any]] = json.loads(TABLE.read_text())["instances"]
    return rows


def target_spec(name: str, layers: int = 1) -> Spec:
    """The Spec of a row by its id: `dual-p4-m8-1to1-k5-c0` is DualPipe's placement on 4 ranks, 8
    micro-batches, the costs 1to1, at most 5 activations of a stage on a rank, transfers of 0; `lin`
    is one stage per rank, `v` DualPipeV's placement."""
    kind, *words = name.split("-")
    p, m, costs, k, c = words
    ranks, many, limit, transfer = (int(word[1:]) for word in (p, m, k, c))
    made: dict[str, Any] = {"costs": costs, "layers": layers, "limit": limit, "transfer": transfer}
    if kind == "dual":
        return parts_spec(ranks, many, (lambda s: s, lambda s: ranks - 1 - s), **made)
    spec = parts_spec(ranks, many, **made)
    if kind == "lin":
        return spec
    places = [*range(ranks), *reversed(range(ranks))]
    line = replace(spec.pipelines[0], stages=tuple(stage(rank, costs, layers) for rank in places))
    return replace(spec, pipelines=(line,), parts=((chain(layers),) * len(places),))


def random_parts(random: Random, operations: int) -> Spec:
    """A Spec of at most so many operations: chains on two streams that begin and end on either,
    costs of 0 among others, memory of stages and parts, limits that one micro-batch at a time can
    nearly always keep to, backwards split or not, transfers, one pipeline or two."""
    while True:
        spec = _random_parts(random)
        each = sum(len(c) * (2 + spec.split_backward) for row in spec.parts for c in row)
        if each * spec.pipelines[0].microbatches <= operations:
            return spec


def _random_parts(random: Random) -> Spec:
    ranks, many, both = random.choice([1, 2, 2]), random.choice([1, 2, 2, 3]), random.random() < 0.3
    streams = random.choice([(0, 1), (0, 1, 0), (1, 0), (0, 1, 0, 1), (0,), (1, 0, 1)])
    own = tuple(Part(f"part{k}", -1, stream) for k, stream in enumerate(streams))
    split = random.random() < 0.7

    def figures(stream: int) -> PartFigures:
        f, i = random.choice([0, 1, 2, 3]), random.choice([1, 2, 3])
        w = random.choice([0, 1, 2]) if stream == 0 and split else 0
        grains = random.choice([0, 0, 0, 1])
        return PartFigures(f, 0 if split else i + w, i if split else 0, w, grains)

    def made(rank: int) -> Stage:
        rows = tuple(figures(stream) for stream in streams)
        f, b, i, w = (sum(getattr(row, kind) for row in rows) for kind in "FBIW")
        activation = random.choice([1, 2])
        kept = random.choice([1, activation])
        return Stage(rank, f, b, i, w, activation, kept, parts=rows)

    down = [made(rank) for rank in range(ranks)]
    lines = [Pipeline("down", tuple(down), many, 0, 0, model="down")]
    if both:
        up = tuple(replace(down[s], rank=ranks - 1 - s) for s in range(ranks))
        lines.append(replace(lines[0], name="up", stages=up, first=many, replicates=0))
    need = max(one.activation + sum(row.activation for row in one.parts) for one in down)
    limit = Limit(need * (2 if both else 1) + random.choice([0, 0, 1, 3]), 0)
    ticks = random.choice([0, 0, 1])
    base = parts_spec(ranks, many * len(lines))
    return replace(
        base,
        pipelines=tuple(lines),
        split_backward=split,
        transfers=tuple(Transfer(a, 1 - a, ticks) for a in range(2)) if ticks and ranks > 1 else (),
        limits=(limit,) * ranks if random.random() < 0.8 else (),
        parts=tuple((own,) * ranks for _ in lines),
    )
