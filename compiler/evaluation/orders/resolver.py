"""`Resolver`: the order of one rank while it is made, and `Request`, what its text asks for."""

from collections.abc import Callable, Iterable
from typing import Generic, NamedTuple, TypeVar

from msgspec import Struct

from stretto.compiler.diagnostics.diagnostic import Label
from stretto.compiler.diagnostics.source import Span
from stretto.compiler.evaluation.orders.cursor import Cursor, StageCursor
from stretto.compiler.evaluation.resolved import ResolvedPipeline
from stretto.compiler.problem.spec import Kind, Unit


class Request(Struct, frozen=True, gc=False):
    """An operation as an order writes it, its expressions computed; what is None is filled in when
    the request is resolved."""

    kind: Kind
    pipeline: int | None
    stage: int | None
    microbatch: int | None
    slice: int | None
    optional: bool
    span: Span
    part: str | None = None
    layer: int | None = None

    @property
    def what(self) -> str:
        """`F`, or `F.mlp`."""
        return self.kind if self.part is None else f"{self.kind}.{self.part}"


class RankText(NamedTuple):
    """What the orders of all ranks are told of the file: `span` gives the place of a text by its
    index, `microbatches_at` says where a pipeline's number of micro-batches stands."""

    pipelines: tuple[ResolvedPipeline, ...]
    span: Callable[[int], Span]
    microbatches_at: Callable[[int], Label]


AnyCursor = TypeVar("AnyCursor", bound=StageCursor)


class RankResolver(Generic[AnyCursor]):
    """One rank: its stages with what is scheduled of them, and the `units` of its order so far.
    `single`: of pipelines with one stage here that stage; `only`: the rank's one stage, if there
    are no others and all kinds of operations run on it."""

    def __init__(self, rank: int, text: RankText, cursors: Iterable[AnyCursor]):
        self.rank = rank
        self.pipelines = text.pipelines
        self.span = text.span
        self.microbatches_at = text.microbatches_at
        self.cursors = {(cursor.pipeline.index, cursor.stage): cursor for cursor in cursors}
        self.cursors_of: dict[int, list[AnyCursor]] = {}  # by pipeline
        for (p, _), cursor in self.cursors.items():
            self.cursors_of.setdefault(p, []).append(cursor)
        self.single = {p: some[0] for p, some in self.cursors_of.items() if len(some) == 1}
        alone = len(self.cursors) == 1
        self.only = next(
            (c for c in self.cursors.values() if alone and not c.pipeline.forward_only), None
        )
        self.units: list[Unit] = []
        self.failures = 0  # how many steps could not be taken


class Resolver(RankResolver[Cursor]):
    """A rank whose stages are whole. `slices` is 0 where micro-batches are not cut."""

    def __init__(self, rank: int, text: RankText, held: list[tuple[int, int]], slices: int):
        super().__init__(rank, text, (Cursor(text.pipelines[p], s, slices) for p, s in held))
        self.cut = slices > 0
        self.slices = slices
        self.inputs = 0  # how many I's are scheduled: the next one's number on this rank

    def name(self, cursor: Cursor, cell: tuple[int, int]) -> str:
        """`main[0, 3]`: stage and micro-batch, with the slice where there are slices."""
        k = f", slice {cell[1]}" if self.cut else ""
        return f"{cursor.pipeline.name}[{cursor.stage}, {cell[0]}{k}]"
