"""What travels between stages: the shapes and dtypes of a stage's output tensors, and which of them
carry a gradient. Ranks agree on these before they exchange anything, as JSON; what a stage gives is
checked against them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stretto.runtime.errors import PipelineError


class TensorSpec(NamedTuple):
    """One tensor; `gradient` where its gradient comes back."""

    size: tuple[int, ...]
    dtype: torch.dtype
    gradient: bool

    def empty(self, device: torch.device) -> Tensor:
        """A new tensor of this shape and dtype, its contents undefined."""
        return torch.empty(self.size, dtype=self.dtype, device=device)

    def __str__(self) -> str:
        return f"{self.size} {dtype_name(self.dtype)}"


TensorSpecs = tuple[TensorSpec, ...]
"""Those of one message: a stage's output, or the gradients of its inputs."""


def specs_of(tensors: Sequence[Tensor]) -> TensorSpecs:
    """The specs of tensors that a forward gave."""
    return tuple(TensorSpec(tuple(t.shape), t.dtype, t.requires_grad) for t in tensors)


def carrying(specs: TensorSpecs) -> TensorSpecs:
    """Those whose gradients come back."""
    return tuple(spec for spec in specs if spec.gradient)


def to_json(specs: TensorSpecs) -> list[Any]:
    """A list of `[size, dtype, gradient]`."""
    return [[list(spec.size), dtype_name(spec.dtype), spec.gradient] for spec in specs]


def from_json(value: Any) -> TensorSpecs:
    """What `to_json` was given."""
    return tuple(TensorSpec(tuple(size), getattr(torch, name), bool(g)) for size, name, g in value)


def dtype_name(dtype: torch.dtype) -> str:
    """`float32`, without `torch.`"""
    return str(dtype).removeprefix("torch.")


def flat(output: Any, label: str) -> tuple[Tensor, ...]:
    """The tensors of a stage's output. Raises `PipelineError`, naming the stage by `label`, where
    it is neither a tensor nor a tuple or list of tensors."""
    if isinstance(output, Tensor):
        return (output,)
    if isinstance(output, tuple | list) and all(isinstance(item, Tensor) for item in output):
        return tuple(output)
    kinds = type(output).__name__
    if isinstance(output, tuple | list):
        kinds += " of " + ", ".join(sorted({type(item).__name__ for item in output}))
    raise PipelineError(f"{label} gives a {kinds}: a stage gives a tensor or a tuple of tensors")


def check(result: Sequence[Tensor], agreed: TensorSpecs, learn: bool, label: str) -> None:
    """Raises `PipelineError`, naming the operation by `label`, where a stage gave something else
    than was agreed: the receiver has allocated its buffers for that, and no backend would notice.
    `learn`: whether a backward follows, so that gradients are compared too."""
    for tensor, spec in zip(result, agreed, strict=False):
        if tensor.shape != spec.size or tensor.dtype != spec.dtype:
            break
        if learn and tensor.requires_grad != spec.gradient:
            has, had = ("no gradient", "one") if spec.gradient else ("a gradient", "none")
            raise PipelineError(
                f"{label} has {has} where {had} was agreed from the first micro-batch"
            )
    else:
        if len(result) == len(agreed):
            return
    gave = ", ".join(f"{tuple(tensor.shape)} {dtype_name(tensor.dtype)}" for tensor in result)
    said = ", ".join(map(str, agreed))
    raise PipelineError(
        f"{label} gives {gave} where {said} was agreed: all micro-batches need the same shapes"
    )
