"""One process that knows no plan and takes the micro-batches of a chain of modules one by one."""

from typing import Any

import torch
from torch import Tensor, nn

from tests.support.training import (
    loss,
)

Gradients = list[list[Tensor | None]]


def alone(
    modules: list[nn.Module], xs: Any, targets: Any, mean: bool = True
) -> tuple[Gradients, list[Tensor]]:
    """One process, micro-batch after micro-batch: by stage the gradients, of the mean or else of
    the sum of the losses, and the losses."""
    losses = []
    for x, target in zip(xs, targets, strict=True):
        value: Any = (x,)
        for module in modules:
            value = module(*value)
            value = value if isinstance(value, tuple) else (value,)
        found = loss(value[0], target)
        losses.append(found.detach())
        (found / len(xs) if mean else found).backward()
    return [[p.grad for p in module.parameters()] for module in modules], losses


def same(ours: list[Tensor | None], theirs: list[Tensor | None]) -> bool:
    """Bit for bit, and absent in both or in neither."""
    return all(
        a is b is None or (a is not None and b is not None and torch.equal(a, b))
        for a, b in zip(ours, theirs, strict=True)
    )
