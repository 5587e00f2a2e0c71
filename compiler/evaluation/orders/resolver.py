"""`Resolver`: the order of one rank while it is made, and `Request`, what its text asks for."""

from collections.abc import Callable
from typing import NamedTuple

from stretto.compiler.diagnostics.diagnostic import Label
from stretto.compiler.diagnostics.source import Span
from stretto.compiler.evaluation.orders.cursor import Cursor
from stretto.compiler.evaluation.resolved import ResolvedPipeline
from stretto.compiler.problem.spec import Kind, Unit


class Request(NamedTuple):
    """An operation as an order writes it, its expressions computed; what is None is filled in when
    the request is resolved."""

    kind: Kind
    pipeline: int | None
    stage: int | None
    microbatch: int | None
    slice: int | None
    optional: bool
    span: Span


class Resolver:
    """One rank: its stages with what is scheduled of them, and the `units` of its order so far.

    `slices` is 0 where micro-batches are not cut. `span` gives the place of a text by its index,
    `microbatches_at` says where a pipeline's number of micro-batches stands.
    """

    def __init__(
        self,
        rank: int,
        pipelines: tuple[ResolvedPipeline, ...],
        held: list[tuple[int, int]],
        slices: int,
        span: Callable[[int], Span],
        microbatches_at: Callable[[int], Label],
    ):
        self.rank = rank
        self.pipelines = pipelines
        self.cut = slices > 0
        self.slices = slices
        self.span = span
        self.microbatches_at = microbatches_at
        self.cursors = {(p, s): Cursor(pipelines[p], s, slices) for p, s in held}
        self.cursors_of: dict[int, list[Cursor]] = {}  # by pipeline
        for (p, _), cursor in self.cursors.items():
            self.cursors_of.setdefault(p, []).append(cursor)
        self.single = {p: some[0] for p, some in self.cursors_of.items() if len(some) == 1}
        self.units: list[Unit] = []
        self.inputs = 0  # how many I's are scheduled: the next one's number on this rank
        self.failures = 0  # how many steps could not be taken

    def name(self, cursor: Cursor, cell: tuple[int, int]) -> str:
        """`main[0, 3]`: stage and micro-batch, with the slice where there are slices."""
        k = f", slice {cell[1]}" if self.cut else ""
        return f"{cursor.pipeline.name}[{cursor.stage}, {cell[0]}{k}]"
