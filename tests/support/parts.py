"""Specs of stages that are cut into parts, made by hand: for tests that start behind the language.
`parts_spec` makes what a file with `split F into LAYERS * (att, disp on comm, mlp, comb on comm)`
and `split B into I, W` means; orders are left to the caller."""

from collections.abc import Callable, Sequence

from stretto.compiler.diagnostics.source import Span
from stretto.compiler.problem.spec import (
    Limit,
    Part,
    PartFigures,
    Pipeline,
    Spec,
    Stage,
    Transfer,
)

CHAIN = (("att", 0), ("disp", 1), ("mlp", 0), ("comb", 1))
"""The parts of a layer, each with its stream."""

COSTS = {
    "unit": ((1, 1, 1, 1), (1, 1, 1, 1), (1, 0, 1, 0)),
    "1to1": ((2, 3, 2, 3), (2, 3, 2, 3), (2, 0, 2, 0)),
    "dsv3": ((48, 61, 43, 73), (92, 73, 57, 44), (24, 0, 53, 0)),
    "light": ((5, 2, 4, 2), (6, 2, 5, 2), (2, 0, 4, 0)),
    "heavy": ((2, 4, 2, 4), (3, 4, 2, 4), (1, 0, 2, 0)),
}
"""Ticks of F, I and W of each part of `CHAIN`, by the names of the table of published layers."""


def chain(layers: int) -> tuple[Part, ...]:
    """The chain of a stage of so many layers."""
    return tuple(Part(name, layer, stream) for layer in range(layers) for name, stream in CHAIN)


def stage(rank: int, costs: str = "1to1", layers: int = 1, activation: int = 1) -> Stage:
    """A stage of so many layers, with a split backward."""
    rows = [PartFigures(f, 0, i, w, 0) for f, i, w in zip(*COSTS[costs], strict=True)] * layers
    F, I, W = (sum(getattr(row, kind) for row in rows) for kind in "FIW")  # noqa: E741
    return Stage(rank, F, I + W, I, W, activation, activation, parts=tuple(rows))


def parts_spec(
    ranks: int,
    microbatches: int,
    places: Sequence[Callable[[int], int]] = (lambda s: s,),
    *,
    costs: str = "1to1",
    layers: int = 1,
    limit: int | None = None,
    transfer: int = 0,
) -> Spec:
    """A Spec with one pipeline of `ranks` stages for each of `places`, which says the rank of a
    stage; from the second on they are copies of the first. `microbatches` are of all together, and
    `limit` is of stages on each rank."""
    each = microbatches // len(places)
    lines = tuple(
        Pipeline(
            name=("down", "up", "third", "fourth")[p],
            stages=tuple(stage(place(s), costs, layers) for s in range(ranks)),
            microbatches=each,
            first=p * each,
            at=0,
            replicates=0 if p else -1,
            model="down",
        )
        for p, place in enumerate(places)
    )
    own = chain(layers)
    between = {
        (a.rank, b.rank)
        for line in lines
        for a, b in zip(line.stages, line.stages[1:], strict=False)
    }
    travels = sorted({pair for a, b in between for pair in ((a, b), (b, a)) if a != b})
    return Spec(
        name="by_hand",
        ranks=ranks,
        microbatches=microbatches,
        pipelines=lines,
        time_unit=1,
        size_unit=1,
        spans=(Span("by_hand.pipe", 1, 1, 1, 2),),
        split_backward=True,
        transfers=tuple(Transfer(a, b, transfer) for a, b in travels) if transfer else (),
        limits=(Limit(limit, 0),) * ranks if limit is not None else (),
        order=("",) * ranks,
        streams=("compute", "comm"),
        parts=tuple(tuple(own for _ in line.stages) for line in lines),
    )
