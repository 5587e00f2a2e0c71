"""Single nodes of the autograd graph, run for some of their edges. In come the edges and a function
that calls the nodes.

torch's engine walks everything below the place at which it starts, before it runs anything: a node
run by the engine costs a walk through the whole graph below it, whatever is asked of it. A node can
be called as well, and computes what the run that is under way was asked for. Here a run is under
way that was asked for the edges, starts at a leaf beside the graph, and has nothing to walk.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from stretto.runtime.stage.engine import RUN


def computing_only(edges: Sequence[GradientEdge], work: Callable[[], None]) -> None:
    """Calls `work`. A node that it calls, `node(*gradients)`, computes what leads to `edges` alone:
    its other results are None. Hooks of nodes and edges do not run, what a node has saved is kept,
    and results are as the node's formula makes them, not summed over broadcast dimensions. Raises
    what `work` raises."""
    WORK.here = work
    try:
        RUN((BESIDE,), (ONE,), True, False, (BESIDE, *edges), True, False)
    finally:
        del WORK.here


def nodes_can_be_called() -> bool:
    """Whether this torch computes as `computing_only` says; to be tried on a product."""
    found: list[Tensor | None] = []
    try:
        with torch.inference_mode(False), torch.enable_grad():
            a, b, c = (torch.ones(2, 2, device="cpu", requires_grad=True) for _ in range(3))
            node: Any = torch.addmm(c, a, b).grad_fn
        above = torch.ones(2, 2, device="cpu")
        computing_only([get_gradient_edge(b)], lambda: found.extend(node(above)))
    except (AttributeError, RuntimeError, TypeError):
        return False
    return [gradient is None for gradient in found] == [True, True, False]


WORK = threading.local()
"""What a thread's run is to call, in `here`."""

with torch.inference_mode(False):
    LEAF = torch.zeros((), device="cpu", requires_grad=True)
    ONE = torch.ones((), device="cpu")
LEAF.register_hook(lambda _: WORK.here())
BESIDE = get_gradient_edge(LEAF)
"""Where the run starts and ends: at a leaf with a hook, which is called when the run has begun."""

NODES_CAN_BE_CALLED = nodes_can_be_called()
