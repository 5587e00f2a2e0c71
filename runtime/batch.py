"""Batches and micro-batches. In comes what the user gives a step: a tensor, or (nested) tuples,
lists and dicts of tensors. Out come equal pieces of it along dimension 0; the way back concatenates
the outputs of micro-batches. The helpers here walk such nested values."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from stretto.runtime.errors import PipelineError


def pieces(batch: Any, count: int, label: str) -> list[Any]:
    """Cuts the batch along dimension 0 into `count` equal pieces; whatever is no tensor is repeated
    in each of them.

    Raises `PipelineError`, in which `label` names the batch, where there is no tensor, tensors
    differ in dimension 0, or it does not divide by `count`.
    """
    sizes = {t.shape[0] if t.dim() else 0 for t in tensors(batch)}
    if not sizes:
        raise PipelineError(f"{label} holds no tensor")
    if len(sizes) > 1:
        some = " and ".join(str(size) for size in sorted(sizes))
        raise PipelineError(f"{label} has tensors with {some} rows: all need the same dimension 0")
    (rows,) = sizes
    if rows == 0 or rows % count:
        below, above = rows // count * count, (rows // count + 1) * count
        raise PipelineError(
            f"{label} has {rows} rows, which do not divide into {count} micro-batches: give it "
            + (f"{below} or {above}" if below else str(above))
        )
    step = rows // count
    return [
        mapped(lambda t, k=k: t[k * step : (k + 1) * step], batch)  # type: ignore[misc]
        for k in range(count)
    ]


def merged(outputs: Sequence[Any]) -> Any:
    """The outputs of all micro-batches, concatenated along dimension 0; tensors without dimensions
    become a vector."""
    first = outputs[0]
    if isinstance(first, Tensor):
        return torch.cat(tuple(outputs)) if first.dim() else torch.stack(tuple(outputs))
    if isinstance(first, dict):
        return {key: merged([output[key] for output in outputs]) for key in first}
    if isinstance(first, tuple | list):
        return type(first)(merged(column) for column in zip(*outputs, strict=True))
    return first


def tensors(value: Any) -> Iterator[Tensor]:
    """Every tensor in the value, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from tensors(item)


def mapped(change: Callable[[Tensor], Any], value: Any) -> Any:
    """The value with `change` applied to every tensor in it."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: mapped(change, item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(mapped(change, item) for item in value)
    return value


def signature(value: Any) -> str:
    """The structure of the value with each tensor's shape and dtype, as text: values with equal
    signatures need no new agreement between ranks."""
    return repr(mapped(_shape_and_dtype, value))


class _Unquoted(str):
    """A text whose `repr` has no quotes."""

    __repr__ = str.__str__


def _shape_and_dtype(tensor: Tensor) -> str:
    return _Unquoted(f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}")


def arguments(x: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """How a first stage is called with a micro-batch: a tuple or list is its positional arguments,
    a dict its keywords, anything else its one argument."""
    if isinstance(x, dict):
        return (), x
    if isinstance(x, tuple | list):
        return tuple(x), {}
    return (x,), {}
