"""B10: a stream of a rank runs one part at a time.

For every set S of parts on one stream of one rank

    end of the step >= min over S of head + sum over S of ticks + min over S of tail.

Proof. That of B1: nothing of S starts before the least head, then the stream needs at least the
sum, since it runs one after another, and the least tail follows the last of S. Another stream of
the rank takes nothing of it over: a part runs on its own. ∎

The best S is found by Jackson's preemptive schedule (`one_machine`), with the heads and tails of
B0, B2 and B3 (`graph`), raised by B12 (`rank_as_chain`).

Of a span: between the first start and the last end of a rank lie all its parts, and each chain that
leads from one of them to another, over whatever ranks. So heads are 0 there, and tails the longest
path to the end of a part of this rank.
"""

from collections.abc import Sequence

from stretto.compiler.bounds.one_machine import all_jobs, critical_set, jackson
from stretto.compiler.bounds.parts.graph import PartsFinding, PartsGraph
from stretto.compiler.problem.figures import time_figure


def stream_bound(
    graph: PartsGraph, lane: tuple[int, int], head: Sequence[int], tail: Sequence[int]
) -> PartsFinding:
    """The largest bound of one stream of one rank."""
    own = graph.lanes[lane]
    jobs = [(head[i], graph.ticks[i], tail[i]) for i in own]
    value, _ = jackson(jobs)
    spec = graph.problem.spec
    whole = all_jobs(jobs)
    group = whole if whole.value == value else critical_set(jobs)
    of = (
        "all its parts" if len(group.jobs) == len(own) else f"{len(group.jobs)} of {len(own)} parts"
    )
    work, first, last = (
        time_figure(spec, ticks) for ticks in (group.ticks, group.head, group.tail)
    )
    return PartsFinding(
        value,
        f"rank {lane[0]}, stream {spec.streams[lane[1]]}: {work} of work ({of}) "
        f"after a head of {first} and before a tail of {last}",
    )
