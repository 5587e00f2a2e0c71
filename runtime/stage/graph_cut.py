"""Where the autograd graph of a stage is cut in two. In come the edges at which a backward starts
and those of the stage's inputs, at which it ends.

The *trunk* is every node from which an input can be reached; what hangs off the trunk leads to
parameters only. A *cut node* is a node of the trunk with edges to that other side. Where no input
needs a gradient (a first stage, whose input is tokens) the trunk ends at the first operations on
data instead, an embedding or the first linear layer.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

from stretto.runtime.stage.saved_tensors import saves, uses_data

NextFunctions = tuple[tuple[Node | None, int], ...]
"""A node's edges, as torch gives them: the node they lead to, and which of its outputs is meant."""

SideEdges = list[tuple[int, GradientEdge]]
"""Edges of one node that lead to parameters only, each with its place among the node's edges."""


class GraphCut(NamedTuple):
    """`nodes`: all but the leaves, each behind all that it leads to, with its number. `cut_nodes`:
    with the edges of each to parameters only. `others`: the other nodes of the trunk that have
    saved something. `fronts`: the edges at which the trunk ends where there are no inputs.
    `beside`: nodes at which the backward starts, but which lead to parameters only. `in_order`:
    every node has a higher number than those that it leads to, so that the engine runs them by
    their numbers, the highest first. `shared`: nodes, not of the trunk, to which several edges
    lead."""

    nodes: dict[Node, int]
    cut_nodes: dict[Node, SideEdges]
    others: list[Node]
    fronts: list[GradientEdge]
    beside: set[Node]
    in_order: bool
    shared: set[Node]


def cut_graph(starts: Sequence[GradientEdge], ends: Sequence[GradientEdge]) -> GraphCut:
    """Cuts what can be reached from `starts`; `ends` are the edges of leaf inputs."""
    stops = {end.node for end in ends}
    reached = set(stops)  # the trunk, and what stands behind its end
    cut_nodes: dict[Node, SideEdges] = {}
    others: list[Node] = []
    numbers: dict[Node, int] = {}
    seek_data, in_order = not ends, True
    fronts: dict[tuple[Node, int], None] = {}
    roots = [start.node for start in starts]
    used: set[Node] = set(roots)
    shared: set[Node] = set() if len(used) == len(roots) else used.copy()
    for node, edges in walk(roots):
        number = numbers[node] = node._sequence_nr()
        sides: SideEdges = []
        leads = False
        for place, (child, output) in enumerate(edges):
            if child is None:
                continue
            if numbers.get(child, -1) >= number:
                in_order = False
            if child in reached:
                leads = True
                continue
            sides.append((place, GradientEdge(child, output)))
            if child in used:
                shared.add(child)
            else:
                used.add(child)
        if leads:
            reached.add(node)
            if sides:
                cut_nodes[node] = sides
            elif saves(type(node)):
                others.append(node)
            if seek_data:
                fronts.update(((n, output), None) for n, output in edges if n and n in stops)
        elif seek_data and uses_data(node):
            stops.add(node)
            reached.add(node)
    if seek_data:
        fronts.update(((s.node, s.output_nr), None) for s in starts if s.node in stops)
    edges_of_fronts = [GradientEdge(*front) for front in fronts]
    beside = {root for root in roots if root not in reached}
    return GraphCut(numbers, cut_nodes, others, edges_of_fronts, beside, in_order, shared)


def walk(roots: Sequence[Node]) -> Iterator[tuple[Node, NextFunctions]]:
    """Every node that can be reached and is no leaf, behind all that it leads to, with its
    edges."""
    begun: dict[Node, NextFunctions | None] = {}
    todo = [root for root in roots if type(root) is not LEAF]
    while todo:
        node = todo[-1]
        if node not in begun:
            begun[node] = edges = node.next_functions
            count = len(todo)
            for child, _ in edges:
                if child is not None and type(child) is not LEAF and child not in begun:
                    todo.append(child)
            if len(todo) > count:
                continue
        todo.pop()
        if (ready := begun[node]) is not None:
            begun[node] = None
            yield node, ready


def leads_to(sides: SideEdges, nodes: set[Node]) -> bool:
    """Whether one of the nodes can be reached by the edges."""
    todo = [edge.node for _, edge in sides] if nodes else []
    while todo:
        node = todo.pop()
        if node in nodes:
            return True
        todo += [child for child, _ in node.next_functions if child is not None]
    return False


def leaves_below(starts: Sequence[GradientEdge]) -> list[Node]:
    """Where gradients accumulate that start there."""
    roots = [start.node for start in starts]
    below = [child for _, edges in walk(roots) for child, _ in edges]
    found = dict.fromkeys(node for node in (*roots, *below) if type(node) is LEAF)
    return [node for node in found if node is not None]


with torch.inference_mode(False), torch.enable_grad():
    _leaf = torch.zeros(1, 1, device="cpu", requires_grad=True)
    LEAF, TRANSPOSE = type(get_gradient_edge(_leaf).node), type(get_gradient_edge(_leaf.t()).node)
