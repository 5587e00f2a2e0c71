"""Messages over gloo, on CPU. A lane is a tag in one process group: hundreds of receives posted
early on several tags keep their order, and no group of its own, with threads and sockets, is
needed for any of them. Every transport has tags of its own, so that what one that has failed has
left under way meets no other's.

What is sent are the bytes of contiguous memory, whatever its type: gloo's own point-to-point calls
take any, and are entered without what `torch.distributed.isend` looks up for every message."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from stretto.runtime.accelerator import Accelerator
from stretto.runtime.leave import leave
from stretto.runtime.transport import P2PLane, Pending, plain

LANES = 1 << 20  # a transport's tags, from the first; those below are the user's own
TRANSPORTS = 1023  # that have tags of their own: the next one takes those of the first

_made: dict[tuple[int, ...], int] = {}  # transports, by the members of their group


class Gloo:
    """The plan's ranks are those of `group`, by default all."""

    looks, tells, shows = True, False, True
    accelerator: Accelerator | None = None

    def __init__(self, group: dist.ProcessGroup | None = None):
        self.group = group
        self.rank, self.world = dist.get_rank(group), dist.get_world_size(group)
        self.device = torch.device("cpu")
        self.lanes: list[P2PLane] = []
        self.backend: Any = group or dist.group.WORLD
        members = tuple(dist.get_process_group_ranks(self.backend))
        number = _made[members] = _made.get(members, 0) + 1  # all ranks make theirs in one order
        self.first_tag = LANES * (1 + number % TRANSPORTS)

    def open(self, lanes: Sequence[P2PLane]) -> int:
        """As `Transport.open`."""
        self.lanes += lanes
        return len(self.lanes) - len(lanes)

    def send(self, lane: int, tensors: Sequence[Tensor]) -> list[Pending]:
        """As `Transport.send`."""
        target, tag = self.lanes[lane].target, self.first_tag + lane
        there = [plain(tensor) for tensor in tensors if tensor.numel()]
        return [_Sending(one, self.backend.send([one], target, tag)) for one in there]

    def receive(self, lane: int, buffers: Sequence[Tensor]) -> list[Pending]:
        """As `Transport.receive`."""
        source, tag = self.lanes[lane].source, self.first_tag + lane
        return [self.backend.recv([one], source, tag) for one in buffers if one.numel()]

    def abort(self, report: str) -> None:
        """Prints the report and ends the process."""
        leave(report)


class _Sending:
    """A send, and the memory that it reads."""

    __slots__ = ("memory", "work")

    def __init__(self, memory: Tensor, work: dist.Work):
        self.memory, self.work = memory, work

    def wait(self) -> object:
        return self.work.wait()


def begun(work: dist.Work | None) -> dist.Work:
    """The message that torch began. It gives None to ranks outside the group: never here."""
    assert work is not None
    return work
