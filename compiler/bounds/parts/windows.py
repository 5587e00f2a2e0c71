"""B11: why a memory limit idles a stream at both ends of the step.

On rank r let t1 be the least head of any part of a backward (I or B), and t2 the least tail of any
part of a forward, of pipelines that are trained. h and q are the least head and tail of the parts
on stream c of r, `work` is all that c has to do.

Before t1 only forwards run on c, of micro-batches whose memory was taken and not freed: at most A.
In the last t2 of the step only I, B and W of what is then held can run on c: at most B.

    end >= t1 + work − A,    end >= t2 + work − B,    and, if work > A + B,
    end >= t1 + t2 + work − A − B

Proof. Memory of a trained pipeline is freed by ends of I, W or B, so none before t1; a forward part
that has run by then belongs to a micro-batch of a stage that holds its activation, and of these at
most L grains' worth fit. No forward part ends in the last t2, so whatever backward part starts in
it belongs to a micro-batch of a stage whose forward is over and whose activation is not freed: all
of it before the last part of its I, what is kept of it after. With x of the first and y of the
second, a · x + a' · y <= L. The rest is the proof of B4. ∎

A is at most t1 − h, B at most t2 − q. Memory of single parts, on top of the stage's, is left out:
with it there could only be less. What is not trained may run in both windows.
"""

from collections.abc import Sequence

from stretto.compiler.bounds.parts.graph import PartsFinding, PartsGraph
from stretto.compiler.bounds.window import MemoryItem, most
from stretto.compiler.problem.figures import time_figure
from stretto.compiler.problem.spec import Stage


def window_bound(
    graph: PartsGraph, lane: tuple[int, int], head: Sequence[int], tail: Sequence[int]
) -> PartsFinding:
    """The largest of the three bounds for one stream of one rank; 0 where the rank trains
    nothing."""
    problem, (rank, stream) = graph.problem, lane
    spec, operations = problem.spec, problem.operations
    own = graph.lanes[lane]
    trained = [
        i
        for (r, _), row in graph.lanes.items()
        for i in row
        if r == rank and not spec.pipelines[operations[i].pipeline].forward_only
    ]
    backwards = [i for i in trained if operations[i].kind in "IB"]
    if not backwards:
        return PartsFinding(0, "")
    first = min(head[i] for i in backwards)
    last = min(tail[i] for i in trained if operations[i].kind == "F")
    work = sum(graph.ticks[i] for i in own)
    free = sum(graph.ticks[i] for i in own if spec.pipelines[operations[i].pipeline].forward_only)
    limit = spec.limits[rank] if spec.limits else None
    room = limit.grains if limit else None
    before = free + most(_starts(graph, lane), room)
    after = free + most(_ends(graph, lane), room)
    before = min(before, first - min(head[i] for i in own))
    after = min(after, last - min(tail[i] for i in own))
    choices = [(first + work - before, True, False), (last + work - after, False, True)]
    if work > before + after:
        choices.append((first + last + work - before - after, True, True))
    value, early, late = max(choices)
    figures = [time_figure(spec, ticks) for ticks in (before, first, after, last)]
    words = []
    if early:
        words.append(f"{figures[0]} in the {figures[1]} before a backward can start")
    if late:
        words.append(f"{figures[2]} in the {figures[3]} after its last forward")
    return PartsFinding(
        value,
        f"rank {rank}, stream {spec.streams[stream]}: of its work of {time_figure(spec, work)} "
        f"it can do only {' and '.join(words)}",
    )


def _trained(graph: PartsGraph, lane: tuple[int, int]) -> list[tuple[int, int, Stage, int]]:
    """Pipeline, number, and value of the trained stages of the rank, and how many micro-batches."""
    return [
        (p, s, stage, line.microbatches)
        for p, line in enumerate(graph.problem.spec.pipelines)
        for s, stage in enumerate(line.stages)
        if stage.rank == lane[0] and not line.forward_only
    ]


def _work(graph: PartsGraph, lane: tuple[int, int]) -> dict[tuple[int, int, str], int]:
    """The most ticks of one micro-batch of a stage on this stream, by pipeline, stage and kind."""
    each: dict[tuple[int, int, int, str], int] = {}
    for i in graph.lanes[lane]:
        o = graph.problem.operations[i]
        key = o.pipeline, o.stage, o.microbatch, o.kind
        each[key] = each.get(key, 0) + graph.ticks[i]
    found: dict[tuple[int, int, str], int] = {}
    for (p, s, _, kind), ticks in each.items():
        found[p, s, kind] = max(ticks, found.get((p, s, kind), 0))
    return found


def _starts(graph: PartsGraph, lane: tuple[int, int]) -> list[MemoryItem]:
    """Forwards as items: the grains that each takes, its ticks on this stream, how many."""
    work = _work(graph, lane)
    return [
        (stage.activation, work.get((p, s, "F"), 0), many)
        for p, s, stage, many in _trained(graph, lane)
    ]


def _ends(graph: PartsGraph, lane: tuple[int, int]) -> list[MemoryItem]:
    """What is held as items: whole activations with all that is left to do of them on this stream,
    and what is kept after I, with W."""
    work = _work(graph, lane)
    found = []
    for p, s, stage, many in _trained(graph, lane):
        weights = work.get((p, s, "W"), 0)
        back = max(work.get((p, s, "I"), 0), work.get((p, s, "B"), 0))
        found.append((stage.activation, back + weights, many))
        found.append((stage.kept, weights, many))
    return found
