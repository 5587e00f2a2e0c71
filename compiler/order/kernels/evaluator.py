"""Times candidates: the memory that a search replays sequences in, and what a replay is judged
by."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stretto.compiler.order.kernels.arrays import Arrays
from stretto.compiler.order.kernels.bundle import Bundle, IntRows, Ints
from stretto.compiler.order.kernels.jit import compiled, fast, inner, ints
from stretto.compiler.order.kernels.op_classes import stages_in
from stretto.compiler.order.kernels.replay import NOTHING, Assigned, Replay, assign
from stretto.compiler.order.kernels.replay import replay as replay_sample

REACH = (3, 8, 30, 100)
"""How far (positions) a unit goes at most, one of these each time."""

NEVER = 1 << 60
"""Ticks: later than anything. (Loops take it, and the number of the only sample, from the
Evaluator: numba compiles a function anew for every constant that it is called with.)"""


@dataclass(frozen=True, slots=True)
class Samples(Bundle):
    """Durations to replay with, one row each: `ticks` by op index, `unit_ticks` by unit."""

    ticks: IntRows
    unit_ticks: IntRows


@dataclass(frozen=True, slots=True)
class Evaluator(Bundle):
    """Everything a run needs to have at hand, made once. `start`, `stop`, `rest` by sample and
    position; `end` by sample and op index; `kept_…` are those of the last accepted sequence.
    `since` by sample and rank. `copy` by position. `nominal`: the number of the first sample.
    `stop_now`: 1 once whoever runs is to return. See `Assigned` and `Replay`, whose rows these are,
    for the others."""

    t: Arrays
    samples: Samples
    assigned: Assigned
    replay: Replay
    rest: IntRows
    start: IntRows
    stop: IntRows
    end: IntRows
    kept_start: IntRows
    kept_stop: IntRows
    kept_end: IntRows
    since: IntRows
    copy: Ints
    random: Ints
    stop_now: Ints
    reach: Ints
    never: int
    nominal: int


def evaluator_of(t: Arrays, samples: Samples, seed: int, stop: Ints | None = None) -> Evaluator:
    """An Evaluator for these Arrays; annealing with it ends when `stop` becomes 1."""
    rows, size, ranks = len(samples.ticks), len(t.ticks), len(t.limit)
    classes = len(t.rank)

    def row(size: int, value: int = -1) -> Any:
        return table([[value] * size for _ in range(rows)])

    assigned = Assigned(
        first=ints([-1] * size),
        second=ints([-1] * size),
        seen=ints([0] * classes),
        fused=ints([0] * stages_in(classes)),
    )
    replay = Replay(
        t=t,
        first=assigned.first,
        second=assigned.second,
        since=row(ranks, 0),
        ticks=samples.ticks,
        unit_ticks=samples.unit_ticks,
        rest=row(size, 0),
        start=row(size),
        stop=row(size),
        end=row(size),
        at=ints([0] * ranks),
        waiter=ints([-1] * size),
        following=ints([-1] * ranks),
        blocked=ints([-1] * ranks),
        stack=ints([0] * ranks),
    )
    return Evaluator(
        t=t,
        samples=samples,
        assigned=assigned,
        replay=replay,
        rest=replay.rest,
        start=replay.start,
        stop=replay.stop,
        end=replay.end,
        since=replay.since,
        kept_start=row(size),
        kept_stop=row(size),
        kept_end=row(size),
        copy=ints([0] * size),
        random=ints([(seed * 7919 + 12345) % 2147483646 + 1]),
        stop_now=ints([0]) if stop is None else stop,
        reach=ints(REACH),
        never=NEVER,
        nominal=0,
    )


def table(rows: Sequence[Sequence[int]]) -> Any:
    """Rows of integers as the loops read them."""
    return ints(rows) if fast() else [list(row) for row in rows]


def blank(size: int) -> Ints:
    """A flat sequence without units."""
    return ints([NOTHING] * size)


@compiled
def evaluate(s: Evaluator, sequence: Ints, span: bool) -> int:
    """Replay the whole sequence; the sum over the samples of what is minimized, or -1."""
    t = s.t
    ranks = len(t.limit)
    for r in range(ranks):
        if not assign(t, r, t.sequence_at[r + 1] - 1, sequence, s.assigned):
            return -1
    total = 0
    for k in range(len(s.samples.ticks)):
        for r in range(ranks):
            s.since[k][r] = t.sequence_at[r]
            remaining(s, k, r, sequence)
        if not replayed(s, k, sequence, s.never):
            return -1
        total += objective(s, k, sequence, span)
    return total


@inner
def replayed(s: Evaluator, k: int, sequence: Ints, cut: int) -> bool:
    """Replay with the durations of sample k from `since` on; see `replay`."""
    return replay_sample(s.replay, k, sequence, cut)


@inner
def remaining(s: Evaluator, k: int, r: int, sequence: Ints) -> None:
    """Work out `rest`: the work of rank r after each position (ticks of sample k)."""
    work = 0
    for p in range(s.t.sequence_at[r + 1] - 1, s.t.sequence_at[r] - 1, -1):
        s.rest[k][p] = work
        u = sequence[p]
        if u >= 0:
            if s.t.single[u] >= 0:
                work += s.samples.ticks[k][s.assigned.first[p]]
            else:
                work += s.samples.unit_ticks[k][u]


@inner
def objective(s: Evaluator, k: int, sequence: Ints, span: bool) -> int:
    """What is minimized (ticks), of the replayed sequence: the makespan, or the longest span."""
    worst = 0
    for r in range(len(s.t.limit)):
        lo, hi = s.t.sequence_at[r], s.t.sequence_at[r + 1]
        if hi > lo:
            last = s.stop[k][hi - 1]
            if span:
                while lo < hi - 1 and sequence[lo] < 0:
                    lo += 1
                last -= s.start[k][lo]
            if last > worst:
                worst = last
    return worst


@inner
def mean_end(s: Evaluator, k: int) -> float:
    """The mean end of the ranks (ticks)."""
    total = 0
    for r in range(len(s.t.limit)):
        if s.t.sequence_at[r + 1] > s.t.sequence_at[r]:
            total += s.stop[k][s.t.sequence_at[r + 1] - 1]
    return total / len(s.t.limit)
