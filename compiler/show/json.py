"""`show --format json`: the timeline and the instruction lists, in the shape of `docs/json.md`."""

from collections.abc import Iterator
from typing import Any

import msgspec

from stretto.compiler.analysis.idle import Idle
from stretto.compiler.problem.spec import NONE, show
from stretto.compiler.program.program import (
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
from stretto.compiler.show.view import View


def draw(view: View) -> str:
    """One JSON object on one line."""
    shown = {
        "schedule": view.spec.name,
        "ranks": view.spec.ranks,
        "timeline": [[entry(view, bar) for bar in lane] for lane in view.lanes],
        "idle": [[stretch(view, one) for one in rank] for rank in view.idle],
        "instructions": [
            [told(view.program, instruction) for instruction in rank] for rank in view.program.ranks
        ],
    }
    return msgspec.json.encode(shown).decode() + "\n"


def entry(view: View, bar: Timed) -> dict[str, Any]:
    kind, pipeline, stage, microbatch, slice_, part = bar.operation
    span = view.span(bar)
    return {
        "op": kind,
        "pipeline": view.spec.pipelines[pipeline].name,
        "stage": given(stage),
        "microbatch": given(microbatch),
        "slice": given(slice_),
        "part": given(part),
        "unit": given(bar.unit),
        "start": view.time(bar.start),
        "end": view.time(bar.end),
        "line": span.line if span else None,
    }


def stretch(view: View, one: Idle) -> dict[str, Any]:
    """An idle stretch, as `explain --json` says it."""
    return {
        "start": view.time(one.start),
        "end": view.time(one.end),
        "cause": one.cause,
        "before": one.before and one.before.replace("`", ""),
        "line": one.line,
        "why": one.why,
    }


def given(index: int) -> int | None:
    return None if index == NONE else index


def told(program: Program, instruction: Instruction) -> dict[str, Any]:
    """An instruction as an object: `do`, and what it refers to."""
    spec = program.spec
    match instruction:
        case Compute(operation, reads, writes, unit, _, at):
            return {
                "do": "compute",
                "op": show(spec, operation),
                "reads": list(reads),
                "writes": given(writes),
                "unit": given(unit),
                "line": None if at == NONE else spec.spans[at].line,
            }
        case Receive(slot, channel, result):
            words = {"op": show(spec, result), "slot": slot}
            return {"do": "receive", **words, "channel": link(program, channel)}
        case Send(slot, channel):
            return {"do": "send", "slot": slot, "channel": link(program, channel)}
        case Wait(slot):
            return {"do": "wait", "slot": slot}
        case Free(slot):
            return {"do": "free", "slot": slot}
        case Reduce(reduction):
            return {"do": "reduce", "copies": list(copies(program, reduction))}


def link(program: Program, channel: int) -> dict[str, Any]:
    source, target, traffic = program.channels[channel]
    return {"from": source, "to": target, "traffic": traffic}


def copies(program: Program, reduction: int) -> Iterator[dict[str, Any]]:
    for pipeline, stage, rank in program.reductions[reduction].copies:
        yield {"pipeline": program.spec.pipelines[pipeline].name, "stage": stage, "rank": rank}
