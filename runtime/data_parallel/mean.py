"""The mean of gradients over replicas that each hold the whole stage. In come the parameters and
the replicas' process group; their `.grad`s become the mean. One collective per stage and dtype
carries all gradients, and behind them for each whether it is there: one that is absent everywhere
stays absent, one that is absent somewhere counts as zeros there.

The sum is divided, not its terms, so that with two replicas the mean is exact up to one rounding.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from stretto.runtime.stage.gradients import as_flags, plain


class Bucket(NamedTuple):
    """Gradients of one dtype that are under way: the parameters, all their gradients in one
    tensor (behind them, for each, on how many replicas there is one), and the collective."""

    parameters: list[nn.Parameter]
    flat: Tensor
    work: dist.Work | None


class MeanOverReplicas:
    """The synchronization of one stage. `parameters`: those to average; frozen ones are left
    alone."""

    def __init__(self, parameters: Sequence[nn.Parameter], group: dist.ProcessGroup):
        self.parameters, self.group = list(parameters), group
        self.world = dist.get_world_size(group)
        self.under_way: list[Bucket] = []

    def begin(self) -> None:
        """Begins the collectives; the gradients must not change until `finish`."""
        kinds: dict[tuple[torch.dtype, torch.device], list[nn.Parameter]] = {}
        for parameter in self.parameters if self.world > 1 else ():
            if parameter.requires_grad:
                kinds.setdefault((parameter.dtype, parameter.device), []).append(parameter)
        for parameters in kinds.values():
            with torch.no_grad():
                flat = _flat(parameters)
            work = dist.all_reduce(flat, group=self.group, async_op=True)
            self.under_way.append(Bucket(parameters, flat, work))

    def works(self) -> Sequence[dist.Work]:
        """The collectives that are under way."""
        return [bucket.work for bucket in self.under_way if bucket.work is not None]

    def finish(self) -> None:
        """Waits for the collectives, and replaces the gradients by their means."""
        for parameters, flat, work in self.under_way:
            if work is not None:
                work.wait()
            with torch.no_grad():
                _give(parameters, flat, self.world)
        self.under_way.clear()

    def abandon(self) -> None:
        """Forgets what is under way, after a step that failed."""
        self.under_way.clear()


def _flat(parameters: Sequence[nn.Parameter]) -> Tensor:
    """All gradients, then a number for each: 1 where it is there, else 0."""
    gradients = [plain(p) if p.grad is None else plain(p.grad) for p in parameters]
    rows = [
        _row(torch.zeros_like(gradient) if p.grad is None else gradient.to(p.dtype))
        for p, gradient in zip(parameters, gradients, strict=True)
    ]
    there = as_flags([p.grad is not None for p in parameters], rows[0], rows[0].dtype)
    return torch.cat([*rows, there])


def _give(parameters: Sequence[nn.Parameter], flat: Tensor, world: int) -> None:
    """Puts the means into the parameters' `.grad`, keeping the tensors that are there."""
    there = (flat[-len(parameters) :] > 0).tolist()
    flat = flat[: -len(parameters)].div_(world)
    at = 0
    for parameter, wanted in zip(parameters, there, strict=True):
        like = plain(parameter)
        many = _row(like).numel()
        mean = flat[at : at + many]
        at += many
        if not wanted:
            continue
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        elif parameter.grad.is_sparse:
            parameter.grad = parameter.grad.to_dense()
        given = plain(parameter.grad)
        mean = mean.view(*like.shape, 2) if like.is_complex() else mean.view(like.shape)
        given.copy_(torch.view_as_complex(mean) if like.is_complex() else mean)


def _row(tensor: Tensor) -> Tensor:
    """The numbers in one row; complex ones as pairs."""
    return (torch.view_as_real(tensor) if tensor.is_complex() else tensor).reshape(-1)
