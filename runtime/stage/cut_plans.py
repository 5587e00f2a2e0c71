"""Where the graphs of a stage are cut, found out once for all that are alike. In comes the graph of
a micro-batch; out come its nodes in an order that alike graphs share, and a plan in which a node is
a place in that order. The shape of a graph is the kind of every node, and every edge with where it
leads and from which output: the plan of one fits all of its shape, and whether a graph has the
shape is looked at each time.

What is no matter of shape is looked at every time too: which leaf is an input, and whether hooks
have packed what a node has saved. Graphs that are not cut the ordinary way have no plan.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import GradientEdge, Node

from stretto.runtime.stage.engine import edge_of
from stretto.runtime.stage.graph_cut import GraphCut, cut_graph, leads_to
from stretto.runtime.stage.indivisible import is_special
from stretto.runtime.stage.saved_tensors import FACTORS, held, is_weight, saves

GraphShape = tuple[Any, ...]
"""Equal for graphs that are cut alike."""

MOST = 8  # shapes of one stage; where there are more, looking for one gains nothing

ALIKE = {
    "AddBackward0",
    "AddmmBackward0",
    "ConvolutionBackward0",
    "EmbeddingBackward0",
    "MmBackward0",
    "MulBackward0",
    "NativeBatchNormBackward0",
    "NativeLayerNormBackward0",
}
"""Nodes of operations that have always as many outputs. Others are asked for them every time, which
takes longer: what splits a tensor has now two and now three."""


class PlannedCut(NamedTuple):
    """A cut node, a name of something that it has saved and hooks could have packed, the number of
    its outputs (0: to be asked for), its edges to parameters only (place, node, output of that),
    and whether they are `apart`, as in `CutNode`."""

    node: int
    saved: str | None
    outputs: int
    sides: tuple[tuple[int, int, int], ...]
    apart: bool


class CutPlan(NamedTuple):
    """`ends`: the leaves of the inputs. `cuts`: in the order in which
    the engine comes by. `products`: those among them that may have saved what is not needed.
    `others`: further nodes of the trunk with the names of what they have saved; `asked`: further
    nodes that hooks could have packed, with such a name. `fronts`: the edges at which the trunk
    ends. `numbers`: those of the `inner` nodes, all but the leaves, from the first on, where the
    order of the cuts counts."""

    ends: tuple[int, ...]
    cuts: tuple[PlannedCut, ...]
    products: tuple[int, ...]
    others: tuple[tuple[int, tuple[str, ...]], ...]
    asked: tuple[tuple[int, str], ...]
    fronts: tuple[tuple[int, int], ...]
    inner: tuple[int, ...]
    numbers: tuple[int, ...] | None


class PlannedGraph(NamedTuple):
    """The nodes of a graph, and the plan that fits it."""

    nodes: list[Any]
    plan: CutPlan


class CutPlans:
    """Those of one stage."""

    __slots__ = ("known", "useful")

    def __init__(self) -> None:
        self.known: dict[GraphShape, CutPlan] = {}
        self.useful = True

    def fitting(
        self, starts: Sequence[GradientEdge], inputs: Sequence[Tensor]
    ) -> PlannedGraph | None:
        """The plan for what can be reached from `starts`, where a backward begins that ends at the
        leaves `inputs`; None where there is none. If none can be made, no more are."""
        if not self.useful:
            return None
        nodes, shape = numbered(starts)
        plan = self.known.get(shape)
        if plan is None:
            plan = planned(nodes, starts, inputs) if len(self.known) < MOST else None
            if plan is None:
                self.useful = False
                return None
            self.known[shape] = plan
        return PlannedGraph(nodes, plan) if _fits(plan, nodes, inputs) else None


def _fits(plan: CutPlan, nodes: list[Any], inputs: Sequence[Tensor]) -> bool:
    """Whether a graph of the plan's shape is cut by it: what is no matter of shape."""
    if len(inputs) != len(plan.ends):
        return False
    for end, leaf in zip(plan.ends, inputs, strict=True):
        if nodes[end].variable is not leaf:
            return False
    for place, name, *_ in plan.cuts:
        if name is not None and getattr(nodes[place], name).unpack_hook is not None:
            return False
    for place, name in plan.asked:
        if getattr(nodes[place], name).unpack_hook is not None:
            return False
    return plan.numbers is None or plan.numbers == _numbers(nodes, plan.inner)


def numbered(starts: Sequence[GradientEdge]) -> tuple[list[Node], GraphShape]:
    """All nodes that can be reached, and the shape of the graph."""
    nodes: list[Node] = []
    places: dict[Node | None, int] = {None: -1}
    for start in starts:
        if places.setdefault(start.node, len(nodes)) == len(nodes):
            nodes.append(start.node)
    edges: list[int] = []
    add, place_of, count = edges.append, places.setdefault, len(nodes)
    for node in nodes:  # grows meanwhile
        for child, output in node.next_functions:
            place = place_of(child, count)
            if place == count:
                nodes.append(child)  # type: ignore[arg-type]
                count += 1
            add(place)
            if output:
                add(-2 - output)
        add(-2)
    begin = [(places[start.node], start.output_nr) for start in starts]
    return nodes, (tuple(map(type, nodes)), tuple(edges), tuple(begin))


def planned(
    nodes: list[Node], starts: Sequence[GradientEdge], inputs: Sequence[Tensor]
) -> CutPlan | None:
    """The plan for graphs of this shape; None for what is not cut the ordinary way."""
    ends = [edge_of(leaf) for leaf in inputs]
    graph = cut_graph(starts, ends)
    places = {node: place for place, node in enumerate(nodes)}
    if (
        not graph.in_order
        or any(end.node not in places for end in ends)
        or graph.beside
        or is_special(graph.nodes)
        or any(isinstance(node, BackwardCFunction) for node in graph.cut_nodes)
    ):
        return None
    asked = [] if ends else [n for n in nodes if saves(type(n)) and n not in graph.cut_nodes]
    saved = {node: held(node) for node in (*graph.cut_nodes, *asked, *graph.others)}
    if None in saved.values():
        return None
    names = {node: [name for name, _ in found or ()] for node, found in saved.items()}
    large = {node: [name for name, t in found or () if t.dim()] for node, found in saved.items()}
    cuts = tuple(_cuts(graph, places, names))
    inner = tuple([place for place, node in enumerate(nodes) if node in graph.nodes])
    return CutPlan(
        tuple([places[end.node] for end in ends]),
        cuts,
        tuple([at for at, cut in enumerate(cuts) if _may_hold_more(nodes, cut)]),
        tuple([(places[node], tuple(large[node])) for node in graph.others if large[node]]),
        tuple([(places[node], names[node][0]) for node in asked if names[node]]),
        tuple([(places[edge.node], edge.output_nr) for edge in graph.fronts]),
        inner,
        None if all(cut.apart for cut in cuts) else _numbers(nodes, inner),
    )


def _cuts(
    graph: GraphCut, places: dict[Node, int], names: dict[Node, list[str]]
) -> Iterator[PlannedCut]:
    for node in sorted(graph.cut_nodes, key=graph.nodes.__getitem__, reverse=True):
        sides = graph.cut_nodes[node]
        yield PlannedCut(
            places[node],
            names[node][0] if names[node] else None,
            len(node._input_metadata) if type(node).__name__ in ALIKE else 0,
            tuple([(place, places[edge.node], edge.output_nr) for place, edge in sides]),
            not leads_to(sides, graph.shared),
        )


def _may_hold_more(nodes: list[Node], cut: PlannedCut) -> bool:
    return type(nodes[cut.node]).__name__ in FACTORS and not is_weight(nodes[cut.sides[-1][1]])


def _numbers(nodes: list[Node], inner: Sequence[int]) -> tuple[int, ...]:
    numbers = [nodes[place]._sequence_nr() for place in inner]
    return tuple([number - numbers[0] for number in numbers])
