"""Where a device stands in a rank's list. The process that issues the list runs ahead of it, often
to the end of the step; so behind every instruction that gives the device something to do an event
is recorded, and whoever wants to know asks for the first one that is not over. Asking does not wait
for the device, and is done by the watchdog alone, when it looks."""

from typing import NamedTuple

from stretto.compiler.program.program import (
    Await,
    Compute,
    Instruction,
    ProgramName,
    Reduce,
    Wait,
)
from stretto.runtime.accelerator import Accelerator, DeviceEvent
from stretto.runtime.rank_program import RankProgram

MARKED = (Compute, Wait, Reduce, Await)
"""The types of instructions that give the device something to do, or to wait for."""


class DevicePlace(NamedTuple):
    """Where a device stands: the program, on each stream that is not at its end the instruction (as
    pairs of stream and index), and how many are over."""

    name: ProgramName
    at: tuple[tuple[int, int], ...]
    over: int


class IssuedMark(NamedTuple):
    """An instruction that the device was given, on which stream, and the event behind it."""

    stream: int
    at: int
    event: DeviceEvent


class DeviceMarks:
    """One rank's, over all steps; events are used again by the next step of the program."""

    def __init__(self, device: Accelerator):
        self.device = device
        self.events: dict[tuple[ProgramName, int], DeviceEvent] = {}
        self.last: _StepMarks | None = None

    def begin(self, program: RankProgram) -> None:
        """A step of the program is about to be issued."""
        self.last = _StepMarks(program.name, program.instructions)

    def issued(self, at: int, stream: int = 0) -> None:
        """Instruction `at` was issued, on the current stream."""
        step = self.last
        assert step is not None
        if isinstance(step.instructions[at], MARKED):
            event = self.events.get((step.name, at))
            if event is None:
                event = self.events[step.name, at] = self.device.mark()
            event.record(self.device.current())
            step.marks.append(IssuedMark(stream, at, event))

    def standing(self) -> DevicePlace | None:
        """Where the device stands; None where it has come to the end of all it was given."""
        return None if self.last is None else self.last.standing()


class _StepMarks:
    """Those of one step. `marks` grows while another thread looks."""

    def __init__(self, name: ProgramName, instructions: tuple[Instruction, ...]):
        self.name: ProgramName = name
        self.instructions = instructions
        self.marks: list[IssuedMark] = []

    def standing(self) -> DevicePlace | None:
        waiting: dict[int, int] = {}  # by stream
        over = 0
        for stream, at, event in list(self.marks):
            if stream not in waiting:
                if _is_over(event):
                    over += 1
                else:
                    waiting[stream] = at
        return DevicePlace(self.name, tuple(waiting.items()), over) if waiting else None


def _is_over(event: DeviceEvent) -> bool:
    """A device that has failed has not come to it: whoever issues to it is told why."""
    try:
        return event.query()
    except RuntimeError:
        return False
