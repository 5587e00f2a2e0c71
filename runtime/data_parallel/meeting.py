"""Whether the replicas of a rank's stages mean the same, asked once when executors are made. In
comes a process group of replicas; out comes a `Peers` of its members, or a sentence. A group over
several ranks of one pipeline (the default group of a wrapper, mostly) would average the gradients
of unlike stages: refused before anything else."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn

from stretto.runtime.coordination.failure import listen
from stretto.runtime.coordination.peers import Peers
from stretto.runtime.coordination.store import MissingKeys, store_of
from stretto.runtime.errors import PipelineError
from stretto.runtime.rank_program import RankPlan


def refuse_pipeline(members: Sequence[int], pipeline: Sequence[int], names: str) -> None:
    """Raises `PipelineError` where replicas are processes of one pipeline. Both have the global
    ranks of processes; `names` are the stages."""
    shared = sorted(set(members) & set(pipeline))
    if len(shared) > 1:
        raise PipelineError(
            f"the replicas of {names} are processes {_list(members)}, of which {_list(shared)} are "
            "ranks of one pipeline and hold other stages: give a group with the processes that "
            "hold the same stages (`process_group=` of DistributedDataParallel, `mesh=` of "
            "fully_shard, `replicas=`)"
        )


def meet(
    group: dist.ProcessGroup, plan: RankPlan, stages: Mapping[str, nn.Module], timeout: float
) -> Peers:
    """The replicas, once all are there and hold the same stages of the same plan. Raises
    `PipelineError`."""
    rank, world = dist.get_rank(group), dist.get_world_size(group)
    peers = Peers(rank, world, store_of(group), timeout)
    listen(peers)
    card = [plan.hash, plan.rank, {name: _table(module) for name, module in stages.items()}]
    peers.store.post(f"replica/{rank}", card)
    try:
        cards = peers.wait([f"replica/{other}" for other in range(world)])
    except MissingKeys as missing:
        global_ranks = dist.get_process_group_ranks(group)
        absent = [global_ranks[int(key.rsplit("/", 1)[-1])] for key in missing.keys]
        raise PipelineError(
            f"processes {_list(absent)}, replicas of {' and '.join(stages)}, did not come within "
            f"{timeout:g} s: does every pipeline make its executor, in the same order?"
        ) from None
    _compare(cards, dist.get_process_group_ranks(group))
    return peers


def refuse_some_alone(peers: Peers, replicated: Sequence[str], alone: Sequence[str]) -> None:
    """Asked of all ranks of a pipeline: `replicated` are the names of this rank's stages that have
    replicas, `alone` those that learn and have none. Raises `PipelineError`, on all ranks alike,
    where a pipeline has both: what has none would be trained on one replica's data."""
    peers.store.post(f"replicated/{peers.rank}", [list(replicated), list(alone)])
    try:
        cards = peers.wait([f"replicated/{rank}" for rank in range(peers.world)])
    except MissingKeys as missing:
        raise PipelineError(f"other ranks did not come: {missing}") from None
    those = [name for card in cards for name in card[0]]
    others = [name for card in cards for name in card[1]]
    if those and others:
        raise PipelineError(
            f"{those[0]} has replicas, and {others[0]} has none, which would be trained on the "
            "data of one: wrap it too, or give every executor `replicas=`"
        )


def broadcast(module: nn.Module, group: dist.ProcessGroup) -> None:
    """Gives all replicas the parameters and buffers of the group's first."""
    for tensor in [*module.parameters(), *module.buffers()]:
        mine: Tensor = getattr(tensor, "_local_tensor", tensor.detach())
        given = mine.contiguous()
        dist.broadcast(given, group=group, group_src=0)
        if given.data_ptr() != mine.data_ptr():
            mine.copy_(given)


def _compare(cards: Sequence[Any], members: Sequence[int]) -> None:
    """Every replica judges all of them, so that all raise the same."""
    first, there = cards[0], f"process {members[0]}"
    for card, member in zip(cards[1:], members[1:], strict=True):
        here = f"process {member}"
        if card[0] != first[0]:
            raise PipelineError(
                f"{here} has another plan than its replica, {there}: {card[0][:12]} and "
                f"{first[0][:12]}"
            )
        if card[1] != first[1]:
            raise PipelineError(
                f"{here} is rank {card[1]} of its pipeline, and its replica, {there}, is rank "
                f"{first[1]} of its own: replicas hold the same stages"
            )
        for name in sorted(card[2].keys() | first[2].keys()):
            one, other = card[2].get(name, []), first[2].get(name, [])
            if one != other:
                mine = next((row for row in one if row not in other), None)
                theirs = next((row for row in other if row not in one), None)
                raise PipelineError(
                    f"{name} differs between replicas: {_row(mine)} on {here}, {_row(theirs)} on "
                    f"{there}"
                )


def _table(module: nn.Module) -> list[list[Any]]:
    """Name, shape, dtype of every parameter and buffer, and whether it learns."""
    named = [*module.named_parameters(), *module.named_buffers()]
    return [[n, list(t.shape), str(t.dtype), t.requires_grad] for n, t in named]


def _row(row: Sequence[Any] | None) -> str:
    if row is None:
        return "nothing"
    return f"{row[0]} of {tuple(row[1])} {row[2]}{'' if row[3] else ', frozen'}"


def _list(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
