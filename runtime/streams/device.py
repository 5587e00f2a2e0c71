"""The streams of a rank on a GPU. One thread issues all instructions in the sequence of the list,
each on its own device stream: stream 0 of the plan is the stream that is current where the step is
taken, the others are torch's. An `await` is an event that the device waits for; the host waits for
nothing. The event is recorded before anybody waits for it, since the `await` stands behind the
computation in the list.

A tensor that was made on one stream and is used on another is told to torch's allocator
(`record_stream`), so that its memory is not used again before that use is over: the graph that a
part leaves keeps such tensors, and lets go of them in its backward, on whatever stream that is.
(What messages carry needs none of this: see `transport.local`.)
"""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from torch import Tensor

from stretto.compiler.program.program import Operation
from stretto.runtime.accelerator import Accelerator, DeviceEvent
from stretto.runtime.containers import tensors


class DeviceStreams:
    """The streams of one rank, the same for all steps: `count` of them, on `device`."""

    def __init__(self, device: Accelerator, count: int):
        self.device = device
        self.others = [device.stream() for _ in range(count - 1)]
        self.streams: list[Any] = []
        self.awaited: set[Operation] = set()
        self.events: dict[Operation, DeviceEvent] = {}

    @contextmanager
    def step(self, awaited: Iterable[Operation]) -> Iterator[None]:
        """Around a step's list: the streams begin behind what the current one has been given
        before, and what that is given afterwards comes behind all of them."""
        first = self.device.current()
        self.streams, self.awaited = [first, *self.others], set(awaited)
        for stream in self.others:
            stream.wait_stream(first)
        try:
            yield
        finally:
            for stream in self.others:
                first.wait_stream(stream)
            self.events.clear()

    def on(self, stream: int) -> AbstractContextManager[Any]:
        """Around an instruction of this stream."""
        return self.device.on(self.streams[stream])

    def ended(self, operation: Operation) -> None:
        """The computation was issued on the current stream: its event, if somebody awaits it."""
        if operation in self.awaited:
            event = self.events[operation] = self.device.mark()
            event.record(self.device.current())

    def await_(self, operation: Operation) -> None:
        """The current stream goes on when the computation has ended."""
        self.device.current().wait_event(self.events[operation])

    def lend(self, value: Any) -> None:
        """What is about to be used on the current stream, wherever it was made."""
        here = self.device.current()
        for tensor in tensors(value):
            if isinstance(tensor, Tensor):
                self.device.uses(tensor, here)
