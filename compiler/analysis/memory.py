"""What operations do to the memory of their ranks at the planned times: one by one, and as a curve.
Sizes are grains.
"""

from collections.abc import Iterable
from typing import NamedTuple

from stretto.compiler.problem.kinds import MemoryEffect, memory_effect
from stretto.compiler.problem.spec import Operation
from stretto.compiler.problem.stage_memory import StageHolding, of_microbatch, stage_holdings
from stretto.compiler.program.program import Program
from stretto.compiler.program.timeline import Timed

Effects = dict[Operation, MemoryEffect]


class Level(NamedTuple):
    """From `tick` on a rank holds `grains` of activations, until the next level."""

    tick: int
    grains: int


def effects(program: Program, lanes: Iterable[tuple[Timed, ...]]) -> Effects:
    """What every operation takes at its start and gives back at its end."""
    found: Effects = {}
    for lane in lanes:
        if program.spec.streams:
            found |= effects_of_parts(program, lane)
        else:
            for bar in lane:
                found[bar.operation] = memory_effect(program.spec, bar.operation, program.name)
    return found


def effects_of_parts(program: Program, lane: tuple[Timed, ...]) -> Effects:
    """The same of one rank's parts: of all that free an amount the last to end does."""
    when = {bar.operation: (bar.end, place) for place, bar in enumerate(lane)}
    alloc = dict.fromkeys(when, 0)
    free = dict.fromkeys(when, 0)
    stages: dict[tuple[int, int], list[StageHolding]] = {}
    for bar in lane:
        kind, p, s, microbatch, _, part = bar.operation
        if (p, s) not in stages:
            stages[p, s] = stage_holdings(program.spec, p, s, program.name)
        for one in stages[p, s]:
            if one.taken_by == (kind, part):
                freers = [of_microbatch(by, p, s, microbatch) for by in one.freed_by]
                alloc[bar.operation] += one.grains
                free[max(freers, key=when.__getitem__)] += one.grains
    return {operation: MemoryEffect(alloc[operation], free[operation]) for operation in when}


def levels(lane: Iterable[Timed], known: Effects) -> tuple[Level, ...]:
    """The rank's activations over time, by the rules of `docs/instructions.md`: what ends at a
    tick is given back before what starts at it takes."""
    changes = []
    for bar in lane:
        effect = known[bar.operation]
        if effect.alloc:
            changes.append((bar.start, True, effect.alloc))
        if effect.free:
            changes.append((bar.end, False, -effect.free))
    held = 0
    curve = [Level(0, 0)]
    for tick, _, grains in sorted(changes):
        held += grains
        if curve[-1].tick == tick:
            curve[-1] = Level(tick, held)
        elif grains:
            curve.append(Level(tick, held))
    return tuple(curve)
