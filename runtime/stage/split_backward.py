"""The backward of one stage and micro-batch: whole (B), or in two halves that can run apart, the
gradient of the stage's input first (I), those of its weights later (W).

What comes in is what a forward left: the *roots*, the edges of the autograd graph at which the
stage's outputs (or its loss) stand, and its *inputs*, leaf tensors. The graph is cut in two. Its
*trunk* is every node from which an input can be reached; what hangs off the trunk leads to
parameters only. `input_gradient` runs the trunk and notes, at every node where the two parts meet
(a *fork*), the gradients that arrive there; `weight_gradient` then asks each fork for the side
that it left out, and sends the answers down to the parameters in one run. Every product of
matrices is computed in exactly one of the halves, and the sums are those of the whole backward, in
its order.

Where no input needs a gradient (a first stage, whose input is tokens) the trunk ends at the first
operations on data, an embedding or the first linear layer, so that I still walks the whole chain
and leaves to W only what belongs to weights.

Three cases that cannot be cut that way are still right: a custom `autograd.Function` computes
everything in I, and what belongs to weights waits for W; a parameter that two forks use directly,
without a view of its own in between, makes W compute both sides of these forks; and a stage with
activation checkpoints does all its work in I (its forward would be repeated for each half).
"""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge
from torch.nn import Parameter

Root = Tensor | GradientEdge
Gradients = tuple[Tensor | None, ...]


class Fork(NamedTuple):
    """A node of the trunk, the gradients that arrived at its outputs, and its edges that lead to
    parameters only, each with its place among the node's edges; `shared` where one of them can be
    reached from the node by the trunk too."""

    node: Node
    arrived: Gradients
    edges: tuple[tuple[int, GradientEdge], ...]
    shared: bool


class Ready(NamedTuple):
    """A gradient that already stands at an edge into the parameters' part."""

    edge: GradientEdge
    gradient: Tensor


class Rest(NamedTuple):
    """What I leaves for W, used up by it: the places where the graph is cut, in the order in which
    I came by, and gradients that need only be added to their parameter."""

    cuts: list[Fork | Ready]
    complete: list[tuple[Parameter, Tensor]]


def whole(roots: Sequence[Root], gradients: Gradients, inputs: Sequence[Tensor]) -> Gradients:
    """B: adds to the parameters' `.grad` and returns the gradient of each input."""
    if roots:
        torch.autograd.backward(tuple(roots), gradients)  # type: ignore[arg-type]
    return collect(inputs)


def collect(inputs: Sequence[Tensor]) -> Gradients:
    """Takes the gradients away from leaf inputs on which a backward has left them."""
    found = tuple(leaf.grad for leaf in inputs)
    for leaf in inputs:
        leaf.grad = None
    return found


def input_gradient(
    roots: Sequence[Root], gradients: Gradients, inputs: Sequence[Tensor]
) -> tuple[Gradients, Rest]:
    """I: returns the gradient of each input (None where the outputs do not depend on it), and
    what `weight_gradient` needs to go on. Saved tensors that only I needed are let go."""
    starts = [root if isinstance(root, GradientEdge) else get_gradient_edge(root) for root in roots]
    ends = [get_gradient_edge(leaf) for leaf in inputs]
    graph = _cut(starts, ends)
    if any(_checkpointed(node) for node in graph.forks):
        return _all_at_once(starts, gradients, ends, graph.leaves)

    cuts: list[Fork | Ready] = [
        Ready(start, gradient)
        for start, gradient in zip(starts, gradients, strict=True)
        if start.node in graph.beside and gradient is not None
    ]
    hooks = [_note(node, edges, graph.incoming, cuts) for node, edges in graph.forks.items()]
    try:
        found = _gradients(starts, gradients, [*ends, *graph.fronts], keep=True)
    finally:
        for hook in hooks:
            hook.remove()

    for node in graph.trunk:
        if node not in graph.forks or isinstance(node, BackwardCFunction):
            _let_go(node)
    fronts = zip(graph.fronts, found[len(ends) :], strict=True)
    cuts += [Ready(edge, gradient) for edge, gradient in fronts if gradient is not None]
    return found[: len(ends)], Rest(cuts, [])


def weight_gradient(rest: Rest) -> None:
    """W: adds to the parameters' `.grad` what the I that left `rest` would have added as a B.
    Hooks of the parameters run here, as they would in B; after activation checkpoints only those
    of the tensors, not those that follow the accumulation."""
    ready: list[Ready] = []
    for cut in _taking(rest.cuts):
        if isinstance(cut, Ready):
            ready.append(cut)
        else:
            ready += _alone(cut) if cut.shared else _side(cut)
    if ready:
        edges, gradients = zip(*ready, strict=True)
        ready.clear()
        torch.autograd.backward(edges, gradients)
    for parameter, gradient in _taking(rest.complete):
        parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)


def _taking(items: list[Any]) -> Iterator[Any]:
    """The items in order, each of them forgotten by the list, so that it can be released."""
    items.reverse()
    while items:
        yield items.pop()


# The cut ----------------------------------------------------------------------------------------


class _Graph(NamedTuple):
    """`trunk`: its nodes. `forks`: those with edges into the parameters' part, and these edges.
    `fronts`: the edges at which the trunk ends where there are no inputs. `beside`: nodes of roots
    that depend on parameters only. `incoming`: how many edges lead to a node. `leaves`: where the
    parameters' gradients accumulate."""

    trunk: dict[Node, None]
    forks: dict[Node, list[tuple[int, GradientEdge]]]
    fronts: list[GradientEdge]
    beside: set[Node]
    incoming: dict[Node, int]
    leaves: list[Node]


def _cut(starts: Sequence[GradientEdge], ends: Sequence[GradientEdge]) -> _Graph:
    order, edges = _walk([start.node for start in starts])
    seek_data = not ends
    stops = {end.node for end in ends}
    trunk: dict[Node, None] = {}
    incoming: dict[Node, int] = dict.fromkeys(order, 0)
    for node in order:  # whatever a node leads to stands before it
        children = [child for child, _ in edges[node] if child is not None]
        for child in children:
            incoming[child] += 1
        if node in stops:
            continue
        if any(child in trunk or child in stops for child in children):
            trunk[node] = None
        elif seek_data and _uses_data(node):
            stops.add(node)

    forks: dict[Node, list[tuple[int, GradientEdge]]] = {}
    fronts = {(s.node, s.output_nr): None for s in starts if seek_data and s.node in stops}
    for node in trunk:
        for place, (below, number) in enumerate(edges[node]):
            if below is None or below in trunk:
                continue
            if below not in stops:
                forks.setdefault(node, []).append((place, GradientEdge(below, number)))
            elif seek_data:
                fronts[below, number] = None
    return _Graph(
        trunk=trunk,
        forks=forks,
        fronts=[GradientEdge(*front) for front in fronts],
        beside={s.node for s in starts if s.node not in trunk and s.node not in stops},
        incoming=incoming,
        leaves=[node for node in order if not edges[node] and node not in stops],
    )


Edges = tuple[tuple[Node | None, int], ...]


def _walk(roots: Sequence[Node]) -> tuple[list[Node], dict[Node, Edges]]:
    """Every node that can be reached, each behind all that it leads to, and each one's edges."""
    order: list[Node] = []
    edges: dict[Node, Edges] = {}
    todo: list[tuple[Node, bool]] = [(root, False) for root in roots]
    while todo:
        node, done = todo.pop()
        if done:
            order.append(node)
        elif node not in edges:
            edges[node] = below = node.next_functions
            todo.append((node, True))
            todo += [(child, False) for child, _ in below if child is not None]
    return order, edges


# Running parts of the graph ---------------------------------------------------------------------


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


def _note(
    node: Node,
    edges: list[tuple[int, GradientEdge]],
    incoming: dict[Node, int],
    cuts: list[Fork | Ready],
) -> Any:
    """A hook that notes what W needs of a fork when I comes by. A custom function computes the
    gradients of its parameters there and then, whoever asks, so these are kept."""
    if isinstance(node, BackwardCFunction):

        def results(found: Gradients, _: Gradients) -> None:
            cuts.extend(Ready(edge, g) for at, edge in edges if (g := found[at]) is not None)

        return node.register_hook(results)
    shared = any(incoming[edge.node] > 1 for _, edge in edges)

    def arrivals(gradients: Gradients) -> None:
        cuts.append(Fork(node, gradients, tuple(edges), shared))

    return node.register_prehook(arrivals)


def _side(fork: Fork) -> list[Ready]:
    """Runs the fork towards its parameters only. Hooks on the node's outputs have run in I and
    made what arrived; here they run again, so the last one puts back what they left then."""
    node, arrived, edges, _ = fork
    given = [(GradientEdge(node, i), g) for i, g in enumerate(arrived) if g is not None]
    if not given:
        return []
    starts, gradients = zip(*given, strict=True)
    hook = node.register_prehook(lambda _: arrived)
    try:
        found = _gradients(starts, gradients, [edge for _, edge in edges], keep=False)
    finally:
        hook.remove()
    return [Ready(e, g) for (_, e), g in zip(edges, found, strict=True) if g is not None]


def _alone(fork: Fork) -> list[Ready]:
    """Runs the fork's node outside the engine, for all its edges: the engine would run the trunk
    below it once more and count twice what that adds to the shared parameter. What the engine does
    to every gradient, summing over broadcast dimensions, is done here."""
    with torch.no_grad():
        found: Any = fork.node(*fork.arrived)  # type: ignore[operator]
        found = found if isinstance(found, tuple) else (found,)
        return [
            Ready(edge, found[place].sum_to_size(_shape(edge)))
            for place, edge in fork.edges
            if found[place] is not None
        ]


def _shape(edge: GradientEdge) -> Any:
    return edge.node._input_metadata[edge.output_nr].shape


def _all_at_once(
    starts: Sequence[GradientEdge],
    gradients: Gradients,
    ends: Sequence[GradientEdge],
    leaves: Sequence[Any],
) -> tuple[Gradients, Rest]:
    edges = [GradientEdge(leaf, 0) for leaf in leaves]
    found = _gradients(starts, gradients, [*ends, *edges], keep=False)
    of_leaves = zip(leaves, found[len(ends) :], strict=True)
    complete = [(leaf.variable, gradient) for leaf, gradient in of_leaves if gradient is not None]
    return found[: len(ends)], Rest([], complete)


# What nodes have saved --------------------------------------------------------------------------


@cache
def _names(kind: type) -> tuple[str, ...]:
    return tuple(name for name in dir(kind) if name.startswith("_raw_saved_"))


def _saved(node: Node) -> Iterator[Any]:
    for name in _names(type(node)):
        value = getattr(node, name)
        yield from value if isinstance(value, tuple) else (value,)


def _uses_data(node: Node) -> bool:
    """Whether the node has saved a tensor that is no parameter and depends on none, as the first
    operations on a batch do; views and casts of a parameter save nothing."""
    if isinstance(node, BackwardCFunction):
        saved: Sequence[Any] = node.saved_tensors
    else:
        names = [name.replace("_raw_saved_", "_saved_") for name in _names(type(node))]
        saved = [value for name in names for value in _flat(getattr(node, name))]
    return any(
        isinstance(value, Tensor) and not value.requires_grad and not isinstance(value, Parameter)
        for value in saved
    )


def _flat(value: Any) -> Sequence[Any]:
    return value if isinstance(value, tuple) else (value,)


def _checkpointed(node: Node) -> bool:
    return any(
        saved is not None
        and getattr(saved.unpack_hook, "__module__", "") == "torch.utils.checkpoint"
        for saved in _saved(node)
    )


def _let_go(node: Node) -> None:
    """Drops the node's saved tensors. The graph as a whole must live until W has run; nothing
    will ask this node again."""
    for saved in _saved(node):
        if saved is None or saved.unpack_hook is not None:
            continue
        if saved.data is not None and saved.data.dim():  # numbers are not worth it
            saved.register_hooks(_nothing, _nothing)


def _nothing(_: Any) -> None:
    return None
