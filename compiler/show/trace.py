"""`show --format trace`: Chrome's JSON, for ui.perfetto.dev and chrome://tracing.

A process per rank with a track for its computations, one for the second halves of overlapped pairs
(slices on one track must nest, or Perfetto drops them) and one for each further stream that it
uses; an arrow per message with integer ids, the messages that take time as asynchronous slices, and
a counter of activations. One unit of the schedule's costs is shown as a millisecond; the times are
planned, not measured.
"""

from collections.abc import Iterator
from fractions import Fraction
from itertools import groupby
from typing import Any

import msgspec

from stretto.compiler.diagnostics.printable import unseen_escaped
from stretto.compiler.problem.kinds import KINDS
from stretto.compiler.problem.spec import NONE, show
from stretto.compiler.program.timeline import Timed
from stretto.compiler.show.view import ShownMessage, View

Event = dict[str, Any]
COMPUTE, OVERLAPPED, REDUCES, UNSHARDS = 1, 2, 3, 4  # tracks of a rank; behind them its streams


def draw(view: View) -> str:
    """One JSON object, an event per line."""
    events = [event for rank in range(view.spec.ranks) for event in of_rank(view, rank)]
    for number, message in enumerate(view.messages):
        events += travel(view, message, number)
    other = {
        "schedule": view.spec.name,
        "plan": view.hash,
        "clock": "planned; one unit of the schedule's costs is shown as 1 ms",
    }
    lines = ",\n".join(msgspec.json.encode(event).decode() for event in events)
    head = msgspec.json.encode(other).decode()
    whole = f'{{"displayTimeUnit":"ms","otherData":{head},"traceEvents":[\n{lines}\n]}}\n'
    return unseen_escaped(whole)


def of_rank(view: View, rank: int) -> Iterator[Event]:
    """The names, slices and counters of one rank."""
    stages = sorted(
        {
            (p, s)
            for p, pipeline in enumerate(view.spec.pipelines)
            for s, stage in enumerate(pipeline.stages)
            if stage.rank == rank
        }
    )
    names = [
        f"{view.spec.pipelines[p].name} {', '.join(str(s) for _, s in group)}"
        for p, group in groupby(stages, key=lambda stage: stage[0])
    ]
    yield named(rank, "process_name", f"rank {rank} · stages {'; '.join(names)}")
    yield named(rank, "thread_name", "compute", COMPUTE)
    if any(bar.unit != NONE for bar in view.lanes[rank]):
        yield named(rank, "thread_name", "compute, overlapped", OVERLAPPED)
    for stream in sorted({bar.stream for bar in view.lanes[rank]} - {0}):
        yield named(rank, "thread_name", view.spec.streams[stream], UNSHARDS + stream)
    for bar in view.lanes[rank]:
        yield slice_of(view, bar, rank)
    if view.timeline.collectives:
        yield from beside(view, rank)
    for tick, grains in view.memory[rank]:
        held = float(Fraction(grains, view.spec.size_unit))
        counter = {"ph": "C", "name": "activations", "pid": rank + 1, "ts": micro(view, tick)}
        yield {**counter, "args": {"held": held}}


def beside(view: View, rank: int) -> Iterator[Event]:
    """What runs beside the computations, a track for each of its kinds."""
    row = view.timeline.collectives[rank]
    for what, track in (("reduce gradients", REDUCES), ("unshard weights", UNSHARDS)):
        if any(one.what == what for one in row):
            yield named(rank, "thread_name", what, track)
    for one in row:
        yield {
            "ph": "X",
            "name": f"{one.what} {view.spec.pipelines[one.pipeline].name}[{one.stage}]",
            "cat": one.what,
            "pid": rank + 1,
            "tid": REDUCES if one.what == "reduce gradients" else UNSHARDS,
            "ts": micro(view, one.start),
            "dur": micro(view, one.end - one.start),
            "args": {},
        }


def named(rank: int, what: str, name: str, track: int = 0) -> Event:
    """The event that names a process or a track."""
    return {"ph": "M", "name": what, "pid": rank + 1, "tid": track, "args": {"name": name}}


def slice_of(view: View, bar: Timed, rank: int) -> Event:
    """The slice of one operation."""
    span = view.span(bar)
    return {
        "ph": "X",
        "name": show(view.spec, bar.operation),
        "cat": KINDS[bar.operation.kind].name,
        "pid": rank + 1,
        "tid": track(bar),
        "ts": micro(view, bar.start),
        "dur": micro(view, bar.end - bar.start),
        "args": {"line": f"{span.file}:{span.line}" if span else None},
    }


def track(bar: Timed) -> int:
    """The track of its rank on which an operation is drawn."""
    if bar.stream:
        return UNSHARDS + bar.stream
    return OVERLAPPED if bar.unit != NONE and bar.operation.kind != "F" else COMPUTE


def micro(view: View, ticks: int | Fraction) -> int | float:
    """Microseconds, of which a unit of the schedule's costs has a thousand."""
    value = Fraction(ticks) * 1000 / view.spec.time_unit
    return value.numerator if value.denominator == 1 else float(value)


def travel(view: View, message: ShownMessage, number: int) -> Iterator[Event]:
    """An arrow from within the slice that made the result to the one that uses it; and where the
    way takes time, a slice of its own on the sending rank."""
    made, used = message.made, message.used
    source, target, traffic, *_ = view.program.channels[message.channel]
    arrow = {"name": traffic, "cat": traffic, "id": number}
    if made.end > made.start and used.end > used.start:
        inside = made.end - Fraction(made.end - made.start, 100)
        here = {"pid": source + 1, "tid": track(made), "ts": micro(view, inside)}
        there = {"pid": target + 1, "tid": track(used), "ts": micro(view, used.start)}
        yield {"ph": "s", **arrow, **here}
        yield {"ph": "f", "bp": "e", **arrow, **there}
    if message.arrival > made.end:
        name = f"{traffic} to rank {target}: {show(view.spec, made.operation)}"
        on = track(made) if made.stream else COMPUTE
        way = {"name": name, "cat": traffic, "id": number, "pid": source + 1, "tid": on}
        yield {"ph": "b", **way, "ts": micro(view, made.end)}
        yield {"ph": "e", **way, "ts": micro(view, message.arrival)}
