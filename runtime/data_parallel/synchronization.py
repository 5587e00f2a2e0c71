"""When a rank's stages are synchronized with their replicas. In come the stages and how each is
replicated; the interpreter asks behind (and before) every instruction whether there is something to
do, and at the end of the list waits for all."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch.distributed as dist

from stretto.runtime.coordination.peers import Peers
from stretto.runtime.data_parallel.groups import Synchronized, group_of, synchronized
from stretto.runtime.data_parallel.meeting import broadcast, refuse_some_alone
from stretto.runtime.data_parallel.moments import (
    final_gradients,
    reduced_by_plan,
    weight_gradients,
)
from stretto.runtime.data_parallel.replica_peers import ReplicaPeers
from stretto.runtime.data_parallel.sharded import ShardedStage
from stretto.runtime.errors import PipelineError
from stretto.runtime.rank_context import RankContext
from stretto.runtime.rank_program import RankProgram
from stretto.runtime.topology import StageId


class Actions(NamedTuple):
    """What is done before and behind the instructions of a list, by their index."""

    before: dict[int, list[Callable[[], None]]]
    behind: dict[int, list[Callable[[], None]]]


class DataParallel:
    """The replicas of one rank's stages. `enabled`: whether the next step synchronizes."""

    def __init__(self, context: RankContext, replicas: Any):
        self.context = context
        self.enabled = True
        self.peers = ReplicaPeers(context)
        self.begun: list[StageId] = []
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

    def compare(self, peers: Peers) -> None:
        """With the other ranks of the pipeline: all stages have replicas, or none. Raises
        `PipelineError`."""
        names = {s: f"`{one.name}`" for s, one in self.context.stages.items()}
        learning = [
            stage
            for stage, one in self.context.stages.items()
            if one.learns and any(p.requires_grad for p in one.module.parameters())
        ]
        alone = [names[stage] for stage in learning if stage not in self.stages]
        refuse_some_alone(peers, [names[stage] for stage in self.stages], alone)

    def equalize(self) -> None:
        """Gives the replicas of plain stages the weights and buffers of the first."""
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
            with self.peers.waiting_for(stage, self.stages[stage]):
                for way in self.stages[stage].ways:
                    self.peers.wait(way.works())
                    way.finish()
        for stage in self.stages:
            if stage not in self.begun:
                for sharded in self._sharded(stage):
                    sharded.end_without() if train else sharded.reshard()
        self.begun.clear()

    def fail(self, reason: str) -> None:
        """Forgets what is under way, and tells the replicas why this rank ends."""
        for how in self.stages.values():
            for way in how.ways:
                way.abandon()
        self.begun.clear()
        self.peers.tell(reason)

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
