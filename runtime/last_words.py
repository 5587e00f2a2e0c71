"""What a rank that has ended did last, in the plan's terms. In comes the plan as an executor was
given it, out comes a function that other ranks of the machine call; only then the dead rank's part
of the plan is read."""

import os
from collections.abc import Callable

from stretto.compiler.plan.plan import Plan
from stretto.compiler.program.program import Tie
from stretto.runtime.coordination.neighbours import RanksHere
from stretto.runtime.coordination.store import Store
from stretto.runtime.describe import describe_streams
from stretto.runtime.rank_program import plan_for_rank
from stretto.runtime.ties import tied
from stretto.runtime.transport import Transport
from stretto.runtime.transport.local import Local
from stretto.runtime.whereabouts import LastPlace, Whereabouts, of_process


def last_words(
    plan: Plan | str | os.PathLike[str], world: int, ties: tuple[Tie, ...] = ()
) -> Callable[[int, LastPlace], str]:
    """`tell` of `RanksHere`, for the ranks of this plan, run with a model that has these ties."""

    def tell(rank: int, place: LastPlace) -> str:
        for name in ("train", "eval"):
            if place.program == name:
                own = tied(plan_for_rank(plan, rank, world), ties)
                return describe_streams(own, name, list(enumerate(place.at)))
        return place.words

    return tell


def page_of(transport: Transport) -> Whereabouts:
    """Where the rank writes what it does: a process has one page, a thread one of its own."""
    return Whereabouts() if isinstance(transport, Local) else of_process()


def neighbours_of(
    plan: Plan | str | os.PathLike[str], store: Store, transport: Transport, page: Whereabouts
) -> RanksHere | None:
    """The other ranks of the plan on this machine; None where all are threads of one process."""
    if isinstance(transport, Local):
        return None
    return RanksHere(store, transport.rank, page, last_words(plan, transport.world))
