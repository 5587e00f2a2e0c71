"""Brings tensors of every stage to rank 0, over lanes of their own."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from stretto.compiler.program.program import NONE
from stretto.runtime.executor import Executor
from stretto.runtime.tensor_spec import Shape, from_json, to_json
from stretto.runtime.topology import Place
from stretto.runtime.transport import Lane, Pending

Gathered = dict[Place, list[Tensor | None]]


def gather(executor: Executor, own: Mapping[Place, Sequence[Tensor | None]]) -> Gathered:
    """All ranks call it, each with the tensors of its stages. Rank 0 gets them all, the others
    nothing."""
    board, transport = executor.board, executor.transport
    first = _lanes(executor)
    executor.gathered += 1
    if executor.rank:
        begun: list[Pending] = []
        for place in executor.part.places:
            board.post(_key(executor.gathered, place), _shapes(own[place]))
            there = [tensor for tensor in own[place] if tensor is not None]
            begun += transport.send(first + executor.rank - 1, there)
        for pending in begun:
            pending.wait()
        return {}
    found: Gathered = {place: list(tensors) for place, tensors in own.items()}
    for rank in range(1, executor.world):
        for place in _places(executor, rank):
            (shapes,) = board.wait([_key(executor.gathered, place)], executor.timeout)
            made = [_empty(shape, transport.device) for shape in shapes]
            buffers = [tensor for tensor in made if tensor is not None]
            for pending in transport.receive(first + rank - 1, buffers):
                pending.wait()
            found[place] = made
    return found


def _lanes(executor: Executor) -> int:
    if executor.gather_lanes == NONE:
        every = [Lane(rank, 0) for rank in range(1, executor.world)]
        executor.gather_lanes = executor.transport.open(every)
    return executor.gather_lanes


def _places(executor: Executor, rank: int) -> list[Place]:
    return executor.part._replace(rank=rank).places


def _key(number: int, place: Place) -> str:
    return f"gather/{number}/{place.pipeline}/{place.stage}"


def _shapes(tensors: Sequence[Tensor | None]) -> list[Any]:
    return [
        None if tensor is None else to_json((Shape(tuple(tensor.shape), tensor.dtype, False),))[0]
        for tensor in tensors
    ]


def _empty(shape: Any, device: torch.device) -> Tensor | None:
    return None if shape is None else from_json([shape])[0].empty(device)
