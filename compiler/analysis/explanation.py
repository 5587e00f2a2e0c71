"""Program → Explanation: why it takes as long as it does. The chain of operations that makes what
is minimized, and what every rank waits for while it is idle. Times are ticks.
"""

from collections import Counter

from msgspec import Struct

from stretto.compiler.analysis.beside import ending_rank, path_to_the_end
from stretto.compiler.analysis.critical_path import Link
from stretto.compiler.analysis.gains import Gain, WorkMove
from stretto.compiler.analysis.idle import CAUSES, Cause, Idle, longest
from stretto.compiler.analysis.jitter import JitteredMean, mean_under_jitter
from stretto.compiler.analysis.stream_idle import rank_stretches
from stretto.compiler.analysis.timed_program import timed_program
from stretto.compiler.program.program import Program
from stretto.compiler.program.timeline import Timeline, last_end, time


class Explanation(Struct, frozen=True):
    """`first`, `last`: the stretch of time that the chain explains; all of the makespan, or the
    longest span and the `rank` that has it. `idle[rank][cause]`: ticks; where ranks have several
    streams, of those that `lanes` names, (rank, stream). `stretches`: the longest ones first.
    `gains`: the largest gain first. `notes`: what else is to be said of these.
    `moves`: of work between stages, the best first. `assumed`: as of the Plan. `mean`: under
    jitter, in the units of the file."""

    makespan: int
    first: int
    last: int
    rank: int
    chain: tuple[Link, ...]
    idle: tuple[dict[Cause, int], ...]
    stretches: tuple[Idle, ...]
    gains: tuple[Gain, ...] = ()
    notes: tuple[str, ...] = ()
    moves: tuple[WorkMove, ...] = ()
    lanes: tuple[tuple[int, int], ...] = ()
    assumed: tuple[str, ...] = ()
    mean: JitteredMean | None = None


def explain(program: Program, many: int = 10) -> Explanation:
    """Explain the Program: all idle time, and its longest stretches, so `many`."""
    timeline = time(program)
    timed = timed_program(program, timeline)
    listed = [one for rank in range(len(program.ranks)) for one in rank_stretches(timed, rank)]
    lanes = [
        timed.place(lane)
        for lane, units in enumerate(timed.units)
        if units or not lane % timed.streams
    ]
    idle: dict[tuple[int, int], Counter[Cause]] = {lane: Counter() for lane in lanes}
    for one in listed:
        idle[one.rank, one.stream][one.cause] += one.end - one.start
    first, last, rank = explained_stretch(program, timeline)
    links = path_to_the_end(timed, rank)
    return Explanation(
        timeline.makespan,
        first,
        last,
        rank,
        tuple(link for link in links if link.end > first or not first),
        tuple({cause: counted[cause] for cause in CAUSES} for counted in idle.values()),
        longest(listed, many),
        lanes=tuple(lanes) if program.spec.streams else (),
        mean=mean_under_jitter(program),
    )


def explained_stretch(program: Program, timeline: Timeline) -> tuple[int, int, int]:
    """From when to when, and of which rank: the makespan, or the longest span."""
    rows = [(row[0].start, last_end(row), r) for r, row in enumerate(timeline.ranks) if row]
    if not rows:
        return 0, 0, 0
    if program.spec.minimize == "span":
        return max(rows, key=lambda row: (row[1] - row[0], -row[2]))
    beside = ending_rank(timeline)
    if beside is not None:
        return 0, timeline.makespan, beside
    _, last, rank = max(rows, key=lambda row: (row[1], -row[2]))
    return 0, last, rank
