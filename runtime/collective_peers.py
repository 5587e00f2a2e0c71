"""The processes that exchange data inside stages with this one, as experts do: ranks of other
pipelines that hold the same stages and run the same list. In comes the group that the user names;
out comes a group of it for every stream. They meet when executors are made and compare their lists,
watch each other while a step runs, since one that never enters a collective holds up all others,
and tell each other why one of them ends."""

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from hashlib import sha256
from typing import Any

import msgspec
import torch.distributed as dist

from stretto.runtime.coordination.failure import (
    GRACE,
    failure_elsewhere,
    listen,
    post_failure,
    stopped_by,
)
from stretto.runtime.coordination.peers import Peers
from stretto.runtime.coordination.stall import PATIENCE
from stretto.runtime.coordination.store import MissingKeys, store_of
from stretto.runtime.coordination.watchdog import Position, Watchdog
from stretto.runtime.errors import PipelineError
from stretto.runtime.rank_program import RankPlan

CollectiveGroups = dist.ProcessGroup | Mapping[str, dist.ProcessGroup] | None
"""The processes of this one's collectives: a group, of which each stream is given another with the
same members; or by the name of each stream a group of its own, made by the user."""


class CollectivePeers:
    """This process among those."""

    def __init__(self, plan: RankPlan, given: CollectiveGroups, timeout: float):
        self.plan, self.given, self.timeout = plan, given, timeout
        self.peers: Peers | None = None
        self.watchdog: Watchdog | None = None

    def meet(self, device: str) -> tuple[dist.ProcessGroup, ...]:
        """The groups of this process's streams, when all members are there and run the same list;
        none where the user names no group. Raises `PipelineError`, on all alike."""
        if self.given is None:
            return ()
        names = self.plan.spec.streams or ("compute",)
        _check(names, self.given, device)
        several = isinstance(self.given, Mapping)
        group: dist.ProcessGroup = self.given[names[0]] if several else self.given  # type: ignore[index,assignment]
        members = dist.get_process_group_ranks(group)
        rank, world = dist.get_rank(group), dist.get_world_size(group)
        peers = self.peers = Peers(rank, world, store_of(group), self.timeout)
        listen(peers)
        peers.store.post(f"collective/{rank}", [self.plan.hash, self.plan.rank, _lists(self.plan)])
        try:
            cards = peers.wait([f"collective/{other}" for other in range(world)])
        except MissingKeys as missing:
            absent = ", ".join(str(members[int(key.rsplit("/", 1)[-1])]) for key in missing.keys)
            raise PipelineError(
                f"processes {absent}, of the group of this rank's collectives, did not come within "
                f"{self.timeout:g} s: does every pipeline make its executor, in the same order?"
            ) from None
        _compare(cards, members)
        if isinstance(self.given, Mapping):
            return tuple(self.given[name] for name in names)
        late = timedelta(seconds=2 * PATIENCE * self.timeout)
        made: list[Any] = [
            dist.new_group(members, timeout=late, use_local_synchronization=True) for _ in names
        ]
        return tuple(made)

    def watch(self, position: Callable[[], Position | None], abort: Callable[[str], None]) -> None:
        """Answers the others, asks them when a computation of this process takes too long, and
        ends it when one of them has failed or nothing moves. `position` is where this process is
        as far as it computes; `abort` ends it."""
        peers = self.peers
        if peers is None:
            return
        others = tuple(other for other in range(peers.world) if other != peers.rank)

        def there() -> Position | None:
            found = position()
            if found is None or not found.waiting_for:
                return found
            return found._replace(waiting_for=others)

        def end(report: str) -> None:
            abort(f"among the processes that share collectives, by their rank there: {report}")

        self.watchdog = Watchdog(peers, there, end)

    def await_reason(self) -> PipelineError | None:
        """A computation has failed, maybe since another process has: what that says of its end, if
        it does so within some seconds."""
        end = time.monotonic() + GRACE
        while self.peers is not None and time.monotonic() < end:
            failure = failure_elsewhere(self.peers.store, self.peers.rank)
            if failure is not None:
                return stopped_by(self.plan.rank, failure)
            time.sleep(GRACE / 60)
        return None

    def tell(self, reason: str) -> None:
        """Tells the others why this process ends."""
        if self.peers is not None:
            where = f"the pipeline of process {dist.get_rank()}"
            post_failure(self.peers.store, self.peers.rank, f"{where}: {reason}")

    def close(self) -> None:
        """Ends the threads that watch."""
        if self.watchdog is not None:
            self.watchdog.stop()


def _check(names: Sequence[str], given: Any, device: str) -> None:
    """Raises `PipelineError` where streams would share a group."""
    if isinstance(given, Mapping):
        if given.keys() < set(names) or len({id(given[name]) for name in names}) < len(names):
            raise PipelineError(
                f"`collectives` has groups for {_listed(given)}: the plan's streams are "
                f"{_listed(names)}, and each needs a group of its own"
            )
    elif len(names) > 1 and device == "cuda":
        raise PipelineError(
            "on GPUs `collectives` must have a group for each stream, made by all processes in one "
            f"order: a dict with {_listed(names)}"
        )


def _compare(cards: Sequence[Any], members: Sequence[int]) -> None:
    """Every process judges all of them, so that all raise the same."""
    for card, member in zip(cards[1:], members[1:], strict=True):
        if card[2] != cards[0][2]:
            raise PipelineError(
                f"process {member} runs the list of rank {card[1]} of plan {card[0][:12]}, and "
                f"process {members[0]}, with which it shares collectives, that of rank "
                f"{cards[0][1]} of plan {cards[0][0][:12]}: they would wait for each other. All "
                "processes of such a group run the same rank's list"
            )


def _lists(plan: RankPlan) -> str:
    """A fingerprint of what the rank runs."""
    lists = [[name, one.instructions, one.streams] for name, one in sorted(plan.programs.items())]
    return sha256(msgspec.json.encode(lists)).hexdigest()


def _listed(names: Sequence[str] | Mapping[str, object]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "nothing"
