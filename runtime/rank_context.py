"""What a rank's instructions act on."""

from typing import NamedTuple

from stretto.runtime.rank_program import RankPlan
from stretto.runtime.stage.stage_module import StageModule
from stretto.runtime.topology import StageId
from stretto.runtime.transport import Transport
from stretto.runtime.whereabouts import Whereabouts


class RankContext(NamedTuple):
    """A rank's part of the plan, the modules of its stages, and its way to other ranks. The same
    for all steps."""

    plan: RankPlan
    stages: dict[StageId, StageModule]
    transport: Transport
    page: Whereabouts
