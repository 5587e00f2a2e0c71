"""What the runtime asks of a device that works behind the host: streams, events, and time for a
tensor's last use. In comes the device of the stages; out comes what issues to it, or None for the
CPU, whose work is done when a call returns.

Nothing else of the runtime names `torch.cuda`'s streams, so that the order of all that is issued
can be checked without a GPU: the tests put a device in this place that knows what happens before
what.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, Protocol

import torch
from torch import Tensor


class DeviceEvent(Protocol):
    """A place in a stream."""

    def record(self, stream: Any) -> None:
        """The place is behind all that the stream was given."""
        ...

    def query(self) -> bool:
        """Whether the device has come to it. Does not wait."""
        ...


class DeviceGraph(Protocol):
    """What a device was given between the begin and the end of a capture."""

    def replay(self) -> None:
        """Gives it to the device once more, on the current stream."""
        ...


class Accelerator(Protocol):
    """A device and its streams: each does what it is given one after another, by itself. They are
    as torch's: `stream.wait_event(event)` lets what it is given from then on begin behind an event
    that was recorded, `stream.wait_stream(other)` behind all that the other was given."""

    def current(self) -> Any:
        """The stream to which this thread issues."""
        ...

    def stream(self) -> Any:
        """A stream beside those that there are."""
        ...

    def on(self, stream: Any) -> AbstractContextManager[Any]:
        """Around what this thread issues to the stream."""
        ...

    def mark(self) -> DeviceEvent:
        """A place that is not recorded yet."""
        ...

    def uses(self, tensor: Tensor, stream: Any) -> None:
        """The tensor, made on another stream, is used on this one: when it is let go of, its memory
        is not given away before what that stream has been given by then is over."""
        ...

    def capture(self) -> AbstractContextManager[tuple[DeviceGraph, Any]]:
        """Around what is captured instead of run: what is issued, by whatever thread, to the stream
        that is given beside the graph, and to all that begin behind it and end before it does."""
        ...

    def synchronize(self) -> None:
        """Waits until the device has nothing left to do."""
        ...


class Cuda:
    """A GPU, by `torch.cuda`."""

    def __init__(self, device: torch.device):
        self.device = device

    def current(self) -> torch.cuda.Stream:
        """As `Accelerator.current`."""
        return torch.cuda.current_stream(self.device)

    def stream(self) -> torch.cuda.Stream:
        """As `Accelerator.stream`. torch has 32 for a device and gives them out in turn; two that
        are one stream wait for each other more than they must, and never in a circle."""
        return torch.cuda.Stream(self.device)

    def on(self, stream: torch.cuda.Stream) -> AbstractContextManager[Any]:
        """As `Accelerator.on`."""
        return torch.cuda.stream(stream)

    def mark(self) -> torch.cuda.Event:
        """As `Accelerator.mark`."""
        return torch.cuda.Event()

    def uses(self, tensor: Tensor, stream: torch.cuda.Stream) -> None:
        """As `Accelerator.uses`."""
        if tensor.is_cuda:
            tensor.record_stream(stream)

    @contextmanager
    def capture(self) -> Iterator[tuple[torch.cuda.CUDAGraph, torch.cuda.Stream]]:
        """As `Accelerator.capture`. Other threads may meanwhile do what a capture must not, such as
        to ask whether an event is over. Raises what torch does where something was issued that
        cannot be captured; where the body fails, that is raised instead."""
        graph, origin = torch.cuda.CUDAGraph(), self.stream()
        around = torch.cuda.graph(graph, stream=origin, capture_error_mode="thread_local")
        around.__enter__()
        try:
            yield graph, origin
        except BaseException as error:
            with suppress(RuntimeError):
                around.__exit__(type(error), error, error.__traceback__)
            raise
        around.__exit__(None, None, None)

    def synchronize(self) -> None:
        """As `Accelerator.synchronize`."""
        torch.cuda.synchronize(self.device)


def marked(device: Accelerator, stream: Any) -> DeviceEvent:
    """The place where the stream is."""
    event = device.mark()
    event.record(stream)
    return event


def accelerator_of(device: torch.device) -> Accelerator | None:
    """What issues to the device; None for the CPU."""
    return Cuda(device) if device.type == "cuda" else None


def numbered(device: torch.device) -> torch.device:
    """The device by its number: a thread that is started later may have another current one."""
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device
