"""Messages over NCCL, between GPUs. Within one communicator messages hold each other up, so every
lane has a communicator of its own, of two ranks. All processes create all of them, in the plan's
order and never with local synchronization, and each is initialised by a first message in that
same order, before the first step: created lazily, in the order of use, they can wait for each
other in a circle.

A wait does not stop the process but the stream of the computations. So nothing here notices a
stall; NCCL's own watchdog does (`TORCH_NCCL_DUMP_ON_TIMEOUT`).

Where several pipelines run side by side, each on a group of its own, every process must take part
in creating the communicators of all of them: `families` lists the global ranks of each group, the
same list on every process.

Written after NCCL's documentation and not run on several GPUs yet; its groups and lanes are tested
over gloo.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from stretto.runtime.accelerator import accelerator_of
from stretto.runtime.errors import PipelineError
from stretto.runtime.leave import leave
from stretto.runtime.transport import P2PLane, Pending, plain, to_bytes
from stretto.runtime.transport.gloo import begun


class Nccl:
    """The plan's ranks are those of `group`, by default all. Raises `PipelineError` where groups of
    other pipelines are not named in `families`."""

    backend = "nccl"
    looks = tells = False

    def __init__(
        self,
        group: dist.ProcessGroup | None = None,
        families: Sequence[Sequence[int]] | None = None,
    ):
        self.rank, self.world = dist.get_rank(group), dist.get_world_size(group)
        self.device = self.here()
        self.accelerator = accelerator_of(self.device)
        self.own = dist.get_process_group_ranks(group or dist.group.WORLD)
        self.families = [list(f) for f in families] if families is not None else [self.own]
        self.lanes: list[tuple[P2PLane, dist.ProcessGroup | None]] = []
        if sorted(rank for f in self.families for rank in f) != list(range(dist.get_world_size())):
            raise PipelineError(
                "every process must create the communicators of every pipeline: pass "
                "`transport=Nccl(group, families=…)` with the ranks of all pipelines' groups"
            )

    def open(self, lanes: Sequence[P2PLane]) -> int:
        """As `Transport.open`: a communicator for every lane, all initialized."""
        before = len(self.lanes)
        for lane in lanes:
            own: dist.ProcessGroup | None = None
            for family in self.families:
                pair: Any = dist.new_group(  # torch does not annotate it
                    [family[lane.source], family[lane.target]], backend=self.backend
                )
                if family == self.own and self.rank in lane:
                    own = pair
            self.lanes.append((lane, own))
        for number in range(before, len(self.lanes)):
            self._initialize(number)
        return before

    def _initialize(self, number: int) -> None:
        """By a first message, if this rank is at an end of the lane."""
        lane, group = self.lanes[number]
        if group is not None:
            first = [torch.zeros(1, device=self.device)]
            begin = self.send if lane.source == self.rank else self.receive
            for pending in begin(number, first):
                pending.wait()
            self.settle()

    def here(self) -> torch.device:
        """The device of this process."""
        return torch.device("cuda", torch.cuda.current_device())

    def settle(self) -> None:
        """Waits for what was begun on the device. Overridden where there is none."""
        torch.cuda.synchronize()

    def send(self, lane: int, tensors: Sequence[Tensor]) -> list[Pending]:
        """As `Transport.send`."""
        group, peer = self._peer(lane)
        return [
            _UnderWay(memory, dist.isend(memory, dst=peer, group=group))
            for memory in (to_bytes(plain(tensor)) for tensor in tensors if tensor.numel())
        ]

    def receive(self, lane: int, buffers: Sequence[Tensor]) -> list[Pending]:
        """As `Transport.receive`."""
        group, peer = self._peer(lane)
        return [
            _UnderWay(memory, dist.irecv(memory, src=peer, group=group))
            for memory in (to_bytes(buffer) for buffer in buffers if buffer.numel())
        ]

    def _peer(self, lane: int) -> tuple[dist.ProcessGroup | None, int]:
        (source, target), group = self.lanes[lane]
        return group, self.own[target if source == self.rank else source]

    def flush(self) -> None:
        """As `Transport.flush`: the device sees to it."""

    def abort(self, report: str) -> None:
        """Prints the report and ends the process."""
        leave(report)


class _UnderWay:
    """A message, and the memory that it reads or writes, which is kept until the stream that waits
    goes on behind it: also where a torch does not keep it by itself."""

    __slots__ = ("memory", "work")

    def __init__(self, memory: Tensor, work: dist.Work | None):
        self.memory: Tensor | None = memory
        self.work = begun(work)

    def is_completed(self) -> bool:
        """As `torch.distributed.Work.is_completed`: asks the device, and does not wait for it."""
        return bool(self.work.is_completed())

    def wait(self) -> None:
        """The current stream goes on when the message is over; the process does at once."""
        self.work.wait()
        self.memory = None
