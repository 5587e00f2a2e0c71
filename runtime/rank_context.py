"""What a rank's instructions act on."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch.distributed as dist

from stretto.runtime.rank_program import RankPlan
from stretto.runtime.stage.part_chain import PartChain
from stretto.runtime.stage.stage_module import StageModule
from stretto.runtime.topology import StageId
from stretto.runtime.transport import Transport
from stretto.runtime.whereabouts import Whereabouts


class RankContext(NamedTuple):
    """A rank's part of the plan, the modules of its stages (`chains`: those that are cut into
    parts), and its way to other ranks; `groups` are those of the collectives inside stages, by
    stream, empty where there are none. The same for all steps."""

    plan: RankPlan
    stages: dict[StageId, StageModule]
    transport: Transport
    page: Whereabouts
    chains: Mapping[StageId, PartChain] = MappingProxyType({})
    groups: tuple[dist.ProcessGroup, ...] = ()

    def group_of(self, stream: int) -> dist.ProcessGroup | None:
        """For the collectives of this stream."""
        return self.groups[stream] if self.groups else None
