"""Where the gradients of a stage's module are while a step runs. In comes the module; out come the
holders of its gradients, in the order of its parameters: things with a `.grad` that may be read and
replaced. Mostly these are the parameters. What FSDP2's `fully_shard` has sharded has its gradients
whole within a step, beside the parameter, in the type in which they will be reduced."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from stretto.runtime.stage.wrappers import sharded_parts


class UnshardedGradient:
    """The gradient of one sharded parameter, as its accumulation within a step leaves it. `sharded`
    is torch's `FSDPParam`."""

    def __init__(self, sharded: Any):
        self.sharded = sharded

    @property
    def grad(self) -> Tensor | None:
        """The gradient, whole; None where there is none."""
        kept: Tensor | None = self.sharded.unsharded_accumulated_grad
        if kept is None and hasattr(self.sharded, "_unsharded_param"):
            kept = self.sharded._unsharded_param.grad
        return kept

    @grad.setter
    def grad(self, gradient: Tensor | None) -> None:
        accumulates = getattr(self.sharded, "reduce_dtype", None) is not None
        self.sharded.unsharded_accumulated_grad = gradient if accumulates else None
        if hasattr(self.sharded, "_unsharded_param"):
            self.sharded._unsharded_param.grad = None if accumulates else gradient

    def zeros(self) -> Tensor:
        """Zeros like the gradient."""
        dtype = getattr(self.sharded, "reduce_dtype", None)
        return torch.zeros_like(self.sharded._unsharded_param, dtype=dtype)


Holder = nn.Parameter | UnshardedGradient
"""Has a gradient in `.grad`."""


def gradient_holders(module: nn.Module) -> list[Holder]:
    """One for each of the module's parameters."""
    sharded = {
        (id(found._module_info.module), found._module_info.param_name): found
        for found in sharded_parameters(sharded_parts(module))
    }
    if not sharded:
        return list(module.parameters())
    holders: dict[int, Holder] = {}
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            own = sharded.get((id(part), name))
            holders.setdefault(id(parameter), UnshardedGradient(own) if own else parameter)
    return list(holders.values())


def key_of(holder: Holder) -> int:
    """The same for the holder of one gradient, whenever it is asked for."""
    return id(holder.sharded if isinstance(holder, UnshardedGradient) else holder)


def gradient_of(holder: Holder) -> Tensor:
    """This rank's numbers, as a dense tensor; zeros where there is no gradient."""
    if holder.grad is not None:
        return plain(holder.grad)
    zeros = holder.zeros() if isinstance(holder, UnshardedGradient) else torch.zeros_like(holder)
    return plain(zeros)


def give(holder: Holder, gradient: Tensor | None) -> None:
    """Replaces the gradient by these numbers of this rank, or takes it away."""
    if type(holder) is nn.Parameter:  # nearly always, and found more quickly
        holder.grad = gradient
        return
    if (
        gradient is None
        or not isinstance(holder, nn.Parameter)
        or not hasattr(holder, "placements")
    ):
        holder.grad = gradient
        return
    if holder.grad is None:
        holder.grad = torch.zeros_like(holder)
    plain(holder.grad).copy_(gradient)


def plain(tensor: Tensor) -> Tensor:
    """This rank's numbers: of a DTensor its local tensor, of a sparse one a dense one. What is cut
    alike on several ranks may be added piece by piece."""
    if type(tensor) is Tensor and tensor.layout is torch.strided:
        return tensor.detach() if tensor.requires_grad else tensor
    local = getattr(tensor, "_local_tensor", None)
    if local is not None:
        tensor = local
    return tensor.to_dense() if tensor.is_sparse else tensor.detach()


def as_flags(there: Sequence[bool], like: Tensor | None, dtype: torch.dtype) -> Tensor:
    """A vector of 0 and 1 where `like` is. Nearly always they are 1: so no numbers have to be
    brought to a device, for which the process would wait."""
    flags = torch.ones(len(there), dtype=dtype, device=None if like is None else like.device)
    for at, one in enumerate(there):
        if not one:
            flags[at] = 0
    return flags


def sharded_parameters(parts: list[Any]) -> Iterator[Any]:
    """torch's `FSDPParam` for everything that these modules have sharded."""
    return (parameter for group in parameter_groups(parts) for parameter in group.fsdp_params)


def parameter_groups(parts: list[Any]) -> Iterator[Any]:
    """torch's `FSDPParamGroup`s of these modules, each once."""
    states = {id(state): state for state in (part._get_fsdp_state() for part in parts)}
    for state in states.values():
        several = getattr(state, "_fsdp_param_groups", None)
        if several is None:  # earlier releases have one
            several = [state._fsdp_param_group] if state._fsdp_param_group else []
        yield from several
