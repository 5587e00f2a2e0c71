"""Program → Claims: what a plan says of itself. The proof recomputes all of it by itself."""

from stretto.compiler.problem.kinds import MemoryEffect, memory_effect
from stretto.compiler.program.program import Claims, Program
from stretto.compiler.program.slots import most_live
from stretto.compiler.program.timeline import time


def claims(program: Program) -> Claims:
    """Times by the clock; peaks by the instruction lists, from top to bottom. Raises `Rejected`:
    `deadlock`."""
    timeline = time(program)
    ranks = range(len(program.ranks))
    slots = [most_live(row) for row in program.ranks]
    return Claims(
        makespan=timeline.makespan,
        span=timeline.span,
        busy=sum(timeline.busy(rank) for rank in ranks),
        activations=tuple([_activations(program, rank) for rank in ranks]),
        receives=tuple([most.received for most in slots]),
        outputs=tuple([most.made for most in slots]),
    )


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
