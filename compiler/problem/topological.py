"""One topological sort, for operations, op classes and whatever else waits for one another."""

from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heappush


def topological(
    heads: Sequence[Sequence[int]], waits: Sequence[int], key: Callable[[int], int] | None = None
) -> list[int]:
    """The nodes 0 … n-1, each after all that it has an edge from. `heads[i]` are the nodes with an
    edge from i (one of them twice for two edges), `waits[i]` is how many edges lead to i. Of nodes
    that are free to go, the one with the least `key` comes first, of equals the lowest; without
    `key` the one that has been free for longest. Nodes on a circle and those behind one are left
    out. Runs in O(nodes + edges), with `key` O((nodes + edges) log nodes)."""
    left = list(waits)
    free = [i for i, many in enumerate(left) if not many]
    if key is None:
        for i in free:  # grows while it is read
            for j in heads[i]:
                left[j] -= 1
                if not left[j]:
                    free.append(j)
        return free
    ready = [(key(i), i) for i in free]
    heapify(ready)
    listed = []
    while ready:
        _, i = heappop(ready)
        listed.append(i)
        for j in heads[i]:
            left[j] -= 1
            if not left[j]:
                heappush(ready, (key(j), j))
    return listed
