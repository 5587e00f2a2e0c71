"""How much of the step's loss each micro-batch is. In come the targets of all micro-batches of a
model, and the user's `weight(target)`; out come their shares, the same on every rank that is given
the target."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from stretto.runtime.errors import PipelineError
from stretto.runtime.given import Weight
from stretto.runtime.stage.judge import LossShare


def shares(
    targets: Sequence[Any], weigh: Weight | None, lengths: Sequence[int] | None, total: Any
) -> list[LossShare]:
    """The share of each micro-batch: by `weigh` of its target, else by its length where lengths
    count, else as much as the others. The total is the sum of the weights unless one is given.

    Raises `PipelineError` where a weight or the total is not a finite number of 0 or more, or all
    that has a weight is divided by a total of 0.
    """
    if weigh is not None:
        weights = _weights(targets, weigh)
    elif lengths is not None and (total is not None or len(set(lengths)) > 1):
        weights = [float(length) for length in lengths]
    else:
        weights = [1.0] * len(targets)
    if total is None:
        whole = math.fsum(weights)
    else:
        whole = _numbers([total], "weight_total")[0]
        if whole == 0 and any(weights):
            raise PipelineError("weight_total is 0, and micro-batches have weights above 0")
    return [LossShare(weight, whole) for weight in weights]


def _weights(targets: Sequence[Any], weigh: Weight) -> list[float]:
    with torch.no_grad():
        return _numbers([weigh(target) for target in targets], "the weight of micro-batch")


def _numbers(found: Sequence[Any], label: str) -> list[float]:
    """The numbers, brought from their device at once."""
    for m, value in enumerate(found):
        if isinstance(value, Tensor) and value.numel() == 1:
            continue
        if not isinstance(value, int | float) or isinstance(value, bool):
            kind = (
                f"a tensor of shape {tuple(value.shape)}"
                if isinstance(value, Tensor)
                else f"a {type(value).__name__}"
            )
            raise PipelineError(
                f"{_label(label, m)} is {kind}: give a number, or a tensor with one"
            )
    on_device = [value for value in found if isinstance(value, Tensor)]
    brought = iter(
        torch.stack([t.detach().double().reshape(()) for t in on_device]).tolist()
        if on_device
        else ()
    )
    numbers = [float(next(brought) if isinstance(v, Tensor) else v) for v in found]
    for m, number in enumerate(numbers):
        if not math.isfinite(number) or number < 0:
            raise PipelineError(
                f"{_label(label, m)} is {number}: a weight is a finite number of 0 or more"
            )
    return numbers


def _label(label: str, m: int) -> str:
    return label if label == "weight_total" else f"{label} {m}"
