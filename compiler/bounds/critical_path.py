"""The longest chain of edges is a bound of the makespan: what is on it runs one after another."""

from stretto.compiler.bounds.context import Finding, Subject
from stretto.compiler.bounds.longest_paths import heads, tails
from stretto.compiler.bounds.relaxation import OpKey
from stretto.compiler.problem.spec import Operation, show


def find(subject: Subject) -> Finding:
    """The longest head + ticks + tail of any operation."""
    head, path, tail = subject.head, subject.context.graph.path, subject.tail
    longest = max(
        max([h + ticks + t for h, ticks, t in zip(*rows, strict=True)])
        for rows in zip(head, path, tail, strict=True)
        if rows[0]
    )
    return Finding(longest, subject, reason)


def reason(subject: Subject) -> str:
    """The ends of the longest chain of the graph."""
    graph = subject.context.graph
    head, tail, path = heads(graph), tails(graph), graph.path
    whole = {(c, i): head[c][i] + path[c][i] + tail[c][i] for c, i in graph.order}
    value = max(whole.values())
    on = [place for place, ticks in whole.items() if ticks == value]
    first = min(on, key=lambda place: head[place[0]][place[1]])
    last = min(on, key=lambda place: tail[place[0]][place[1]])
    return f"the longest chain, from {_name(subject, first)} to {_name(subject, last)}"


def _name(subject: Subject, place: OpKey) -> str:
    c, microbatch = place
    relaxed = subject.context.relaxed
    kind, pipeline, stage, slice_, _, _ = relaxed.classes[c]
    return f"`{show(relaxed.spec, Operation(kind, pipeline, stage, microbatch, slice_))}`"
