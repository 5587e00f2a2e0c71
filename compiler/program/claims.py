"""Program → Claims: what a plan says of itself. The proof recomputes all of it by itself."""

from stretto.compiler.problem.spec import NONE
from stretto.compiler.program.program import Claims, Compute, Free, Program, Receive
from stretto.compiler.program.timeline import time


def claims(program: Program) -> Claims:
    """Times by the clock; peaks by the instruction lists, from top to bottom. Raises `Rejected`:
    `deadlock`."""
    timeline = time(program)
    ranks = range(len(program.ranks))
    return Claims(
        makespan=timeline.makespan,
        span=timeline.span,
        busy=sum(timeline.busy(rank) for rank in ranks),
        activations=tuple([_activations(program, rank) for rank in ranks]),
        receives=tuple([_slots(program, rank)[0] for rank in ranks]),
        outputs=tuple([_slots(program, rank)[1] for rank in ranks]),
    )


def _activations(program: Program, rank: int) -> int:
    """The most grains that the rank holds at once. A unit takes what it takes before anything that
    ends with it is given back."""
    held = peak = owed = 0
    unit = NONE
    for one in program.ranks[rank]:
        if type(one) is Compute:
            if one.unit == NONE or one.unit != unit:
                held, owed = held - owed, 0
            unit = one.unit
            take, give = _effect(program, one)
            held, owed = held + take, owed + give
            peak = max(peak, held)
    return peak


def _effect(program: Program, one: Compute) -> tuple[int, int]:
    """Grains that the operation takes at its start and gives back at its end."""
    pipeline = program.spec.pipelines[one.operation.pipeline]
    stage = pipeline.stages[one.operation.stage]
    match one.operation.kind:
        case "F":
            ends = pipeline.forward_only or program.name == "eval"
            return stage.activation, stage.activation if ends else 0
        case "B":
            return 0, stage.activation
        case "I":
            return 0, stage.activation - stage.kept
        case "W":
            return 0, stage.kept


def _slots(program: Program, rank: int) -> tuple[int, int]:
    """The most slots at once that a receive filled, and that a compute wrote."""
    received: set[int] = set()
    written: set[int] = set()
    most_received = most_written = 0
    for one in program.ranks[rank]:
        if type(one) is Receive:
            received.add(one.slot)
            most_received = max(most_received, len(received))
        elif type(one) is Compute and one.writes != NONE:
            written.add(one.writes)
            most_written = max(most_written, len(written))
        elif type(one) is Free:
            received.discard(one.slot)
            written.discard(one.slot)
    return most_received, most_written
