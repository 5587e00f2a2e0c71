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
        "backward", "forward", "full", "next_backward", "next_forward", "passed", "slices",
        "total", "waiting", "waiting_slices", "weight",
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
        self.waiting_slices: dict[int, deque[tuple[int, int]]] = {}  # the same, by slice
        self.passed: dict[tuple[bool, int], int] = {}

    def cell(self, number: int, backward: bool) -> tuple[int, int]:
        """Micro-batch and slice of the operation with this number."""
        microbatch, k = divmod(number, self.slices)
        return microbatch, self.slices - 1 - k if backward else k

    def number(self, microbatch: int, k: int, backward: bool) -> int:
        """The inverse of `cell`."""
        return microbatch * self.slices + (self.slices - 1 - k if backward else k)

    def next_of_slice(self, k: int, backward: bool) -> int | None:
        """The number of the first operation of slice k that is not scheduled. What was passed once
        is not looked at again: `passed` has the micro-batch to go on with."""
        scheduled = self.backward if backward else self.forward
        for m in range(self.passed.get((backward, k), 0), self.microbatches):
            self.passed[backward, k] = m
            number = self.number(m, k, backward)
            if scheduled[number] == UNSCHEDULED:
                return number
        return None

    def wait(self, place: tuple[int, int]) -> None:
        """An I was scheduled whose W is to come."""
        self.waiting.append(place)
        if self.slices > 1:
            k = self.cell(place[1], True)[1]
            self.waiting_slices.setdefault(k, deque()).append(place)

    def oldest(self, k: int | None = None) -> tuple[int, int] | None:
        """The weight gradient that has waited longest, of slice k if it is given, as it stands in
        `waiting`."""
        whole = k is None or self.slices == 1
        waiting = self.waiting if whole else self.waiting_slices.get(k or 0)
        weight = self.weight
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
