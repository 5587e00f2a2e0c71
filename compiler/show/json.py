"""`show --format json`: the timeline and the instruction lists, in the shape of `docs/json.md`."""

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from stretto.compiler.analysis.idle import Idle
from stretto.compiler.diagnostics.printable import unseen_escaped
from stretto.compiler.problem.spec import NONE, Spec, show
from stretto.compiler.program.program import (
    Await,
    BeginReduction,
    BeginUnshard,
    Compute,
    Free,
    Instruction,
    Program,
    Receive,
    Reduce,
    Send,
    Wait,
)
from stretto.compiler.program.timeline import Timed
from stretto.compiler.show.pairs import pairs
from stretto.compiler.show.view import View


def draw(view: View) -> str:
    """One JSON object on one line."""
    shown = {
        "schedule": view.spec.name,
        "ranks": view.spec.ranks,
        **({"streams": list(view.spec.streams)} if view.spec.streams else {}),
        "timeline": [[entry(view, bar) for bar in lane] for lane in view.lanes],
        **({"pairs": pairs(view.spec)} if view.spec.streams else {}),
        **({"collectives": beside(view)} if view.timeline.collectives else {}),
        "idle": [[stretch(view, one) for one in rank] for rank in view.idle],
        "instructions": [
            [told(view.program, instruction) for instruction in rank] for rank in view.program.ranks
        ],
    }
    return unseen_escaped(msgspec.json.encode(shown).decode()) + "\n"


def beside(view: View) -> list[list[dict[str, Any]]]:
    """Per rank what runs beside its computations: `reduce gradients`, `unshard weights`."""
    return [
        [
            {
                "do": one.what,
                "pipeline": view.spec.pipelines[one.pipeline].name,
                "stage": one.stage,
                "start": view.time(one.start),
                "end": view.time(one.end),
            }
            for one in row
        ]
        for row in view.timeline.collectives
    ]


def entry(view: View, bar: Timed) -> dict[str, Any]:
    """A bar of the timeline as an object."""
    kind, pipeline, stage, microbatch, slice_, part = bar.operation
    span = view.span(bar)
    return {
        "op": kind,
        "pipeline": view.spec.pipelines[pipeline].name,
        "stage": given(stage),
        "microbatch": given(microbatch),
        "slice": given(slice_),
        "part": None,
        **(place_in_stage(view.spec, bar) if part != NONE else {}),
        "unit": given(bar.unit),
        "start": view.time(bar.start),
        "end": view.time(bar.end),
        "line": span.line if span else None,
    }


def place_in_stage(spec: Spec, bar: Timed) -> dict[str, Any]:
    """Which part of its stage an operation is."""
    own = spec.parts[bar.operation.pipeline][bar.operation.stage][bar.operation.part]
    return {"part": own.name, "layer": given(own.layer), "stream": spec.streams[bar.stream]}


def stretch(view: View, one: Idle) -> dict[str, Any]:
    """An idle stretch, as `explain --json` says it; of which stream, where there are several."""
    return {
        **({"stream": view.spec.streams[one.stream]} if view.spec.streams else {}),
        "start": view.time(one.start),
        "end": view.time(one.end),
        "cause": one.cause,
        "before": one.before and one.before.replace("`", ""),
        "line": one.line,
        "why": one.why,
    }


def given(index: int) -> int | None:
    """An index as JSON has it: `null` where there is none."""
    return None if index == NONE else index


def told(program: Program, instruction: Instruction) -> dict[str, Any]:
    """An instruction as an object: `do`, and what it refers to."""
    kind = type(instruction)
    return {"do": kind.__struct_config__.tag, **INSTRUCTIONS[kind](program, instruction)}


def compute(program: Program, one: Compute) -> dict[str, Any]:
    """What is run, the slots it reads and writes, its overlapped pair and its line."""
    spec = program.spec
    return {
        "op": show(spec, one.operation),
        "reads": list(one.reads),
        "writes": given(one.writes),
        "unit": given(one.unit),
        "line": None if one.at == NONE else spec.spans[one.at].line,
    }


def receive(program: Program, one: Receive) -> dict[str, Any]:
    """Whose result arrives, in which slot, on which channel."""
    operation = show(program.spec, one.result)
    return {"op": operation, "slot": one.slot, "channel": link(program, one.channel)}


def send(program: Program, one: Send) -> dict[str, Any]:
    """From which slot on which channel."""
    return {"slot": one.slot, "channel": link(program, one.channel)}


def slot(program: Program, one: Wait | Free) -> dict[str, Any]:
    """The slot that is waited for or freed."""
    return {"slot": one.slot}


def reduce(program: Program, one: Reduce) -> dict[str, Any]:
    """The copies of a stage whose gradients are summed, or the stages that a tie stands in."""
    tie = program.reductions[one.reduction].tie
    return {"copies": list(copies(program, one.reduction)), **({"tie": tie} if tie else {})}


def stage(program: Program, one: BeginReduction | BeginUnshard) -> dict[str, Any]:
    """The stage whose gradients are averaged or weights gathered."""
    return {"pipeline": program.spec.pipelines[one.pipeline].name, "stage": one.stage}


def awaited(program: Program, one: Await) -> dict[str, Any]:
    """For which operation of another stream."""
    return {"op": show(program.spec, one.operation)}


INSTRUCTIONS: dict[type, Callable[[Program, Any], dict[str, Any]]] = {
    Compute: compute,
    Receive: receive,
    Send: send,
    Wait: slot,
    Free: slot,
    Reduce: reduce,
    BeginReduction: stage,
    BeginUnshard: stage,
    Await: awaited,
}
"""What is said of each kind of instruction beside `do`, the tag it has in a plan file."""


def link(program: Program, channel: int) -> dict[str, Any]:
    """A channel: from which rank to which, and what travels on it."""
    source, target, traffic, *_ = program.channels[channel]
    return {"from": source, "to": target, "traffic": traffic}


def copies(program: Program, reduction: int) -> Iterator[dict[str, Any]]:
    """The copies of one stage that a reduction sums, or the stages of a tie."""
    for pipeline, stage, rank in program.reductions[reduction].copies:
        yield {"pipeline": program.spec.pipelines[pipeline].name, "stage": stage, "rank": rank}
