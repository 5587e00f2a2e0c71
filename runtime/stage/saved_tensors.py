"""What nodes of the autograd graph have saved for their backward. In comes a node; its saved
tensors can be looked at, and dropped before the graph is."""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import Node
from torch.nn import Parameter


def uses_data(node: Node) -> bool:
    """Whether the node has saved a tensor that is no parameter and depends on none, as the first
    operations on a batch do; views and casts of a parameter save nothing. What hooks have packed is
    not looked at, which would unpack it: it counts as data."""
    if is_packed(node):
        return True
    if isinstance(node, BackwardCFunction):
        saved: Sequence[Any] = node.saved_tensors
    else:
        names = [name.replace("_raw_saved_", "_saved_") for name in _names(type(node))]
        saved = [value for name in names for value in _as_tuple(getattr(node, name))]
    return any(
        isinstance(value, Tensor) and not value.requires_grad and not isinstance(value, Parameter)
        for value in saved
    )


def is_packed(node: Node) -> bool:
    """Whether hooks give back what the node has saved: activation checkpoints, offloading. They
    stand around whole operations, so that the first saved tensor answers for all of the node."""
    for saved in _saved(node):
        if saved is not None and saved.unpack_hook is not None:
            return True
        if saved is not None and saved.data is not None:
            return False
    return False


def drop_saved(node: Node) -> None:
    """Lets go of the node's saved tensors, before the graph as a whole is released. The node must
    not run again."""
    for saved in _saved(node):
        if saved is None or saved.unpack_hook is not None:
            continue
        data = saved.data
        if data is not None and data.dim():  # numbers are not worth it
            saved.register_hooks(_nothing, _nothing)


@cache
def _names(kind: type) -> tuple[str, ...]:
    return tuple(name for name in dir(kind) if name.startswith("_raw_saved_"))


def _saved(node: Node) -> Iterator[Any]:
    for name in _names(type(node)):
        value = getattr(node, name)
        if type(value) is tuple:
            yield from value
        else:
            yield value


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _nothing(_: Any) -> None:
    return None
