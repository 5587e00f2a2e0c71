"""Numbers that every rank tells all others between steps: gradient norms, found infinities, losses
that are none. In come a rank's numbers, out come those of all ranks, the same everywhere.

The numbers go once around the ring of ranks, each of them through a lane of its own to the next:
two lanes for a rank, however many there are, and no collective that a transport would have to
offer. A first block of fixed length says what is told, and how much of it; few numbers travel in
that block."""

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from stretto.compiler.program.program import NONE
from stretto.runtime.activity import Activity
from stretto.runtime.coordination.failure import ending
from stretto.runtime.coordination.peers import Peers
from stretto.runtime.errors import PipelineError
from stretto.runtime.transport import P2PLane, Pending, Transport

TOPICS = ("clip_grad_norm_", "GradScaler", "on_nonfinite", "check_copies")
"""What ranks tell each other, by the number that travels in its place."""

BLOCK = 16  # numbers in the first block: the topic, how many follow, and as many as find room


class Exchange:
    """One rank's place in the ring. Its lanes are opened when it is first used. `told` counts
    the exchanges; `broken` is why none can be made any more."""

    def __init__(self, peers: Peers, transport: Transport, activity: Activity):
        self.peers, self.transport, self.activity = peers, transport, activity
        self.first_lane, self.told = NONE, 0
        self.broken = ""

    def tell(self, topic: str, values: Sequence[float]) -> list[list[float]]:
        """The numbers of every rank, by rank, exact as float64; each may have another count. All
        ranks must call it, in the same order of topics. Raises `PipelineError` where one calls it
        for another topic or is gone."""
        if self.broken:
            raise PipelineError(f"this executor has stopped before: {self.broken}")
        self.told += 1
        before = (self.peers.rank - 1) % self.peers.world
        doing = f"waits in {topic} for the numbers of rank {before}"
        try:
            with self.activity.waiting(doing, before):
                return self._tell(TOPICS.index(topic), values)
        except Exception as error:
            end = ending(self.peers, doing, (before,), error)
            self.broken = end.reason
            raise end.error from end.cause

    def _tell(self, topic: int, values: Sequence[float]) -> list[list[float]]:
        room = BLOCK - 2
        block = [topic, len(values), *values[:room], *[0.0] * (room - len(values))]
        found = self._around(block, [BLOCK] * self.peers.world)
        self._same_topic(found)
        told = [numbers[2 : 2 + int(numbers[1])] for numbers in found]
        rest = [max(0, int(numbers[1]) - room) for numbers in found]
        if any(rest):
            more = self._around(values[room:], rest)
            told = [a + b for a, b in zip(told, more, strict=True)]
        return told

    def _around(self, own: Sequence[float], sizes: Sequence[int]) -> list[list[float]]:
        """The numbers of every rank; `sizes` has how many there are, by rank."""
        rank, world = self.peers.rank, self.peers.world
        device = self.transport.device
        known: dict[int, Tensor] = {rank: torch.tensor(own, dtype=torch.float64, device=device)}
        for hop in range(world - 1):
            leaving, arriving = (rank - hop) % world, (rank - hop - 1) % world
            buffer = torch.empty(sizes[arriving], dtype=torch.float64, device=device)
            begun: list[Pending] = []
            if sizes[leaving]:
                begun += self.transport.send(self._lane(rank), [known[leaving]])
            if sizes[arriving]:
                begun += self.transport.receive(self._lane((rank - 1) % world), [buffer])
            for pending in begun:
                pending.wait()
            known[arriving] = buffer
        every = torch.cat([known[r] for r in range(world)]).tolist()  # one wait for the device
        ends = list(accumulate(sizes))
        return [every[end - size : end] for end, size in zip(ends, sizes, strict=True)]

    def _lane(self, source: int) -> int:
        """The lane from the rank to the next."""
        if self.first_lane == NONE:
            world = self.peers.world
            self.first_lane = self.transport.open(
                [P2PLane(r, (r + 1) % world) for r in range(world)]
            )
        return self.first_lane + source

    def _same_topic(self, found: Sequence[Sequence[float]]) -> None:
        own = found[self.peers.rank][0]
        for rank, numbers in enumerate(found):
            if numbers[0] != own:
                raise PipelineError(
                    f"rank {self.peers.rank} is in {TOPICS[int(own)]} and rank {rank} in "
                    f"{TOPICS[int(numbers[0])]}: every rank must call them, in the same order"
                )
