"""The backward of one stage and micro-batch: whole (B), or in two halves that can run apart, the
gradient of the stage's input first (I), those of its weights later (W).

What comes in is what a forward left: the *roots*, the edges of the autograd graph at which the
stage's outputs (or its loss) stand, and its *inputs*, leaf tensors. The graph is cut in two
(`graph_cut`). `input_gradient` runs the trunk and notes, at every cut node, the gradients that
arrive there; `weight_gradient` then runs each cut node for the edges that were left out, and
backpropagates the answers to the parameters in one run. Every product of matrices is computed in
exactly one of the halves, and the sums are those of the whole backward, in its order.

Where no input needs a gradient, I still walks the whole chain to the first operation on data and
leaves to W only what belongs to weights.

Cases that cannot be cut that way are still right. A custom `autograd.Function` computes everything
in I, and what belongs to weights waits for W. A parameter that two cut nodes use directly, without
a view of its own in between, makes W compute both sides of these nodes. A stage with activation
checkpoints, hooks on saved tensors, or compiled regions that overwrite what they saved, does all
its work in I (`indivisible`); with reentrant checkpoints I is a B, and W has nothing to do.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import GradientEdge, Node

from stretto.runtime.stage.engine import Root, accumulate, edge_of
from stretto.runtime.stage.graph_cut import GraphCut, cut_graph
from stretto.runtime.stage.indivisible import adds_by_itself, is_indivisible
from stretto.runtime.stage.saved_tensors import drop_saved

Gradients = tuple[Tensor | None, ...]


class CutNode(NamedTuple):
    """A node of the trunk, the gradients that arrived at its outputs, and its edges that lead to
    parameters only, each with its place among the node's edges; `shared` where one of them can be
    reached from the node by the trunk too."""

    node: Node
    arrived: Gradients
    edges: tuple[tuple[int, GradientEdge], ...]
    shared: bool


class EdgeGradient(NamedTuple):
    """A gradient that is known at an edge to the parameters' side."""

    edge: GradientEdge
    gradient: Tensor


class DeferredWeightGrad(NamedTuple):
    """What I leaves for W, which uses it up: the places where the graph is cut, in the order in
    which I came by, and what the module has left to be run."""

    cuts: list[CutNode | EdgeGradient]
    functions: list[Callable[[], Any]]


NOTHING_LEFT = DeferredWeightGrad([], [])


def whole(roots: Sequence[Root], gradients: Gradients, inputs: Sequence[Tensor]) -> Gradients:
    """B: adds to the parameters' `.grad`, and returns the gradient of each input."""
    if roots:
        accumulate(roots, gradients)
    return collect(inputs)


def collect(inputs: Sequence[Tensor]) -> Gradients:
    """Takes the gradients away from leaf inputs on which a backward has left them."""
    found = tuple([leaf.grad for leaf in inputs])
    for leaf in inputs:
        leaf.grad = None
    return found


def input_gradient(
    roots: Sequence[Root], gradients: Gradients, inputs: Sequence[Tensor]
) -> tuple[Gradients, DeferredWeightGrad]:
    """I: returns the gradient of each input (None where the outputs do not depend on it), and
    what `weight_gradient` needs to go on. Saved tensors that only I needed are dropped."""
    starts, ends = edges_of(roots), edges_of(inputs)
    graph = cut_graph(starts, ends)
    if adds_by_itself(graph) or is_indivisible(graph, bool(ends)):
        return _in_one_run(graph, starts, gradients, inputs)

    cuts: list[CutNode | EdgeGradient] = [
        EdgeGradient(start, gradient)
        for start, gradient in zip(starts, gradients, strict=True)
        if start.node in graph.beside and gradient is not None
    ]
    hooks = [_note(node, graph, cuts) for node in graph.cut_nodes]
    try:
        found = _gradients(starts, gradients, [*ends, *graph.fronts], keep=True)
    finally:
        for hook in hooks:
            hook.remove()

    for node in graph.trunk:
        if node not in graph.cut_nodes or isinstance(node, BackwardCFunction):
            drop_saved(node)
    fronts = zip(graph.fronts, found[len(ends) :], strict=True)
    cuts += [EdgeGradient(edge, gradient) for edge, gradient in fronts if gradient is not None]
    return found[: len(ends)], DeferredWeightGrad(cuts, [])


def all_at_once(
    roots: Sequence[Root], gradients: Gradients, inputs: Sequence[Tensor]
) -> tuple[Gradients, DeferredWeightGrad]:
    """I where the graph cannot be cut: the gradients of inputs and parameters in one run, those of
    parameters left for W to add."""
    starts = edges_of(roots)
    return _in_one_run(cut_graph(starts, edges_of(inputs)), starts, gradients, inputs)


def weight_gradient(deferred: DeferredWeightGrad) -> None:
    """W: adds to the parameters' `.grad` what a B would have added and the I that left `deferred`
    did not. Hooks of the parameters run here, as they would in B."""
    known: list[EdgeGradient] = []
    for cut in _used_up(deferred.cuts):
        if isinstance(cut, EdgeGradient):
            known.append(cut)
        else:
            known += _outside_engine(cut) if cut.shared else _towards_parameters(cut)
    if known:
        edges, gradients = zip(*known, strict=True)
        known.clear()
        torch.autograd.backward(edges, gradients)


def edges_of(places: Sequence[Root]) -> list[GradientEdge]:
    """Where they stand in the graph."""
    return [place if isinstance(place, GradientEdge) else edge_of(place) for place in places]


def _in_one_run(
    graph: GraphCut,
    starts: Sequence[GradientEdge],
    gradients: Gradients,
    inputs: Sequence[Tensor],
) -> tuple[Gradients, DeferredWeightGrad]:
    if adds_by_itself(graph):
        return whole(starts, gradients, inputs), DeferredWeightGrad([], [])
    ends = edges_of(inputs)
    edges = [GradientEdge(leaf, 0) for leaf in graph.leaves]
    with _hooks_put_off(graph.leaves):
        found = _gradients(starts, gradients, [*ends, *edges], keep=False)
    of_leaves = zip(edges, found[len(ends) :], strict=True)
    left = [EdgeGradient(edge, gradient) for edge, gradient in of_leaves if gradient is not None]
    return found[: len(ends)], DeferredWeightGrad(list(left), [])


@contextmanager
def _hooks_put_off(leaves: Iterable[Node]) -> Iterator[None]:
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


def _used_up(items: list[Any]) -> Iterator[Any]:
    """The items in order, each removed from the list, so that it can be released after use."""
    items.reverse()
    while items:
        yield items.pop()


def _gradients(
    starts: Sequence[GradientEdge],
    gradients: Sequence[Tensor | None],
    ends: Sequence[GradientEdge],
    keep: bool,
) -> Gradients:
    """The gradients at `ends`; the engine computes none that leads elsewhere."""
    if not starts or not ends:
        return (None,) * len(ends)
    return torch.autograd.grad(
        tuple(starts), tuple(ends), tuple(gradients), retain_graph=keep, allow_unused=True
    )


def _note(node: Node, graph: GraphCut, cuts: list[CutNode | EdgeGradient]) -> Any:
    """Hooks a cut node, so that what W needs of it is added to `cuts` when I comes by. A custom
    function computes the gradients of its parameters whenever it runs, asked for or not; these are
    kept."""
    edges = graph.cut_nodes[node]
    if isinstance(node, BackwardCFunction):

        def results(found: Gradients, _: Gradients) -> None:
            cuts.extend(EdgeGradient(edge, g) for at, edge in edges if (g := found[at]) is not None)

        return node.register_hook(results)
    shared = any(graph.incoming[edge.node] > 1 for _, edge in edges)

    def arrivals(gradients: Gradients) -> None:
        cuts.append(CutNode(node, gradients, tuple(edges), shared))

    return node.register_prehook(arrivals)


def _towards_parameters(cut: CutNode) -> list[EdgeGradient]:
    """Runs the cut node for its edges to parameters only. Hooks on the node's outputs have run in I
    and changed what arrived; here they run again, so the last one restores what they left then."""
    node, arrived, edges, _ = cut
    given = [(GradientEdge(node, i), g) for i, g in enumerate(arrived) if g is not None]
    if not given:
        return []
    starts, gradients = zip(*given, strict=True)
    hook = node.register_prehook(lambda _: arrived)
    try:
        with _hooks_put_off(edge.node for _, edge in edges):
            found = _gradients(starts, gradients, [edge for _, edge in edges], keep=False)
    finally:
        hook.remove()
    return [EdgeGradient(e, g) for (_, e), g in zip(edges, found, strict=True) if g is not None]


def _outside_engine(cut: CutNode) -> list[EdgeGradient]:
    """Runs the cut node outside the engine, for all its edges: the engine would run the trunk below
    it once more and count twice what that adds to the shared parameter. What the engine does to
    every gradient, summing over broadcast dimensions, is done here."""
    with torch.no_grad():
        found: Any = cut.node(*cut.arrived)  # type: ignore[operator]
        found = found if isinstance(found, tuple) else (found,)
        return [
            EdgeGradient(edge, found[place].sum_to_size(_shape(edge)))
            for place, edge in cut.edges
            if found[place] is not None
        ]


def _shape(edge: GradientEdge) -> Any:
    return edge.node._input_metadata[edge.output_nr].shape
