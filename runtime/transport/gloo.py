"""Messages on CPU. A lane is a tag in one gloo process group: hundreds of receives posted early on
several tags keep their order, and no group of its own, with threads and sockets, is needed for any
of them. What is sent are the bytes of contiguous memory, whatever its type: gloo's own
point-to-point calls take any, and are entered without what `torch.distributed.isend` and torch's
dispatcher look up for every message. gloo keeps the memory of a message that is under way. Short
messages between processes of one machine do not go through gloo (`nearby`)."""

import weakref
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from socket import socket
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from stretto.runtime.accelerator import Accelerator
from stretto.runtime.leave import leave
from stretto.runtime.transport import P2PLane, Pending, plain
from stretto.runtime.transport.nearby import SHORT, Arriving, Departing, connect, this_machine
from stretto.runtime.transport.settling import settle_at_exit

FIRST_TAG = 1 << 20  # out of the way of the user's own tags
MEETING_TAG = FIRST_TAG - 1  # by which ranks find each other's sockets


class Gloo:
    """The plan's ranks are those of `group`, by default all. `nearby`: short messages between
    processes of one machine take a way of their own."""

    looks, tells = True, False
    accelerator: Accelerator | None = None

    def __init__(self, group: dist.ProcessGroup | None = None, nearby: bool = True):
        self.group = group
        self.rank, self.world = dist.get_rank(group), dist.get_world_size(group)
        self.device = torch.device("cpu")
        self.lanes: list[P2PLane] = []
        self.backend = _backend(group or dist.group.WORLD, self.device)
        self.machine = this_machine() if nearby else b""
        self.departing: dict[int, Departing] = {}  # by lane, as `arriving`
        self.arriving: dict[int, Arriving] = {}
        self._sockets: list[socket] = []
        weakref.finalize(self, _close, self._sockets)
        settle_at_exit()

    def open(self, lanes: Sequence[P2PLane]) -> int:
        """As `Transport.open`."""
        first = len(self.lanes)
        self.lanes += lanes
        send = partial(_begin, self.backend.send)
        receive = partial(_begin, self.backend.recv)
        found = connect(self.rank, dict(enumerate(lanes, first)), send, receive, self.machine)
        self.departing |= found.departing
        self.arriving |= found.arriving
        self._sockets += found.sockets()
        return first

    def send(self, lane: int, tensors: Sequence[Tensor]) -> list[Pending]:
        """As `Transport.send`."""
        near, begun = self.departing.get(lane), list[Pending]()
        for tensor in tensors:
            many = tensor.nbytes
            if near is not None and 0 < many <= SHORT:
                begun.append(near.send(plain(tensor)))
            elif many:
                target = self.lanes[lane].target
                begun.append(self.backend.send([plain(tensor)], target, FIRST_TAG + lane))
        return begun

    def receive(self, lane: int, buffers: Sequence[Tensor]) -> list[Pending]:
        """As `Transport.receive`."""
        near, begun = self.arriving.get(lane), list[Pending]()
        for buffer in buffers:
            many = buffer.nbytes
            if near is not None and 0 < many <= SHORT:
                begun.append(near.receive(buffer))
            elif many:
                source = self.lanes[lane].source
                begun.append(self.backend.recv([buffer], source, FIRST_TAG + lane))
        return begun

    def flush(self) -> None:
        """As `Transport.flush`."""
        for near in self.departing.values():
            near.flush()

    def abort(self, report: str) -> None:
        """Prints the report and ends the process."""
        leave(report)


def _begin(begin: Callable[..., Any], peer: int, told: Tensor) -> Callable[[], object]:
    """A message by which ranks find each other."""
    wait: Callable[[], object] = begin([told], peer, MEETING_TAG).wait
    return wait


def _close(sockets: Iterable[socket]) -> None:
    for one in sockets:
        one.close()


def _backend(group: Any, device: torch.device) -> Any:
    """What the group calls for tensors on the device; where torch does not tell, the group."""
    ask = getattr(group, "_get_backend", None)
    return group if ask is None else ask(device)


def begun(work: dist.Work | None) -> dist.Work:
    """The message that torch began. It gives None to ranks outside the group: never here."""
    assert work is not None
    return work
