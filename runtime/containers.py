"""What batches and outputs are made of, besides tensors. In comes a value of any type that holds
others: tuples and lists, any `Mapping`, named tuples, dataclasses, and types that are registered
with `torch.utils._pytree`. Out come its items; and from other items another value of the same type.
Everything that walks nested values does it with these two."""

import copy
from collections import deque
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from stretto.runtime.errors import PipelineError, spelled

HeldItems = list[tuple[Any, Any]]
"""What a container holds, each with its key, index or name."""

_LEAVES = (Tensor, str, bytes, int, float, complex, type(None), torch.Size, torch.dtype, type)
_MISSING = object()


class MicrobatchList(Sequence[Any]):
    """Micro-batches that the user has made, one item for each, instead of a whole batch: their
    shapes may differ. `step` takes one wherever it takes a batch: as x, as one argument or keyword
    of several, deep in a dict, as target. Its items are those of all pipelines of the model, in
    the order of the micro-batches."""

    def __init__(self, items: Sequence[Any] | Iterator[Any]):
        self.items = list(items)

    @classmethod
    def cut(cls, whole: Any, lengths: Sequence[int], dim: int = 0) -> "MicrobatchList":
        """Every tensor of `whole` cut along dimension `dim` into pieces of these lengths; what is
        no tensor is repeated. Raises `PipelineError` where a tensor has another length."""
        for tensor in tensors(whole):
            if not -tensor.dim() <= dim < tensor.dim() or tensor.shape[dim] != sum(lengths):
                raise PipelineError(
                    f"lengths {', '.join(map(str, lengths))} do not cut a tensor of shape "
                    f"{tuple(tensor.shape)} along dimension {dim}"
                )

        def piece(k: int) -> Any:
            return mapped(lambda tensor: tensor.split(list(lengths), dim)[k], whole)

        return cls([piece(k) for k in range(len(lengths))])

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: Any) -> Any:
        return self.items[index]

    def __repr__(self) -> str:
        return f"MicrobatchList({self.items!r})"


def items_of(value: Any) -> HeldItems | None:
    """What the value holds; None where it is no container."""
    if isinstance(value, _LEAVES):
        return None
    if isinstance(value, Mapping):
        return list(value.items())
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return list(zip(value._fields, value, strict=True))  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(value, tuple | list | deque | MicrobatchList):
        return list(enumerate(value))
    if is_dataclass(value):
        return [
            (field.name, getattr(value, field.name))
            for field in fields(value)
            if hasattr(value, field.name)
        ]
    if type(value).__module__ == "torch.nn.attention.flex_attention":
        return None  # a BlockMask: one value, though torch can flatten it
    children, _ = tree_flatten(value, is_leaf=lambda other: other is not value)
    return None if len(children) == 1 and children[0] is value else list(enumerate(children))


def rebuilt(value: Any, items: Sequence[Any]) -> Any:
    """A value of the same type with other items in the place of its own. Raises `PipelineError`
    where its type cannot be built that way."""
    try:
        return _rebuilt(value, items)
    except PipelineError:
        raise
    except Exception as error:
        raise PipelineError(
            f"a {type(value).__name__} cannot be built again from parts of what it holds "
            f"({spelled(error)}): register it with torch.utils._pytree, or give "
            "MicrobatchList of it"
        ) from error


def _rebuilt(value: Any, items: Sequence[Any]) -> Any:
    kind: Any = type(value)
    if isinstance(value, Mapping):
        return _mapping(value, items)
    if isinstance(value, tuple):
        return kind._make(items) if hasattr(value, "_make") else kind(items)
    if isinstance(value, MicrobatchList):
        return MicrobatchList(items)
    if isinstance(value, deque):
        return kind(items, maxlen=value.maxlen)
    if isinstance(value, list):
        if kind is list:
            return list(items)
        made = copy.copy(value)
        made[:] = items
        return made
    if is_dataclass(value):
        return _dataclass(value, items)
    _, spec = tree_flatten(value, is_leaf=lambda other: other is not value)
    return tree_unflatten(items, spec)


def _mapping(value: Mapping[Any, Any], items: Sequence[Any]) -> Any:
    kind: Any = type(value)
    pairs = dict(zip(value, items, strict=True))
    if kind is dict:
        return pairs
    if not isinstance(value, MutableMapping):
        return kind(pairs)
    made = copy.copy(value)
    for key, item in pairs.items():
        made[key] = item
    if made is value or any(made[key] is not item for key, item in pairs.items()):
        raise TypeError("it does not keep what is put into a copy of it")
    return made


def _dataclass(value: Any, items: Sequence[Any]) -> Any:
    """Made anew by its own constructor, so that what that computes fits the new items."""
    there = [field for field in fields(value) if hasattr(value, field.name)]
    pairs = list(zip(there, items, strict=True))
    made = replace(value, **{field.name: item for field, item in pairs if field.init})
    for field, item in pairs:
        if getattr(made, field.name, _MISSING) is _MISSING:
            object.__setattr__(made, field.name, item)
    return made


def mapped(change: Callable[[Tensor], Any], value: Any) -> Any:
    """The value with `change` applied to every tensor in it."""
    if isinstance(value, Tensor):
        return change(value)
    held = items_of(value)
    if held is None:
        return value
    return rebuilt(value, [mapped(change, item) for _, item in held])


def tensors(value: Any) -> Iterator[Tensor]:
    """Every tensor in the value, in order."""
    if isinstance(value, Tensor):
        yield value
    for _, item in items_of(value) or ():
        yield from tensors(item)
