"""Messages between threads of one process: for notebooks, tests and machines with one device. It
is as hard as a transport may be: a message is taken only when its receive was posted."""

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from stretto.runtime.errors import PipelineError
from stretto.runtime.transport import P2PLane


class Hub:
    """What the `world` ranks of one run share."""

    def __init__(self, world: int, device: torch.device | str = "cpu"):
        self.world, self.device = world, torch.device(device)
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

    looks = True

    def __init__(self, hub: Hub, rank: int):
        self.hub, self.rank, self.world, self.device = hub, rank, hub.world, hub.device
        self.opened = self.executors = 0

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
        return [self.hub.lanes[lane].meet(_LocalMessage(self.hub, tensors), "sends")]

    def receive(self, lane: int, buffers: Sequence[Tensor]) -> list["_LocalMessage"]:
        """As `Transport.receive`."""
        return [self.hub.lanes[lane].meet(_LocalMessage(self.hub, buffers), "receives")]

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

    def abort(self, report: str) -> None:
        """Ends every rank's waits with `PipelineError`."""
        self.hub.fail(report)


class _LocalMessage:
    """One end of a message: its tensors, and whether the other end has come."""

    __slots__ = ("hub", "over", "tensors")

    def __init__(self, hub: Hub, tensors: Sequence[Tensor]):
        self.hub, self.tensors, self.over = hub, tensors, threading.Event()

    def is_completed(self) -> bool:
        return self.over.is_set()

    def wait(self) -> None:
        while not self.over.wait(0.05):
            if self.hub.report:
                raise PipelineError(self.hub.report)


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
            with torch.no_grad():
                for buffer, tensor in zip(received.tensors, sent.tensors, strict=True):
                    buffer.copy_(tensor)
        peer.over.set()
        message.over.set()
        return message
