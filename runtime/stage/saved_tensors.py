"""What nodes of the autograd graph have saved for their backward. In comes a node; its saved
tensors can be looked at, and dropped before the graph is."""

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import GradientEdge, Node
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
    for name in _names(type(node)):
        for saved in _as_tuple(getattr(node, name)):
            if saved is not None and saved.unpack_hook is not None:
                return True
            if saved is not None and saved.data is not None:
                return False
    return False


def saves(kind: type) -> bool:
    """Whether nodes of the kind save tensors."""
    return bool(_names(kind))


def drop_saved(node: Node) -> None:
    """Lets go of the node's saved tensors, before the graph as a whole is released. The node must
    not run again."""
    for name in _names(type(node)):
        for saved in _as_tuple(getattr(node, name)):
            if saved is None or saved.unpack_hook is not None:
                continue
            data = saved.data
            if data is not None and data.dim():  # numbers are not worth it
                saved.register_hooks(_nothing, _nothing)


def held(node: Node) -> list[tuple[str, Tensor]] | None:
    """The node's saved tensors by their names; None where hooks have packed one, or one name is of
    several."""
    found = []
    for name in _names(type(node)):
        saved = getattr(node, name)
        if saved is None:
            continue
        if isinstance(saved, tuple) or saved.unpack_hook is not None:
            return None
        if saved.data is not None:
            found.append((name, saved.data))
    return found


def drop_named(node: Any, names: Iterable[str]) -> None:
    """As `drop_saved`, of what is saved by these names alone."""
    for name in names:
        try:
            getattr(node, name).register_hooks(_nothing, _nothing)
        except (AttributeError, RuntimeError):  # there is none this time, or hooks have packed it
            continue


FACTORS = {
    "MmBackward0": ((0, "_raw_saved_mat2"), (1, "_raw_saved_self")),
    "BmmBackward0": ((0, "_raw_saved_mat2"), (1, "_raw_saved_self")),
    "AddmmBackward0": ((1, "_raw_saved_mat2"), (2, "_raw_saved_mat1")),
    "BaddbmmBackward0": ((1, "_raw_saved_batch2"), (2, "_raw_saved_batch1")),
}
"""Products: the place of an edge, and what has been saved for its gradient alone."""


def drop_factors(node: Node, sides: Sequence[tuple[int, GradientEdge]]) -> None:
    """Lets go of what a product has saved for none of the edges at these places, for which alone it
    will run: under autocast a copy of the weight in lower precision. Weights stay, and views of
    them, with which nothing is gained. A run for other edges raises then."""
    factors = FACTORS.get(type(node).__name__)
    if factors is None:
        return
    places = [place for place, _ in sides]
    if any(places[-1] == place for place, _ in factors) and is_weight(sides[-1][1].node):
        return
    for place, name in factors:
        saved: Any = None if place in places else getattr(node, name, None)
        if saved is None or saved.unpack_hook is not None:
            continue
        data = saved.data
        if data is not None and not isinstance(data._base if data._is_view() else data, Parameter):
            saved.register_hooks(_nothing, _nowhere)


def is_weight(node: Node) -> bool:
    """Whether it stands for a parameter as it is, or transposed."""
    while type(node).__name__ == "TBackward0":
        below = node.next_functions[0][0]
        if below is None:
            return False
        node = below
    return type(node).__name__ == "AccumulateGrad"


@cache
def _names(kind: type) -> tuple[str, ...]:
    return tuple(name for name in dir(kind) if name.startswith("_raw_saved_"))


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _nothing(_: Any) -> None:
    return None


def _nowhere(_: Any) -> Tensor:
    """A tensor that no formula can compute with."""
    return NOWHERE


NOWHERE = torch.empty(0, device="meta")
