"""Brings tensors of every stage to rank 0, over lanes of their own. In come each rank's tensors,
out come all of them, on rank 0."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from stretto.compiler.program.program import NONE
from stretto.runtime.executor import Executor
from stretto.runtime.tensor_spec import TensorSpec, from_json, to_json
from stretto.runtime.topology import StageId
from stretto.runtime.transport import P2PLane, Pending

Gathered = dict[StageId, list[Tensor | None]]
"""By stage the tensors, in the order of the module's parameters."""


def gather(executor: Executor, own: Mapping[StageId, Sequence[Tensor | None]]) -> Gathered:
    """All ranks call it, each with the tensors of its stages. Rank 0 gets them all, the others
    nothing. Raises `MissingKeys` where a rank does not come."""
    peers, transport = executor.peers, executor.context.transport
    first = _lanes(executor)
    executor.gathered += 1
    if peers.rank:
        begun: list[Pending] = []
        for stage in executor.plan.stages:
            peers.store.post(_key(executor.gathered, stage), _specs(own[stage]))
            there = [tensor for tensor in own[stage] if tensor is not None]
            begun += transport.send(first + peers.rank - 1, there)
        for pending in begun:
            pending.wait()
        return {}
    found: Gathered = {stage: list(tensors) for stage, tensors in own.items()}
    for rank in range(1, peers.world):
        for stage in executor.plan.graph.on_rank(rank):
            (specs,) = peers.wait([_key(executor.gathered, stage)])
            made = [_empty(spec, transport.device) for spec in specs]
            buffers = [tensor for tensor in made if tensor is not None]
            for pending in transport.receive(first + rank - 1, buffers):
                pending.wait()
            found[stage] = made
    return found


def _lanes(executor: Executor) -> int:
    """The number of the first lane to rank 0, that of rank 1; opened at the first call."""
    if executor.gather_lanes == NONE:
        every = [P2PLane(rank, 0) for rank in range(1, executor.world)]
        executor.gather_lanes = executor.context.transport.open(every)
    return executor.gather_lanes


def _key(number: int, stage: StageId) -> str:
    return f"gather/{number}/{stage.pipeline}/{stage.stage}"


def _specs(tensors: Sequence[Tensor | None]) -> list[Any]:
    """As JSON, None where there is no tensor."""
    return [
        None if t is None else to_json((TensorSpec(tuple(t.shape), t.dtype, False),))[0]
        for t in tensors
    ]


def _empty(spec: Any, device: torch.device) -> Tensor | None:
    return None if spec is None else from_json([spec])[0].empty(device)
