"""The way into torch's engine for a backward that is known to be well formed: it starts at edges of
the graph, or at a loss, with one dense gradient for each. `torch.autograd.backward` finds that out
anew at every call, in Python, which takes as long as the backward of a small layer; what remains to
be checked, shapes and types of the gradients, the engine checks by itself."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Variable
from torch.autograd.graph import GradientEdge, _engine_run_backward, get_gradient_edge

Root = Tensor | GradientEdge
"""Where a backward starts."""

Gradients = tuple[Tensor | None, ...]
"""Those of several tensors or edges, None where nothing arrives."""


def _accelerator() -> torch.device | None:
    """The kind of device that this torch was built for. It is not looked for: a process that has
    cannot fork others that use it."""
    try:
        return torch.accelerator.current_accelerator()
    except RuntimeError:  # older releases, where there is none
        return None


ACCELERATOR = _accelerator()
CUSTOM = torch._C._FunctionBase  # whose nodes are Python's objects
PLAIN = frozenset([Tensor])

MADE: Any = tuple.__new__
"""Makes a named tuple of all its fields in half the time that its own name takes."""
ROOTS = frozenset([Tensor, GradientEdge])

RUN: Callable[..., Gradients] = (
    Variable._execution_engine.run_backward if ACCELERATOR is None else _engine_run_backward
)
"""The engine, called with seven arguments: edges, their gradients, keep the graph, make a graph,
ends, need not reach them, add to `.grad`. What torch's own function does around it is for the
threads of a device, which compile in it."""


def edge_of(tensor: Tensor) -> GradientEdge:
    """Where a tensor that has a gradient stands in the graph: as torch's `get_gradient_edge`."""
    node, owner = tensor.grad_fn, None
    if node is None:
        return get_gradient_edge(tensor)
    if isinstance(node, CUSTOM):  # which a node that is not Python's has to keep alive
        if not torch.is_grad_enabled():
            return get_gradient_edge(tensor)
        owner = tensor.view_as(tensor).grad_fn  # as there
    return MADE(GradientEdge, (node, tensor.output_nr, owner))  # type: ignore[no-any-return]


def accumulate(roots: Sequence[Root], gradients: Sequence[Tensor | None]) -> None:
    """As `torch.autograd.backward`: adds to the `.grad` of every leaf. Raises what the backward
    raises."""
    if len(roots) == 1 and type(roots[0]) in ROOTS and type(gradients[0]) is Tensor:
        RUN(tuple(roots), tuple(gradients), False, False, (), True, True)
    elif ROOTS.issuperset(map(type, roots)) and PLAIN.issuperset(map(type, gradients)):
        add_up(roots, gradients)
    else:  # a subclass of Tensor may have a backward of its own
        torch.autograd.backward(tuple(roots), tuple(gradients))  # type: ignore[arg-type]


def add_up(roots: Sequence[Root], gradients: Sequence[Tensor | None]) -> None:
    """As `accumulate`, from gradients as the nodes above have made them: the engine sums over
    broadcast dimensions and changes types, as it does behind every node."""
    RUN(tuple(roots), tuple(gradients), False, False, (), True, True)


def gradients_at(
    starts: Sequence[GradientEdge],
    gradients: Sequence[Tensor | None],
    ends: Sequence[GradientEdge],
    keep: bool,
) -> Gradients:
    """The gradients at `ends`, None where nothing arrives; nothing is computed that leads
    elsewhere. `keep`: the graph may be run again. Raises what torch raises."""
    if not starts or not ends:
        return (None,) * len(ends)
    if PLAIN.issuperset(map(type, gradients)):
        return RUN(tuple(starts), tuple(gradients), keep, False, tuple(ends), True, False)
    return torch.autograd.grad(
        tuple(starts), tuple(ends), tuple(gradients), retain_graph=keep, allow_unused=True
    )
