"""The backward of one stage and micro-batch: whole (B), or in two halves that can run apart, the
gradient of the stage's input first (I), those of its weights later (W).

What comes in is what a forward left: the *roots*, the edges of the autograd graph at which the
stage's outputs (or its loss) stand, and its *inputs*, leaf tensors. The graph is cut in two
(`graph_cut`). `input_gradient` runs the trunk and notes, at every cut node, the gradients that
arrive there; `weight_gradient` then runs each cut node for the edges that were left out
(`cut_nodes`), and backpropagates the answers to the parameters in one run. Every product of
matrices is computed in exactly one of the halves, and the sums are those of the whole backward, in
its order.

Where no input needs a gradient, I still walks the whole chain to the first operation on data and
leaves to W only what belongs to weights.

Cases that cannot be cut that way are still right. A custom `autograd.Function` computes everything
in I, and what belongs to weights waits for W. A stage with activation checkpoints, hooks on saved
tensors, or compiled regions that overwrite what they saved, does all its work in I (`indivisible`);
with reentrant checkpoints I is a B, and W has nothing to do.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import GradientEdge

from stretto.runtime.stage import node_calls
from stretto.runtime.stage.arrivals import run_planned, run_trunk
from stretto.runtime.stage.cut_nodes import (
    CutNode,
    CutPlace,
    EdgeGradient,
    KnownGradients,
    hooks_put_off,
    towards_parameters,
)
from stretto.runtime.stage.cut_plans import CutPlans
from stretto.runtime.stage.engine import Gradients, Root, accumulate, add_up, edge_of, gradients_at
from stretto.runtime.stage.graph_cut import cut_graph, leaves_below, walk
from stretto.runtime.stage.hooks import none_since
from stretto.runtime.stage.indivisible import adds_by_itself, is_indivisible
from stretto.runtime.stage.saved_tensors import drop_factors, drop_saved


class DeferredWeightGrad(NamedTuple):
    """What I leaves for W, which uses it up: the places where the graph is cut, in the order in
    which I came by, and what the module has left to be run."""

    cuts: list[CutPlace]
    functions: list[Callable[[], Any]]


NOTHING_LEFT = DeferredWeightGrad([], [])


def whole(roots: Sequence[Root], gradients: Gradients, inputs: Sequence[Tensor]) -> Gradients:
    """B: adds to the parameters' `.grad`, and returns the gradient of each input."""
    if roots:
        accumulate(roots, gradients)
    return collect(inputs)


def collect(inputs: Sequence[Tensor]) -> Gradients:
    """Takes the gradients away from leaf inputs on which a backward has left them."""
    if len(inputs) == 1:
        (leaf,) = inputs
        gradient, leaf.grad = leaf.grad, None
        return (gradient,)
    found = tuple([leaf.grad for leaf in inputs])
    for leaf in inputs:
        leaf.grad = None
    return found


def input_gradient(
    roots: Sequence[Root],
    gradients: Gradients,
    inputs: Sequence[Tensor],
    hooks_before: int | None = None,
    plans: CutPlans | None = None,
) -> tuple[Gradients, DeferredWeightGrad]:
    """I: returns the gradient of each input (None where the outputs do not depend on it), and
    what `weight_gradient` needs to go on. Saved tensors that only I needed are dropped.
    `hooks_before` is what `hooks_made` gave before the forward, if it was asked. `plans` are those
    of the stage, of which more are made as they are needed."""
    starts = edges_of(roots)
    if plans is not None and none_since(hooks_before):
        known = plans.fitting(starts, inputs)
        if known is not None:
            given, left = run_planned(known, starts, gradients, inputs)
            return given, DeferredWeightGrad(left, [])
    ends = edges_of(inputs)
    graph = cut_graph(starts, ends)
    if adds_by_itself(graph.nodes):
        return whole(starts, gradients, inputs), DeferredWeightGrad([], [])
    if is_indivisible(graph, bool(ends)):
        return _in_one_run(starts, gradients, ends)

    found, cuts = run_trunk(graph, starts, gradients, [*ends, *graph.fronts], hooks_before)
    for node in graph.others:
        drop_saved(node)
    for node, sides in graph.cut_nodes.items():
        if isinstance(node, BackwardCFunction):
            drop_saved(node)
        elif node_calls.NODES_CAN_BE_CALLED:
            drop_factors(node, sides)
    if graph.beside:
        cuts[:0] = [
            EdgeGradient(start, gradient)
            for start, gradient in zip(starts, gradients, strict=True)
            if start.node in graph.beside and gradient is not None
        ]
    fronts = zip(graph.fronts, found[len(ends) :], strict=True)
    cuts += [EdgeGradient(edge, gradient) for edge, gradient in fronts if gradient is not None]
    return found[: len(ends)], DeferredWeightGrad(cuts, [])


def all_at_once(
    roots: Sequence[Root], gradients: Gradients, inputs: Sequence[Tensor]
) -> tuple[Gradients, DeferredWeightGrad]:
    """I where the graph cannot be cut: the gradients of inputs and parameters in one run, those of
    parameters left for W to add."""
    starts, ends = edges_of(roots), edges_of(inputs)
    if adds_by_itself(node for node, _ in walk([start.node for start in starts])):
        return whole(starts, gradients, inputs), DeferredWeightGrad([], [])
    return _in_one_run(starts, gradients, ends)


def weight_gradient(deferred: DeferredWeightGrad) -> None:
    """W: adds to the parameters' `.grad` what a B would have added and the I that left `deferred`
    did not. Hooks of the parameters run here, as they would in B."""
    cuts, known = deferred.cuts, KnownGradients([], [])
    cuts.reverse()
    towards_parameters(cuts, known)
    if known.edges:
        add_up(*known)


def seeded(deferred: DeferredWeightGrad, seeds: Iterable[EdgeGradient]) -> DeferredWeightGrad:
    """With gradients that are known beside the graph, and come before its own: where they lead,
    edges of the graph may lead too."""
    first: list[CutPlace] = list(seeds)
    if not first:
        return deferred
    rest = [cut._replace(apart=False) if isinstance(cut, CutNode) else cut for cut in deferred.cuts]
    return deferred._replace(cuts=first + rest)


def edges_of(places: Sequence[Root]) -> list[GradientEdge]:
    """Where they stand in the graph."""
    if len(places) == 1:
        (place,) = places
        return [place if isinstance(place, GradientEdge) else edge_of(place)]
    return [place if isinstance(place, GradientEdge) else edge_of(place) for place in places]


def _in_one_run(
    starts: Sequence[GradientEdge], gradients: Gradients, ends: Sequence[GradientEdge]
) -> tuple[Gradients, DeferredWeightGrad]:
    inputs = {end.node for end in ends}
    leaves = [leaf for leaf in leaves_below(starts) if leaf not in inputs]
    edges = [GradientEdge(leaf, 0) for leaf in leaves]
    with hooks_put_off(leaves):
        found = gradients_at(starts, gradients, [*ends, *edges], keep=False)
    of_leaves = zip(edges, found[len(ends) :], strict=True)
    left: list[CutPlace] = [EdgeGradient(edge, g) for edge, g in of_leaves if g is not None]
    return found[: len(ends)], DeferredWeightGrad(left, [])
