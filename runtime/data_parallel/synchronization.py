"""When a rank's stages are synchronized with their replicas. In come the stages and how each is
replicated; the interpreter asks behind (and before) every instruction whether there is something to
do, and at the end of the list waits for all."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch.distributed as dist

from stretto.runtime.coordination.failure import failure_elsewhere, post_failure, stopped_by
from stretto.runtime.coordination.peers import Peers
from stretto.runtime.data_parallel.groups import Synchronized, group_of, synchronized
from stretto.runtime.data_parallel.meeting import broadcast, meet, refuse_pipeline
from stretto.runtime.data_parallel.moments import (
    final_gradients,
    reduced_by_plan,
    weight_gradients,
)
from stretto.runtime.data_parallel.sharded import ShardedStage
from stretto.runtime.errors import PipelineError
from stretto.runtime.rank_context import RankContext
from stretto.runtime.rank_program import RankProgram
from stretto.runtime.topology import StageId

LOOK = 0.25  # seconds between looks at whether a replica has failed


class Actions(NamedTuple):
    """What is done before and behind the instructions of a list, by their index."""

    before: dict[int, list[Callable[[], None]]]
    behind: dict[int, list[Callable[[], None]]]


class DataParallel:
    """The replicas of one rank's stages. `enabled`: whether the next step synchronizes."""

    def __init__(self, context: RankContext, replicas: Any):
        self.context = context
        self.enabled = True
        self.peers: list[Peers] = []
        self.begun: list[StageId] = []
        self.waiting = ""  # for whose gradients, once the list has ended
        self._actions: Actions | None = None
        group = group_of(replicas)
        self.stages = self._synchronized(group)
        self.given = group

    def _synchronized(self, group: dist.ProcessGroup | None) -> dict[StageId, Synchronized]:
        """A parameter of several stages of this rank is averaged with the one that is done last."""
        plan, stages = self.context.plan, self.context.stages
        train = plan.programs.get("train")
        last = final_gradients(plan, train) if train else {}
        learning = [stage for stage in stages if stage in last]  # or whose copies do
        taken: set[int] = set()
        found = {}
        for stage in sorted(learning, key=lambda stage: last.get(stage, -1), reverse=True):
            found[stage] = synchronized(stages[stage], group, taken)
            taken |= {id(p) for p in stages[stage].module.parameters()}
        return {stage: found[stage] for stage in stages if stage in found and found[stage].ways}

    def meet(self, pipeline: Sequence[int], timeout: float) -> None:
        """What is done once with all replicas: that they hold the same, and start with the same
        weights. `pipeline` has the global ranks of this pipeline's processes. Raises
        `PipelineError`."""
        by_members: dict[tuple[int, ...], tuple[dist.ProcessGroup, list[StageId]]] = {}
        for stage, how in self.stages.items():
            for group in how.groups:
                members = tuple(dist.get_process_group_ranks(group))
                by_members.setdefault(members, (group, []))[1].append(stage)
        for members, (group, stages) in by_members.items():
            named = {f"`{self.context.plan.graph.label(s)}`": s for s in stages}
            refuse_pipeline(members, pipeline, " and ".join(named))
            modules = {name: self.context.stages[s].module for name, s in named.items()}
            self.peers.append(meet(group, self.context.plan, modules, timeout))
        for stage, how in self.stages.items():
            if how.broadcast:
                broadcast(self.context.stages[stage].module, how.groups[0])

    def actions(self, program: RankProgram) -> Actions:
        """Those of a list, the same for all steps."""
        if program.name != "train":
            return Actions({}, {})
        if self._actions is None:
            self._actions = self._found(program)
        return self._actions

    def _found(self, program: RankProgram) -> Actions:
        actions = Actions({}, {})
        for at, stage in weight_gradients(program).items():
            for sharded in self._sharded(stage):
                actions.before.setdefault(at, []).append(sharded.gathered)
                actions.behind.setdefault(at, []).append(sharded.fold)
        said = reduced_by_plan(program)
        for stage, at in final_gradients(self.context.plan, program).items():
            if stage in self.stages and stage not in said:
                actions.behind.setdefault(at, []).append(self._beginning(stage))
        return actions

    def _beginning(self, stage: StageId) -> Callable[[], None]:
        return lambda: self.begin(stage)

    def _sharded(self, stage: StageId | None = None) -> list[ShardedStage]:
        stages = self.stages if stage is None else [s for s in [stage] if s in self.stages]
        ways = [way for s in stages for way in self.stages[s].ways]
        return [way for way in ways if isinstance(way, ShardedStage)]

    def prepare(self, train: bool) -> None:
        """Before a step's list."""
        for sharded in self._sharded() if train else ():
            sharded.prepare()

    def begin(self, stage: StageId) -> None:
        """Begins to synchronize the stage, unless this step does not."""
        if self.enabled and stage in self.stages:
            for way in self.stages[stage].ways:
                way.begin()
            self.begun.append(stage)

    def gather(self, stage: StageId) -> None:
        """Begins to gather the stage's weights, if they are sharded."""
        for sharded in self._sharded(stage):
            sharded.gather()

    def finish(self, train: bool) -> None:
        """At the end of a step's list: waits for what was begun. Raises `PipelineError` where a
        replica has failed, and what the backend raises."""
        for stage in self.begun:
            self.waiting = self.context.stages[stage].name
            for way in self.stages[stage].ways:
                try:
                    self._await(way.works())
                    way.finish()
                except RuntimeError:  # the trace of a replica that has ended, and told why
                    self._look()
                    raise
        self.waiting = ""
        for stage in self.stages:
            if stage not in self.begun:
                for sharded in self._sharded(stage):
                    sharded.end_without() if train else sharded.reshard()
        self.begun.clear()

    def _await(self, works: Sequence[dist.Work]) -> None:
        """On the CPU a wait cannot be interrupted, so it is made of looks."""
        if self.context.transport.device.type != "cpu":
            return
        pause, look = 0.0002, time.monotonic() + LOOK
        while not all(work.is_completed() for work in works):
            time.sleep(pause)
            pause = min(2 * pause, 0.02)
            if time.monotonic() > look:
                look = time.monotonic() + LOOK
                self._look()

    def _look(self) -> None:
        for peers in self.peers:
            failure = failure_elsewhere(peers.store, peers.rank)
            if failure is not None:
                raise stopped_by(self.context.plan.rank, failure)

    def fail(self, reason: str) -> None:
        """Forgets what is under way, and tells the replicas why this rank ends."""
        for how in self.stages.values():
            for way in how.ways:
                way.abandon()
        self.begun.clear()
        for peers in self.peers:
            post_failure(peers.store, peers.rank, reason)

    @contextmanager
    def without(self) -> Iterator[None]:
        """Around steps whose gradients stay this replica's own."""
        before, self.enabled = self.enabled, False
        try:
            yield
        finally:
            self.enabled = before


def require_processes(replicas: Any, processes: bool) -> None:
    """Raises `PipelineError` where replicas are asked for and ranks are threads."""
    if replicas is not None and not processes:
        raise PipelineError("`replicas` needs a process for each rank: ranks here are threads")
