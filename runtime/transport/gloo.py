"""Messages over gloo, on CPU. A lane is a tag in one process group: hundreds of receives posted
early on several tags keep their order, and no group of its own, with threads and sockets, is
needed for any of them. What is sent are the bytes of contiguous memory, whatever its type: gloo's
own point-to-point calls take any, and are entered without what `torch.distributed.isend` and
torch's dispatcher look up for every message. gloo keeps the memory of a message that is under
way."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from stretto.runtime.accelerator import Accelerator
from stretto.runtime.leave import leave
from stretto.runtime.transport import P2PLane, Pending, plain

FIRST_TAG = 1 << 20  # out of the way of the user's own tags


class Gloo:
    """The plan's ranks are those of `group`, by default all."""

    looks, tells = True, False
    accelerator: Accelerator | None = None

    def __init__(self, group: dist.ProcessGroup | None = None):
        self.group = group
        self.rank, self.world = dist.get_rank(group), dist.get_world_size(group)
        self.device = torch.device("cpu")
        self.lanes: list[P2PLane] = []
        self.backend = _backend(group or dist.group.WORLD, self.device)

    def open(self, lanes: Sequence[P2PLane]) -> int:
        """As `Transport.open`."""
        self.lanes += lanes
        return len(self.lanes) - len(lanes)

    def send(self, lane: int, tensors: Sequence[Tensor]) -> list[Pending]:
        """As `Transport.send`."""
        target, tag = self.lanes[lane].target, FIRST_TAG + lane
        send = self.backend.send
        return [send([plain(one)], target, tag) for one in tensors if one.numel()]

    def receive(self, lane: int, buffers: Sequence[Tensor]) -> list[Pending]:
        """As `Transport.receive`."""
        source, tag = self.lanes[lane].source, FIRST_TAG + lane
        receive = self.backend.recv
        return [receive([one], source, tag) for one in buffers if one.numel()]

    def abort(self, report: str) -> None:
        """Prints the report and ends the process."""
        leave(report)


def _backend(group: Any, device: torch.device) -> Any:
    """What the group calls for tensors on the device; where torch does not tell, the group."""
    ask = getattr(group, "_get_backend", None)
    return group if ask is None else ask(device)


def begun(work: dist.Work | None) -> dist.Work:
    """The message that torch began. It gives None to ranks outside the group: never here."""
    assert work is not None
    return work
