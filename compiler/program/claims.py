"""Program → Claims: what a plan says of itself. The proof recomputes all of it by itself."""

from stretto.compiler.order.earliest_start import Earliest
from stretto.compiler.problem.kinds import MemoryEffect, memory_effect
from stretto.compiler.problem.spec import Operation
from stretto.compiler.problem.stage_memory import StageHolding, of_microbatch, stage_holdings
from stretto.compiler.program.amounts import Amount, peak
from stretto.compiler.program.program import NONE, Claims, Compute, Program
from stretto.compiler.program.slots import filled, most_live
from stretto.compiler.program.timeline import Timed, Timeline, time


def claims(program: Program, planned: Earliest | None = None) -> Claims:
    """Times as they were `planned` where they were (`Communicated.planned`), else by the clock;
    peaks by the instruction lists, from top to bottom, with streams by the clock. Raises
    `Rejected`: `deadlock`."""
    if planned is None:
        timeline = time(program)
        makespan, span = timeline.makespan, timeline.span
        busy = sum(timeline.busy(rank) for rank in range(len(program.ranks)))
        peaks = activations(program, timeline)
    else:
        makespan, span, busy = _figures(planned)
        peaks = _in_sequence(program)
    # with streams any of the slots that are ever filled may be in use at once; and where the clock
    # was planned, each list was given as few as it ever has in use (`slots.assign`)
    live = filled if program.spec.streams or planned is not None else most_live
    slots = [live(row) for row in program.ranks]
    return Claims(
        makespan=makespan,
        span=span,
        busy=busy,
        activations=peaks,
        receives=tuple([most.received for most in slots]),
        outputs=tuple([most.made for most in slots]),
    )


def _figures(planned: Earliest) -> tuple[int, int, int]:
    """Makespan, span, and how long all ranks compute, where each has one lane."""
    rows = [row for row in zip(planned.start, planned.end, strict=True) if row[0]]
    makespan = max([end[-1] for _, end in rows], default=0)
    span = max([end[-1] - start[0] for start, end in rows], default=0)
    return makespan, span, sum([sum(end) - sum(start) for start, end in rows])


def activations(program: Program, timeline: Timeline) -> tuple[int, ...]:
    """The most grains that each rank holds at once at the planned times."""
    if not program.spec.streams:
        return _in_sequence(program)
    stages: dict[tuple[int, int], list[StageHolding]] = {}
    return tuple([_at_planned_times(program, row, stages) for row in timeline.ranks])


def _in_sequence(program: Program) -> tuple[int, ...]:
    """Without streams: the most grains that each rank holds at once along its list."""
    effects: dict[tuple[str, int, int], MemoryEffect] = {}
    return tuple([_activations(program, rank, effects) for rank in range(len(program.ranks))])


def _at_planned_times(
    program: Program, row: tuple[Timed, ...], stages: dict[tuple[int, int], list[StageHolding]]
) -> int:
    """The same of one rank, all of whose operations are parts; `stages` has what is known of what
    stages hold."""
    when: dict[Operation, tuple[int, Timed]] = {
        timed.operation: (place, timed) for place, timed in enumerate(row)
    }
    amounts = []
    for place, timed in enumerate(row):
        kind, p, s, microbatch, _, part = timed.operation
        if (p, s) not in stages:
            stages[p, s] = stage_holdings(program.spec, p, s, program.name)
        for one in stages[p, s]:
            if one.taken_by == (kind, part):
                freers = [when[of_microbatch(by, p, s, microbatch)] for by in one.freed_by]
                end = max(freer.end for _, freer in freers)
                last = max(place for place, _ in freers)
                amounts.append(Amount(one.grains, timed.start, place, end, last, 0))
    return peak(amounts)


def _activations(
    program: Program, rank: int, effects: dict[tuple[str, int, int], MemoryEffect]
) -> int:
    """The most grains that the rank holds at once; `effects` has what is known of what kinds do on
    stages. A unit takes what it takes before anything that ends with it is given back."""
    held = peak = freed = 0
    unit = NONE
    for one in program.ranks[rank]:
        if type(one) is not Compute:
            continue
        if one.unit == NONE or one.unit != unit:  # a new one
            held -= freed
            freed = 0
        unit = one.unit
        kind, p, s, _, _, _ = one.operation
        effect = effects.get((kind, p, s))
        if effect is None:
            effect = memory_effect(program.spec, one.operation, program.name)
            effects[kind, p, s] = effect
        held += effect.alloc
        freed += effect.free
        if held > peak:
            peak = held
    return peak
