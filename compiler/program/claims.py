"""Program → Claims: what a plan says of itself. The proof recomputes all of it by itself."""

from stretto.compiler.problem.kinds import MemoryEffect, memory_effect
from stretto.compiler.problem.spec import Operation
from stretto.compiler.problem.stage_memory import StageHolding, of_microbatch, stage_holdings
from stretto.compiler.program.amounts import Amount, peak
from stretto.compiler.program.program import Claims, Program
from stretto.compiler.program.slots import MostLive, filled, most_live
from stretto.compiler.program.timeline import Timed, Timeline, time


def claims(program: Program) -> Claims:
    """Times by the clock; peaks by the instruction lists, from top to bottom, with streams by the
    clock. Raises `Rejected`: `deadlock`."""
    timeline = time(program)
    ranks = range(len(program.ranks))
    slots = [_slots(program, rank) for rank in ranks]
    return Claims(
        makespan=timeline.makespan,
        span=timeline.span,
        busy=sum(timeline.busy(rank) for rank in ranks),
        activations=activations(program, timeline),
        receives=tuple([most.received for most in slots]),
        outputs=tuple([most.made for most in slots]),
    )


def _slots(program: Program, rank: int) -> MostLive:
    """With streams all slots that are ever filled: any of them may be in use at once."""
    row = program.ranks[rank]
    return filled(row) if program.spec.streams else most_live(row)


def activations(program: Program, timeline: Timeline) -> tuple[int, ...]:
    """The most grains that each rank holds at once at the planned times."""
    if not program.spec.streams:
        return tuple([_activations(program, rank) for rank in range(len(program.ranks))])
    stages: dict[tuple[int, int], list[StageHolding]] = {}
    return tuple([_at_planned_times(program, row, stages) for row in timeline.ranks])


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


def _activations(program: Program, rank: int) -> int:
    """The most grains that the rank holds at once. A unit takes what it takes before anything that
    ends with it is given back."""
    held = peak = 0
    effects: dict[tuple[str, int, int], MemoryEffect] = {}
    for unit in program.units(rank):
        freed = 0
        for one in unit:
            what = one.operation[:3]
            if what not in effects:
                effects[what] = memory_effect(program.spec, one.operation, program.name)
            held += effects[what].alloc
            freed += effects[what].free
        peak = max(peak, held)
        held -= freed
    return peak
