"""`Cursor`: one stage on one rank while the rank's order is made; `StageCursor`, what it has in
common with that of a stage that is cut into parts."""

from collections import deque
from collections.abc import Iterator

from stretto.compiler.evaluation.resolved import ResolvedPipeline
from stretto.compiler.problem.spec import Kind

UNSCHEDULED = -1


class StageCursor:
    """One stage on this rank, and how many micro-batches it has."""

    __slots__ = ("microbatches", "pipeline", "stage")

    def __init__(self, pipeline: ResolvedPipeline, stage: int):
        self.pipeline = pipeline
        self.stage = stage
        self.microbatches = pipeline.microbatches


class Cursor(StageCursor):
    """One stage on this rank: which of its operations are scheduled, and by which text (index of a
    span, or UNSCHEDULED). Forwards are numbered in the order in which they are filled in,
    micro-batch by micro-batch and slice by slice; backwards with the slices reversed."""

    __slots__ = (
        "backward", "forward", "full", "next_backward", "next_forward", "slices", "total",
        "waiting", "weight",
    )  # fmt: skip

    def __init__(self, pipeline: ResolvedPipeline, stage: int, slices: int):
        super().__init__(pipeline, stage)
        self.slices = slices or 1
        self.total = pipeline.microbatches * self.slices
        self.forward = [UNSCHEDULED] * self.total
        self.backward = [UNSCHEDULED] * (0 if pipeline.forward_only else self.total)
        self.weight = list(self.backward)  # numbered like backwards
        self.full = bytearray(len(self.backward))  # 1 where the backward is a B
        self.next_forward = 0
        self.next_backward = 0
        self.waiting: deque[tuple[int, int]] = (
            deque()
        )  # I's without their W: (number of the I on the rank, number of the W)

    def cell(self, number: int, backward: bool) -> tuple[int, int]:
        """Micro-batch and slice of the operation with this number."""
        microbatch, k = divmod(number, self.slices)
        return microbatch, self.slices - 1 - k if backward else k

    def number(self, microbatch: int, k: int, backward: bool) -> int:
        """The inverse of `cell`."""
        return microbatch * self.slices + (self.slices - 1 - k if backward else k)

    def oldest(self) -> tuple[int, int] | None:
        """The weight gradient that has waited longest, as it stands in `waiting`."""
        waiting, weight = self.waiting, self.weight
        while waiting and weight[waiting[0][1]] != UNSCHEDULED:
            waiting.popleft()
        return waiting[0] if waiting else None

    def left_out(self) -> Iterator[tuple[Kind, list[int]]]:
        """The operations that are not scheduled, by kind: their numbers. `B` stands for a backward
        of which nothing is scheduled."""
        forward, backward, weight = self.forward, self.backward, self.weight
        free = [at == UNSCHEDULED for at in backward]
        waits = [at == UNSCHEDULED for at in weight]
        found: dict[Kind, list[int]] = {
            "F": [i for i, at in enumerate(forward) if at == UNSCHEDULED],
            "B": [i for i, (x, y) in enumerate(zip(free, waits, strict=True)) if x and y],
            "I": [i for i, (x, y) in enumerate(zip(free, waits, strict=True)) if x and not y],
            "W": [i for i, (x, y) in enumerate(zip(free, waits, strict=True)) if y and not x],
        }
        yield from ((kind, numbers) for kind, numbers in found.items() if numbers)
