"""W: from what arrived at the places where a graph is cut to the gradients on the parameters' side.

A cut node is called by itself, while a run of the engine is under way that asks for its edges to
parameters (`node_calls`): torch's own formula runs, for these edges alone, with torch's
own checks of what it has saved. Nothing below the node is walked, so that W costs what the nodes
cost, however deep the stage.

Where a call would leave something out, the node is run by the engine as a backward of its own
(`_forked`): if it has hooks of the user's, if torch looks for anomalies, if it belongs to another
stream of a device than the one on which W runs, or if this torch does not do what `node_calls`
relies on. The engine then walks everything below the node.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

from stretto.runtime.stage import node_calls
from stretto.runtime.stage.engine import ACCELERATOR, Gradients, add_up, gradients_at
from stretto.runtime.stage.graph_cut import LEAF, TRANSPOSE, SideEdges, walk
from stretto.runtime.stage.hooks import none_at_parameters
from stretto.runtime.stage.node_calls import computing_only
from stretto.runtime.stage.saved_tensors import drop_saved


class CutNode(NamedTuple):
    """A node of the trunk, the gradients that arrived at its outputs, and its edges that lead to
    parameters only, each with its place among the node's edges. `apart`: nothing else in the graph
    leads where they lead. `hooked`: the node has hooks of the user's. `stream` is the device's on
    which it ran, None on the CPU."""

    node: Node
    arrived: Gradients
    edges: SideEdges
    apart: bool = False
    hooked: bool = False
    stream: Any = None


class EdgeGradient(NamedTuple):
    """A gradient that is known at an edge to the parameters' side."""

    edge: GradientEdge
    gradient: Tensor


CutPlace = CutNode | EdgeGradient


MANY = 2**18
"""Of so many numbers gradients wait for each other: so that a run of the engine serves several, but
they stay in the caches, and take no memory that one by one they would not."""


class KnownGradients(NamedTuple):
    """What is known at edges to the parameters' side, side by side."""

    edges: list[GradientEdge]
    gradients: list[Tensor]

    def add(self, edge: GradientEdge, gradient: Tensor | None) -> None:
        """One more, if there is one."""
        if gradient is not None:
            self.edges.append(edge)
            self.gradients.append(gradient)

    def clear(self) -> None:
        """They are used."""
        self.edges.clear()
        self.gradients.clear()


def towards_parameters(cuts: list[CutPlace], known: KnownGradients) -> None:
    """Uses up `cuts`, from the end, and what a node has saved is released as soon as it was used.
    Adds what is known then of edges to the parameters' side, but for what was added to parameters
    already."""
    calls = node_calls.NODES_CAN_BE_CALLED and not torch.is_anomaly_enabled()
    while cuts:
        count = 0
        for cut in reversed(cuts):
            if type(cut) is CutNode and (
                cut.hooked or (cut.stream is not None and _elsewhere(cut))
            ):
                break
            count += 1
        if not calls or not count:
            _forked(cuts.pop(), known)
        else:
            _called(cuts, count, known)


def _elsewhere(cut: CutNode) -> bool:
    return bool(cut.stream != current_stream(cut.arrived))


def _called(cuts: list[CutPlace], count: int, known: KnownGradients) -> None:
    """Calls this many of the last, from the end. What leads where nothing else does is added to
    parameters at once, by itself or, where much of it has come, by the engine."""
    ready = KnownGradients([], [])
    directly = none_at_parameters()

    def call() -> None:
        numbers = 0
        for _ in range(count):
            cut = cuts.pop()
            if isinstance(cut, EdgeGradient):
                known.add(*cut)
                continue
            numbers += _computed(cut, directly, known, ready)
            if owners(cut) != ONE_OWNER:
                drop_saved(cut.node)
            if numbers >= MANY:
                add_up(*ready)
                ready.clear()
                numbers = 0

    edges = [edge for cut in cuts[-count:] if type(cut) is CutNode for _, edge in cut.edges]
    computing_only(edges, call)
    known.edges.extend(ready.edges)
    known.gradients.extend(ready.gradients)


def _computed(cut: CutNode, directly: bool, known: KnownGradients, ready: KnownGradients) -> int:
    """Calls the node. Returns how many numbers are `ready` now that were not."""
    numbers = 0
    node: Any = cut.node
    found = node(*cut.arrived)
    if not isinstance(found, tuple):
        found = (found,)
    for place, edge in cut.edges:
        gradient = found[place]
        if gradient is None:
            continue
        if not cut.apart:
            known.add(edge, gradient)
        elif not (directly and added(edge, gradient)):
            ready.add(edge, gradient)
            numbers += gradient.numel()
    return numbers


def added(edge: GradientEdge, gradient: Tensor) -> bool:
    """Adds to the `.grad` of a parameter as the engine would; whether that was possible: there is
    a `.grad`, and the edge leads to the parameter or to its transpose. Hooks of the parameter or of
    its node would be passed by. Saves that the engine is started: once for a small stage, once for
    every large gradient of another."""
    leaf: Any = edge.node
    kind = type(leaf)
    if kind is TRANSPOSE:
        leaf = leaf.next_functions[0][0]
        kind = type(leaf)
        gradient = gradient.t()
    if kind is not LEAF:
        return False
    total = leaf.variable.grad
    if type(total) is not Tensor or type(gradient) is not Tensor:
        return False
    if total.dtype is not gradient.dtype or gradient.layout is not total.layout:
        return False
    if total.shape != gradient.shape:
        leading = gradient.dim() - total.dim()
        if leaf is not edge.node or leading < 1 or gradient.shape[leading:] != total.shape:
            return False
        gradient = gradient.sum(tuple(range(leading)))  # as the engine does behind every node
    leaf(gradient)
    return True


def owners(cut: CutNode) -> int:
    """A number that is higher where others than the cut hold its node, as the graph above does:
    then what the node has saved would outlive its use."""
    return sys.getrefcount(cut.node)


def owners_if_alone() -> int | None:
    """That number where nobody else does; None where torch does not tell a node's owners, as it
    does since its nodes count those in C++ and in Python together."""
    with torch.inference_mode(False), torch.enable_grad():
        leaf = torch.zeros((), device="cpu", requires_grad=True)
        above = (leaf * 2) * 2
    cut = CutNode(above.grad_fn.next_functions[0][0], (), [])  # type: ignore[union-attr, arg-type]
    held = owners(cut)
    del above
    return owners(cut) if owners(cut) < held else None


ONE_OWNER = owners_if_alone()


def _forked(cut: CutPlace, known: KnownGradients) -> None:
    """Lets the engine run the cut node for its edges to parameters only. Hooks on the node's
    outputs have run in I and changed what arrived; here they run again, so the last one restores
    what they left then."""
    if isinstance(cut, EdgeGradient):
        return known.add(*cut)
    node, arrived, sides, *_ = cut
    given = [(GradientEdge(node, i), g) for i, g in enumerate(arrived) if g is not None]
    if not given:
        return None
    edges = [edge for _, edge in sides]
    found: Sequence[Tensor | None]
    if _shared(cut):
        found = _outside_engine(cut)
    else:
        starts, gradients = zip(*given, strict=True)
        hook = node.register_prehook(lambda _: arrived)
        try:
            with hooks_put_off(edge.node for edge in edges):
                found = gradients_at(starts, gradients, edges, keep=False)
        finally:
            hook.remove()
    for edge, gradient in zip(edges, found, strict=True):
        known.add(edge, gradient)
    return None


def _shared(cut: CutNode) -> bool:
    """Whether one of the edges leads to what can be reached from the node in another way too."""
    sides = {edge.node for _, edge in cut.edges}
    below = [child for _, edges in walk([cut.node]) for child, _ in edges]
    return sum(child in sides for child in below) > len(cut.edges)


def _outside_engine(cut: CutNode) -> list[Tensor | None]:
    """Calls the cut node, since the engine would run the trunk below it once more and count twice
    what that adds to the shared parameter; for all its edges where it cannot be called for
    some."""
    found: list[Tensor | None] = []

    def call() -> None:
        made: Any = cut.node(*cut.arrived)  # type: ignore[operator]
        made = made if isinstance(made, tuple) else (made,)
        found.extend(made[place] for place, _ in cut.edges)

    if node_calls.NODES_CAN_BE_CALLED:
        computing_only([edge for _, edge in cut.edges], call)
    else:
        with torch.no_grad():
            call()
    return found


@contextmanager
def hooks_put_off(leaves: Iterable[Node]) -> Iterator[None]:
    """Hooks of parameters' gradients do not run: the engine calls them wherever it is asked for a
    gradient, and they are to run once, in W, on the sum."""
    parameters = {id(p): p for leaf in leaves if (p := getattr(leaf, "variable", None)) is not None}
    kept = [(p, p._backward_hooks) for p in parameters.values() if p._backward_hooks]
    for parameter, _ in kept:
        parameter._backward_hooks = None
    try:
        yield
    finally:
        for parameter, hooks in kept:
            parameter._backward_hooks = hooks


def current_stream(gradients: Gradients) -> Any:
    """The stream that is current on their device; None on the CPU."""
    if ACCELERATOR is None:
        return None
    for gradient in gradients:
        if gradient is not None and gradient.device.type == ACCELERATOR.type:
            return torch.accelerator.current_stream(gradient.device)
    return None
