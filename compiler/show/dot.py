"""`show --format dot`: the dependencies of the operations for Graphviz, a cluster per rank.

Where ranks have several streams, a cluster for each of them stands in it. Solid edges carry data,
grey ones are the order on a rank, dotted ones the author's rules. For `dot -Tsvg`; beyond a few
hundred operations nobody reads such a picture.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from stretto.compiler.diagnostics.printable import printable
from stretto.compiler.problem.expand import expand
from stretto.compiler.problem.problem import EdgeKind
from stretto.compiler.problem.spec import NONE, Operation, Unit, show
from stretto.compiler.program.timeline import Timed
from stretto.compiler.show.palette import colour
from stretto.compiler.show.view import View

if TYPE_CHECKING:
    import networkx as nx

EDGES = {
    EdgeKind.ACTIVATION: "",
    EdgeKind.GRADIENT: "",
    EdgeKind.LOCAL: "style=dashed",
    EdgeKind.SLICE: "style=dashed",
    EdgeKind.RULE: "style=dotted label=rule",
    EdgeKind.ORDER: 'color="#9aa4b2" constraint=false',
    EdgeKind.PAIR: 'color="#9aa4b2" constraint=false',
}


def draw(view: View) -> str:
    """The graph as a `.dot` file."""
    graph = dependencies(view)
    lines = [
        f"digraph {quoted(view.spec.name)} {{",
        '  rankdir=LR; node [shape=box style=filled fontname="sans-serif"]; edge [arrowsize=0.6];',
    ]
    for rank in range(view.spec.ranks):
        lines += cluster(view, graph, rank)
    edges: Any = graph.edges(data="why")
    lines += [f"  n{tail} -> n{head} [{EDGES[why]}];" for tail, head, why in sorted(edges)]
    return "\n".join([*lines, "}", ""])


def dependencies(view: View) -> "nx.DiGraph[int]":
    """The DAG of what the Program runs, in the order in which it runs it. The order is read off
    the Program, since a plan file holds no other."""
    written = tuple(tuple(units(lane)) for lane in view.lanes)
    problem = expand(replace(view.spec, written=written))
    graph = problem.graph()
    edges = zip(problem.tail, problem.head, problem.why, strict=True)
    for tail, head, why in sorted(edges, key=lambda edge: -edge[2]):
        graph.edges[tail, head]["why"] = why  # where there are several, data counts most
    run = {bar.operation for lane in view.lanes for bar in lane}
    named: Any = graph.nodes(data="operation")
    graph.remove_nodes_from([n for n, operation in named if operation not in run])
    return graph


def units(lane: tuple[Timed, ...]) -> Iterator[Unit]:
    """The lane's bars, the two halves of a pair together."""
    waiting: tuple[Operation, ...] = ()
    for bar in lane:
        if bar.unit != NONE and not waiting:
            waiting = (bar.operation,)
        else:
            yield Unit((*waiting, bar.operation), max(bar.at, 0))
            waiting = ()


def cluster(view: View, graph: Any, rank: int) -> Iterator[str]:
    """The operations of one rank, as a cluster."""
    yield f'  subgraph cluster_{rank} {{ label="rank {rank}"; color="#9aa4b2";'
    streams: dict[int, list[str]] = {}
    on = {bar.operation: bar.stream for bar in view.lanes[rank]}
    for node, data in graph.nodes(data=True):
        if data["rank"] == rank:
            operation = data["operation"]
            paint = colour(operation.kind, operation.pipeline)
            streams.setdefault(on[operation], []).append(
                f"    n{node} [label={quoted(show(view.spec, operation))} "
                f'fillcolor="{paint}" fontcolor="{paint.ink}"];'
            )
    for stream, nodes in sorted(streams.items()):
        if view.spec.streams:
            name = quoted(view.spec.streams[stream])
            yield f'    subgraph cluster_{rank}_{stream} {{ label={name}; color="#d0d7de";'
        yield from nodes
        if view.spec.streams:
            yield "    }"
    yield "  }"


def quoted(text: str) -> str:
    """A text between quotes, as Graphviz reads it."""
    escaped = printable(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
