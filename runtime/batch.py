"""A batch and its micro-batches. In comes what the user gives a step, a tensor or (nested) tuples,
lists and dicts of tensors; out come equal pieces of it along dimension 0. The way back puts the
outputs of micro-batches together again."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from stretto.runtime.errors import Stopped


def pieces(batch: Any, count: int, words: str) -> list[Any]:
    """The batch in `count` equal pieces; what is no tensor stands in each of them. `words` name
    the batch in the message of `Stopped`, raised where it cannot be cut so."""
    sizes = {t.shape[0] if t.dim() else 0 for t in tensors(batch)}
    if not sizes:
        raise Stopped(f"{words} holds no tensor")
    if len(sizes) > 1:
        some = " and ".join(str(size) for size in sorted(sizes))
        raise Stopped(f"{words} has tensors with {some} rows: all need the same dimension 0")
    (rows,) = sizes
    if rows == 0 or rows % count:
        below, above = rows // count * count, (rows // count + 1) * count
        raise Stopped(
            f"{words} has {rows} rows, which do not divide into {count} micro-batches: give it "
            + (f"{below} or {above}" if below else str(above))
        )
    step = rows // count
    return [
        mapped(lambda t, k=k: t[k * step : (k + 1) * step], batch)  # type: ignore[misc]
        for k in range(count)
    ]


def merged(outputs: Sequence[Any]) -> Any:
    """The outputs of all micro-batches, put together along dimension 0; numbers become a vector."""
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
    """The value with every tensor changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: mapped(change, item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(mapped(change, item) for item in value)
    return value


def signature(value: Any) -> str:
    """The shapes, types and structure of the value as a text."""
    return repr(mapped(_card, value))


class _Words(str):
    """A text that shows itself without quotes."""

    __repr__ = str.__str__


def _card(tensor: Tensor) -> str:
    return _Words(f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}")


def arguments(x: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """How a first stage is called with a micro-batch: a tuple or list is its positional arguments,
    a dict its keywords, anything else its one argument."""
    if isinstance(x, dict):
        return (), x
    if isinstance(x, tuple | list):
        return tuple(x), {}
    return (x,), {}
