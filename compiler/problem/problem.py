"""`Problem`: the Spec expanded into operations and edges, a DAG over the integers 0 … n-1.

Operation i is `operations[i]`; its figures stand at place i of the other lists. Edge k says that
`head[k]` starts no earlier than `lag[k]` ticks after the end of `tail[k]`. Where orders were
written, each operation has edges from the unit before it, and two operations that overlap as one
unit share all their edges, so that they can start together (the copies are `EdgeKind.PAIR`). No
order can change the edges that are neither `EdgeKind.ORDER` nor `EdgeKind.PAIR`.

Hot loops read the lists. Everything else goes through `graph()`.
"""

from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from stretto.compiler.problem.spec import Operation, Spec
from stretto.compiler.problem.topological import topological

if TYPE_CHECKING:
    import networkx as nx


class EdgeKind(IntEnum):
    """The reason of an edge; the words of an explanation are chosen by it."""

    ACTIVATION = 0  # the output of a forward is the next stage's input
    GRADIENT = 1  # the input gradient of a stage is the output gradient of the one before
    LOCAL = 2  # a backward needs its own forward, a weight gradient its own input gradient
    SLICE = 3  # the slices of a micro-batch go in order, forwards up, backwards down
    RULE = 4  # the author's `rule`
    ORDER = 5  # the author's order on one rank
    PAIR = 6  # an edge of the operation that this one was written to overlap with

    __hash__ = int.__hash__  # an enum's own is a call of Python for each edge that is looked up


class Holding(NamedTuple):
    """Memory of a rank, in grains: taken when the operation `taken_by` starts, free when the last
    of `freed_by` has ended. All are operations of this rank."""

    grains: int
    taken_by: int
    freed_by: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """See the module. `duration` in ticks and alone (a pair's joint duration is `Costs.pair`);
    `alloc` and `free` in grains: memory taken when the operation starts, given back when it ends;
    where stages are cut into parts both are empty, since the last to end of several gives memory
    back, and `holdings` says it all. `stream` is an index into `spec.streams`, 0 compute;
    `overlaps_with[i]` is the operation that the author wrote i to overlap with, or -1; `at[i]` the
    index in `spec.spans` of the text that asks for operation i. `written` has the units of
    `spec.written` by the numbers of their operations, where `expand` made the Problem."""

    spec: Spec
    operations: list[Operation]
    rank: list[int]
    stream: list[int]
    duration: list[int]
    alloc: list[int]
    free: list[int]
    overlaps_with: list[int]
    at: list[int]
    tail: list[int]
    head: list[int]
    lag: list[int]
    why: list[EdgeKind]
    holdings: list[Holding] = field(default_factory=list)
    written: list[list[tuple[int, ...]]] = field(default_factory=list)

    def graph(self) -> "nx.DiGraph[int]":
        """The same DAG as a `networkx.DiGraph`: nodes are the integers above with the attributes
        `operation`, `rank` and `duration`; edges carry `lag` and `why`."""
        import networkx as nx

        graph: nx.DiGraph[int] = nx.DiGraph()
        graph.add_nodes_from(
            (i, {"operation": operation, "rank": self.rank[i], "duration": self.duration[i]})
            for i, operation in enumerate(self.operations)
        )
        edges: Any = zip(self.tail, self.head, self.lag, self.why, strict=True)
        graph.add_edges_from((a, b, {"lag": lag, "why": why}) for a, b, lag, why in edges)
        return graph

    def topological(self) -> list[int]:
        """The operations, each after all that it has an edge from. Of operations that stand in a
        circle, and of those behind them, none is listed."""
        after: list[list[int]] = [[] for _ in self.operations]
        waits = [0] * len(self.operations)
        for a, b in zip(self.tail, self.head, strict=True):
            after[a].append(b)
            waits[b] += 1
        return topological(after, waits)
