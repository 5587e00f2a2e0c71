"""Where the autograd graph of a stage is cut in two. In come the edges at which a backward starts
and those of the stage's inputs, at which it ends.

The *trunk* is every node from which an input can be reached; what hangs off the trunk leads to
parameters only. A *cut node* is a node of the trunk with edges to that other side. Where no input
needs a gradient (a first stage, whose input is tokens) the trunk ends at the first operations on
data instead, an embedding or the first linear layer.
"""

from collections.abc import Sequence
from typing import NamedTuple

from torch.autograd.graph import GradientEdge, Node

from stretto.runtime.stage.saved_tensors import uses_data

NextFunctions = tuple[tuple[Node | None, int], ...]
"""A node's edges, as torch gives them: the node they lead to, and which of its outputs is meant."""


class GraphCut(NamedTuple):
    """`trunk`: its nodes. `cut_nodes`: by node, its edges to parameters only, each with its place
    among the node's edges. `fronts`: the edges at which the trunk ends where there are no inputs.
    `beside`: nodes at which the backward starts, but which lead to parameters only. `incoming`: how
    many edges lead to a node. `leaves`: where the parameters' gradients accumulate."""

    trunk: dict[Node, None]
    cut_nodes: dict[Node, list[tuple[int, GradientEdge]]]
    fronts: list[GradientEdge]
    beside: set[Node]
    incoming: dict[Node, int]
    leaves: list[Node]


def cut_graph(starts: Sequence[GradientEdge], ends: Sequence[GradientEdge]) -> GraphCut:
    """Cuts what can be reached from `starts`; `ends` are the edges of leaf inputs."""
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
        elif seek_data and uses_data(node):
            stops.add(node)

    cut_nodes: dict[Node, list[tuple[int, GradientEdge]]] = {}
    fronts = {(s.node, s.output_nr): None for s in starts if seek_data and s.node in stops}
    for node in trunk:
        for place, (below, number) in enumerate(edges[node]):
            if below is None or below in trunk:
                continue
            if below not in stops:
                cut_nodes.setdefault(node, []).append((place, GradientEdge(below, number)))
            elif seek_data:
                fronts[below, number] = None
    return GraphCut(
        trunk=trunk,
        cut_nodes=cut_nodes,
        fronts=[GradientEdge(*front) for front in fronts],
        beside={s.node for s in starts if s.node not in trunk and s.node not in stops},
        incoming=incoming,
        leaves=[node for node in order if not edges[node] and node not in stops],
    )


def _walk(roots: Sequence[Node]) -> tuple[list[Node], dict[Node, NextFunctions]]:
    """Every node that can be reached, each behind all that it leads to, and each one's edges."""
    order: list[Node] = []
    edges: dict[Node, NextFunctions] = {}
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
