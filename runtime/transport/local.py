"""Messages between threads of one process: for notebooks, tests and machines with one device. It
is as hard as a transport may be: a message is taken only when its receive was posted.

On a device a message is a copy on a stream of its sender's own, behind two events: the tensors are
made, and the buffers are there to be written. Whoever waits, waits on the host until both ends were
issued, never for the device: its stream goes on behind the copy. So also the sender's, before it
lets go of the tensors: their memory is then free in the order of the stream that they were made on,
and nothing has to be kept for longer, or be asked whether it is over."""

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from stretto.runtime.accelerator import DeviceEvent, accelerator_of, marked, numbered
from stretto.runtime.errors import PipelineError
from stretto.runtime.transport import NOTHING, P2PLane


class Hub:
    """What the `world` ranks of one run share."""

    def __init__(self, world: int, device: torch.device | str = "cpu"):
        self.world, self.device = world, numbered(torch.device(device))
        self.accelerator = accelerator_of(self.device)
        self.store = dist.HashStore()  # type: ignore[attr-defined]
        self.lock = threading.Lock()
        self.lanes: list[_Rendezvous] = []
        self.report = ""
        self.gathered: list[Any] = [None] * world
        self.barrier = threading.Barrier(world)
        self.executors = 0  # that a rank has made, at most
        self.trained = WeakIdKeyDictionary()  # by parameter, which rank has it, and where

    def claim(self, rank: int, parameters: Mapping[str, Tensor]) -> None:
        """Notes what the rank trains, by name. Raises `PipelineError` where another rank trains the
        same tensor: both would add to its gradient side by side."""
        with self.lock:
            for name, parameter in parameters.items():
                other, where = self.trained.setdefault(parameter, (rank, name))  # pyright: ignore[reportGeneralTypeIssues]
                if other != rank:
                    first, second = sorted([(other, where), (rank, name)])
                    raise PipelineError(
                        f"`{first[1]}` on rank {first[0]} and `{second[1]}` on rank {second[0]} "
                        "are one tensor, and ranks must not share any: give each its own, as by "
                        "`copy.deepcopy` of its stages; if the model has it once, say so (`ties`)"
                    )

    def fail(self, report: str) -> None:
        """Ends every wait with a `PipelineError` of the first such report."""
        self.report = self.report or report
        self.barrier.abort()


class Local:
    """One rank's end of the hub."""

    looks, tells = True, True

    def __init__(self, hub: Hub, rank: int):
        self.hub, self.rank, self.world, self.device = hub, rank, hub.world, hub.device
        self.opened = self.executors = 0
        self.accelerator = hub.accelerator
        self.copies = None if hub.accelerator is None else hub.accelerator.stream()

    def next_executor(self) -> int:
        """The number of the rank's next executor, from 1: all ranks make theirs in one order."""
        self.executors += 1
        with self.hub.lock:
            self.hub.executors = max(self.hub.executors, self.executors)
        return self.executors

    def open(self, lanes: Sequence[P2PLane]) -> int:
        """As `Transport.open`."""
        first, self.opened = self.opened, self.opened + len(lanes)
        with self.hub.lock:  # the first rank to come makes them
            while len(self.hub.lanes) < self.opened:
                self.hub.lanes.append(_Rendezvous())
        return first

    def send(self, lane: int, tensors: Sequence[Tensor]) -> list["_LocalMessage"]:
        """As `Transport.send`."""
        return [self.hub.lanes[lane].meet(_LocalMessage(self, tensors), "sends")]

    def receive(self, lane: int, buffers: Sequence[Tensor]) -> list["_LocalMessage"]:
        """As `Transport.receive`."""
        return [self.hub.lanes[lane].meet(_LocalMessage(self, buffers), "receives")]

    def gather(self, value: Any) -> list[Any]:
        """What all ranks give, by rank; they wait for each other. Raises `PipelineError` where one
        fails."""
        hub = self.hub
        try:
            hub.gathered[self.rank] = value
            hub.barrier.wait()
            every = list(hub.gathered)
            hub.barrier.wait()
        except threading.BrokenBarrierError:
            raise PipelineError(hub.report or "the ranks of this process have stopped") from None
        return every

    def flush(self) -> None:
        """As `Transport.flush`: a message is over for both ends at once."""

    def abort(self, report: str) -> None:
        """Ends every rank's waits with `PipelineError`."""
        self.hub.fail(report)


class _LocalMessage:
    """One end of a message: its tensors, and whether the other end has come; `absent`: the places
    of what was not there. On a device `issued` is where this end was begun, in `stream`, `copied`
    where its copy ends."""

    __slots__ = ("absent", "copied", "hub", "issued", "over", "rank", "stream", "tensors")

    def __init__(self, rank: Local, tensors: Sequence[Tensor]):
        self.rank, self.hub, self.tensors = rank, rank.hub, tensors
        self.over, self.absent = threading.Event(), frozenset[int]()
        self.issued: DeviceEvent | None = None
        self.copied: DeviceEvent | None = None
        self.stream: Any = None
        if (device := self.hub.accelerator) is not None:
            self.stream = device.current()
            self.issued = marked(device, self.stream)

    def is_completed(self) -> bool:
        return self.over.is_set()

    def wait(self) -> None:
        while not self.over.wait(0.05):
            if self.hub.report:
                raise PipelineError(self.hub.report)
        if self.copied is not None and self.hub.accelerator is not None:
            # Its memory is this stream's; who waits may be another, at the end of a list.
            self.stream.wait_event(self.copied)
            here = self.hub.accelerator.current()
            if here != self.stream:
                here.wait_event(self.copied)
            self.tensors = ()


class _Rendezvous:
    """A lane: whichever end of a message comes second copies the tensors."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.waiting: dict[str, deque[_LocalMessage]] = {"sends": deque(), "receives": deque()}

    def meet(self, message: _LocalMessage, side: str) -> _LocalMessage:
        other = self.waiting["receives" if side == "sends" else "sends"]
        with self.lock:
            if not other:
                self.waiting[side].append(message)
                return message
            peer = other.popleft()
            sent, received = (message, peer) if side == "sends" else (peer, message)
            _carry(sent, received)
        peer.over.set()
        message.over.set()
        return message


def _carry(sent: _LocalMessage, received: _LocalMessage) -> None:
    """Copies the tensors, on a device behind all that both ends were given before."""
    device, stream = sent.hub.accelerator, sent.rank.copies
    if device is None or stream is None:
        _copy(sent, received)
        return
    with device.on(stream):
        stream.wait_event(sent.issued)
        stream.wait_event(received.issued)
        _copy(sent, received)
        sent.copied = received.copied = marked(device, stream)


def _copy(sent: _LocalMessage, received: _LocalMessage) -> None:
    received.absent = frozenset(at for at, one in enumerate(sent.tensors) if one is NOTHING)
    with torch.no_grad():
        for buffer, tensor in zip(received.tensors, sent.tensors, strict=True):
            if tensor is not NOTHING:
                buffer.copy_(tensor)
