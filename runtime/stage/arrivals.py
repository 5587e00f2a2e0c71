"""I: the run of the trunk, and the gradients that arrive at the places where it is cut. In come a
graph that was cut and the gradients at which the run starts; out come the gradients at its ends,
and in the order in which the run comes by what W goes on with.

Hooks behind the cut nodes see what arrives (`_by_hooks`). They come after those of the user's, so
that what these change is noted; and whoever puts hooks behind a node can be shown those that are
there. Where nobody can have put hooks into the graph, the engine is asked for the gradients at the
cut nodes too (`_asked_for`), which takes half the time. It gives what arrives before hooks run, and
does not tell on which stream of a device.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import GradientEdge, Node

from stretto.runtime.stage import node_calls
from stretto.runtime.stage.cut_nodes import CutNode, CutPlace, EdgeGradient, current_stream
from stretto.runtime.stage.cut_plans import PlannedGraph
from stretto.runtime.stage.engine import MADE, Gradients, gradients_at
from stretto.runtime.stage.graph_cut import GraphCut, SideEdges, leads_to
from stretto.runtime.stage.hooks import none_since
from stretto.runtime.stage.saved_tensors import drop_factors, drop_named

HookPlace = tuple[dict[int, Any], int]
"""The hooks of a node, and the key of one of them."""


def run_trunk(
    graph: GraphCut,
    starts: Sequence[GradientEdge],
    gradients: Sequence[Tensor | None],
    ends: Sequence[GradientEdge],
    hooks_before: int | None,
) -> tuple[Gradients, list[CutPlace]]:
    """The gradients at `ends`, None where nothing arrives, and the cuts. `hooks_before` is what
    `hooks_made` gave before the forward. Raises what the engine raises."""
    if none_since(hooks_before) and graph.in_order and not any(map(_is_custom, graph.cut_nodes)):
        return _asked_for(graph, starts, gradients, ends)
    cuts: list[CutPlace] = []
    with _by_hooks(graph, cuts):
        return gradients_at(starts, gradients, ends, keep=True), cuts


def _asked_for(
    graph: GraphCut,
    starts: Sequence[GradientEdge],
    gradients: Sequence[Tensor | None],
    ends: Sequence[GradientEdge],
) -> tuple[Gradients, list[CutPlace]]:
    """In the engine's order, which is that of the nodes' numbers: the highest comes first."""
    spans = []
    wanted = list(ends)
    for node in sorted(graph.cut_nodes, key=graph.nodes.__getitem__, reverse=True):
        begin, count = len(wanted), len(node._input_metadata)
        wanted += [GradientEdge(node, place) for place in range(count)]
        spans.append((node, begin, begin + count))
    found = gradients_at(starts, gradients, wanted, keep=True)
    cuts: list[CutPlace] = []
    for node, begin, end in spans:
        sides = graph.cut_nodes[node]
        apart = not leads_to(sides, graph.shared)
        cuts.append(CutNode(node, found[begin:end], sides, apart))
    return found[: len(ends)], cuts


def run_planned(
    graph: PlannedGraph,
    starts: Sequence[GradientEdge],
    gradients: Sequence[Tensor | None],
    inputs: Sequence[Tensor],
) -> tuple[Gradients, list[CutPlace]]:
    """As `run_trunk` where nobody can have put hooks into the graph. What the trunk has saved for
    nothing but I is dropped."""
    nodes, plan = graph
    fronts = [MADE(GradientEdge, (nodes[place], output, None)) for place, output in plan.fronts]
    wanted: list[Any] = [*inputs, *fronts]
    for place, _, outputs, _, _ in plan.cuts:
        node = nodes[place]
        wanted.append(MADE(GradientEdge, (node, 0, None)))
        if outputs != 1:
            count = outputs or len(node._input_metadata)
            wanted += [MADE(GradientEdge, (node, output, None)) for output in range(1, count)]
    found = gradients_at(starts, gradients, wanted, keep=True)
    for place, names in plan.others:
        drop_named(nodes[place], names)
    cuts: list[CutPlace] = []
    begin = len(inputs) + len(fronts)
    for place, _, outputs, planned, apart in plan.cuts:
        node = nodes[place]
        end = begin + (outputs or len(node._input_metadata))
        sides = [(at, MADE(GradientEdge, (nodes[child], nr, None))) for at, child, nr in planned]
        cuts.append(MADE(CutNode, (node, found[begin:end], sides, apart, False, None)))
        begin = end
    if node_calls.NODES_CAN_BE_CALLED:
        for at in plan.products:
            drop_factors(cuts[at].node, cuts[at].edges)  # type: ignore[union-attr]
    for edge, gradient in zip(fronts, found[len(inputs) :], strict=False):
        if gradient is not None:
            cuts.append(EdgeGradient(edge, gradient))
    return found[: len(inputs)], cuts


def _is_custom(node: Node) -> bool:
    return isinstance(node, BackwardCFunction)


@contextmanager
def _by_hooks(graph: GraphCut, cuts: list[CutPlace]) -> Iterator[None]:
    """Around a run: what W needs of each cut node is added to `cuts` when the run comes by."""
    notes = []
    for node, sides in graph.cut_nodes.items():
        if _is_custom(node):
            notes.append(_results(node, sides, cuts))
        else:
            notes.append(_arrivals(node, sides, not leads_to(sides, graph.shared), cuts))
    try:
        yield
    finally:
        for hooks, key in notes:
            del hooks[key]


def _arrivals(node: Node, sides: SideEdges, apart: bool, cuts: list[CutPlace]) -> HookPlace:
    """Notes what arrives at a cut node, and whether it has other hooks."""

    def note(_: Gradients, arrived: Gradients) -> None:
        cuts.append(CutNode(node, arrived, sides, apart, hooked, current_stream(arrived)))

    handle: Any = node.register_hook(note)
    hooks: dict[int, Any] = handle.hooks_dict_ref()
    hooked = len(hooks) > 1
    return hooks, handle.id


def _results(node: Node, sides: SideEdges, cuts: list[CutPlace]) -> HookPlace:
    """Notes what a custom function gives: it computes the gradients of its parameters whenever it
    runs, asked for or not."""

    def note(found: Gradients, _: Gradients) -> None:
        cuts.extend(EdgeGradient(edge, g) for at, edge in sides if (g := found[at]) is not None)

    handle: Any = node.register_hook(note)
    return handle.hooks_dict_ref(), handle.id
