"""This rank among the replicas of its stages: they meet at the start, watch each other while a
step runs, and tell each other why one of them ends. What `coordination` does within a pipeline,
once more for each group of replicas; a number of a rank is here that of a replica."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch.distributed as dist

from stretto.runtime.coordination.failure import (
    GRACE,
    failure_elsewhere,
    post_failure,
    stopped_by,
)
from stretto.runtime.coordination.peers import Peers
from stretto.runtime.coordination.watchdog import Position, Watchdog
from stretto.runtime.data_parallel.groups import Synchronized
from stretto.runtime.data_parallel.meeting import meet, refuse_pipeline
from stretto.runtime.data_parallel.sharded import Completable
from stretto.runtime.errors import PipelineError, first_line_of
from stretto.runtime.rank_context import RankContext
from stretto.runtime.topology import StageId

LOOK = 0.25  # seconds between looks at whether a replica has failed


class ReplicaPeers:
    """One rank among all its replicas. `waiting`: for the gradients of which stage it waits."""

    def __init__(self, context: RankContext):
        self.context = context
        self.peers: list[Peers] = []
        self.watchdogs: list[Watchdog] = []
        self.waiting = ""

    def meet(
        self, stages: Mapping[StageId, Synchronized], pipeline: Sequence[int], timeout: float
    ) -> None:
        """What is asked once of all replicas of these stages: whether they hold the same.
        `pipeline` has the global ranks of this pipeline's processes. Raises `PipelineError`."""
        by_members: dict[tuple[int, ...], tuple[dist.ProcessGroup, list[StageId]]] = {}
        for stage, how in stages.items():
            for group in how.groups:
                members = tuple(dist.get_process_group_ranks(group))
                by_members.setdefault(members, (group, []))[1].append(stage)
        for members, (group, held) in by_members.items():
            named = {f"`{self.context.plan.graph.label(s)}`": s for s in held}
            refuse_pipeline(members, pipeline, " and ".join(named))
            modules = {name: self.context.stages[s].module for name, s in named.items()}
            self.peers.append(meet(group, self.context.plan, modules, timeout))

    def watch(self, position: Callable[[], Position | None], abort: Callable[[str], None]) -> None:
        """Answers replicas that ask where this rank is, asks them when this one has waited for them
        too long, and ends its wait when one of them has failed. `position` is where the rank is in
        its own pipeline; `abort` ends its wait."""

        def among_replicas(peers: Peers) -> Callable[[], Position | None]:
            def there() -> Position | None:
                found = position()
                if found is None or not self.waiting:
                    return None if found is None else found._replace(waiting_for=())
                others = tuple(other for other in range(peers.world) if other != peers.rank)
                where = f"waits for the gradients of its replicas of `{self.waiting}`"
                return found._replace(where=where, waiting_for=others)

            return there

        def end(report: str) -> None:
            abort(f"among replicas, whose number is their rank here: {report}")

        self.watchdogs = [Watchdog(peers, among_replicas(peers), end) for peers in self.peers]

    def close(self) -> None:
        """Ends the threads that watch."""
        for watchdog in self.watchdogs:
            watchdog.stop()

    @contextmanager
    def waiting_for(self, stage: StageId, how: Synchronized) -> Iterator[None]:
        """Around the wait for a stage's gradients. Raises `PipelineError` where the connection to a
        replica breaks."""
        self.waiting = self.context.stages[stage].name
        try:
            yield
        except RuntimeError as error:  # of the backend
            raise self._lost(self.waiting, how, error) from error
        self.waiting = ""

    def wait(self, works: Sequence[Completable]) -> None:
        """Returns when all are over. On the CPU a wait cannot be interrupted, so it is made of
        looks. Raises `PipelineError` where a replica has failed."""
        if self.context.transport.device.type != "cpu":
            return
        pause, look = 0.0002, time.monotonic() + LOOK
        while not all(work.is_completed() for work in works):
            time.sleep(pause)
            pause = min(2 * pause, 0.02)
            if time.monotonic() > look:
                look = time.monotonic() + LOOK
                self.look()

    def _lost(self, name: str, how: Synchronized, error: RuntimeError) -> PipelineError:
        """A connection to a replica has broken: what that says of its end, if it comes to that."""
        end = time.monotonic() + GRACE
        while time.monotonic() < end:
            self.look()
            time.sleep(LOOK / 5)
        others = dist.get_process_group_ranks(how.groups[0])
        members = ", ".join(str(other) for other in others if other != dist.get_rank())
        told = first_line_of(error)
        return PipelineError(f"lost a replica of `{name}` (process {members}): {told}")

    def look(self) -> None:
        """Raises `PipelineError` where a replica has failed."""
        for peers in self.peers:
            failure = failure_elsewhere(peers.store, peers.rank)
            if failure is not None:
                raise stopped_by(self.context.plan.rank, failure)

    def tell(self, reason: str) -> None:
        """Tells the replicas why this rank ends."""
        for peers in self.peers:
            there = f"the pipeline of process {dist.get_rank()}"
            post_failure(peers.store, peers.rank, f"{there}: {reason}")
