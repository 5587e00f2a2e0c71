"""What travels between stages: the shapes and dtypes of a stage's output tensors, and which of them
carry a gradient. Ranks tell each other these before they exchange anything, as JSON; what a stage
gives is checked against them."""

from collections.abc import Callable, Sequence
from functools import partial
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

    def maker(self, device: torch.device) -> Callable[[], Tensor]:
        """What gives the same as `empty`, each time it is called, mostly in half of the time: by a
        tensor of one number that has this shape."""
        one = torch.empty((), dtype=self.dtype, device=device).expand(self.size)
        if torch.empty_like(one).stride() == self.empty(device).stride():
            return partial(torch.empty_like, one)
        return partial(self.empty, device)

    def __str__(self) -> str:
        return f"{self.size} {dtype_name(self.dtype)}"


TensorSpecs = tuple[TensorSpec, ...]
"""Those of one message: a stage's output, or the gradients of its inputs."""


def specs_of(tensors: Sequence[Tensor], learn: bool, label: str) -> TensorSpecs:
    """The specs of tensors that a forward gave, to `learn` from them or not. Raises
    `PipelineError`, naming the operation by `label`, where one is sparse or nested: those have no
    memory that could be sent as it is."""
    found = []
    for tensor in tensors:
        if tensor.layout != torch.strided:
            kind = str(tensor.layout).removeprefix("torch.")
            raise PipelineError(
                f"{label} gives a {kind} tensor, which cannot be sent: give an ordinary one "
                "(`.to_dense()`, or its parts as tensors)"
            )
        found.append(TensorSpec(tuple(tensor.shape), tensor.dtype, learn and tensor.requires_grad))
    return tuple(found)


def are(tensors: Sequence[Tensor], specs: TensorSpecs, learn: bool) -> bool:
    """Whether `specs_of` would find these: the same question, asked of every forward."""
    if len(tensors) != len(specs):
        return False
    for tensor, (size, dtype, gradient) in zip(tensors, specs, strict=True):
        if (
            tensor.shape != size
            or tensor.dtype is not dtype
            or tensor.layout is not torch.strided
            or (learn and tensor.requires_grad) is not gradient
        ):
            return False
    return True


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
    it is neither a tensor nor a tuple or list of tensors, or has a DTensor, whose pieces mean
    nothing to another rank."""
    if type(output) is Tensor:
        return (output,)
    found = tuple(output) if isinstance(output, tuple | list) else (output,)
    if any(hasattr(item, "device_mesh") and hasattr(item, "to_local") for item in found):
        raise PipelineError(
            f"{label} gives a DTensor: what goes to another stage is a plain tensor, the same on "
            "all ranks of the mesh; end the stage with `output.full_tensor()`, or where its "
            "last layer is cut, with `output_layouts=Replicate()` and `use_local_output=True`"
        )
    if found and all(isinstance(item, Tensor) for item in found):
        return found
    kinds = type(output).__name__
    if isinstance(output, tuple | list):
        kinds += " of " + ", ".join(sorted({type(item).__name__ for item in output}))
    raise PipelineError(f"{label} gives a {kinds}: a stage gives a tensor or a tuple of tensors")


def check(found: TensorSpecs, known: TensorSpecs, label: str, maker: str) -> None:
    """Raises `PipelineError`, naming the operation by `label`, where it gave something else than
    `maker` for a micro-batch of the same signature: the receiver has allocated its buffers for
    that, and no backend would notice."""
    if found == known:
        return
    gave, said = (", ".join(map(str, specs)) or "nothing" for specs in (found, known))
    if gave != said:
        raise PipelineError(
            f"{label} gives {gave} where {maker} gave {said} for a micro-batch of the same shape: "
            "what a stage gives must depend on the shape of its input alone"
        )
    at = next(k for k, (a, b) in enumerate(zip(found, known, strict=True)) if a != b)
    has, had = ("a gradient", "none") if found[at].gradient else ("no gradient", "one")
    raise PipelineError(
        f"{label} gives {found[at]} (output {at}) with {has} where {maker}, for a micro-batch of "
        f"the same shape, had {had}: whether an output needs a gradient must depend on the shape "
        "of its input alone, and on what is frozen"
    )
