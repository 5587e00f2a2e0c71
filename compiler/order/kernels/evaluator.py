"""Times a candidate order: the state that a search replays in, and what the replay is judged by."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from stretto.compiler.order.kernels.arrays import Ints, Tables
from stretto.compiler.order.kernels.jit import compiled, fast, ints
from stretto.compiler.order.kernels.replay import assign, replay

REACH = (3, 8, 30, 100)  # how far a unit goes at most, one of these each time


class Samples(NamedTuple):
    """Durations to replay with, one row each: `ticks` by place, `unit_ticks` by unit."""

    ticks: Any
    unit_ticks: Any


class State(NamedTuple):
    """Everything a run needs to have at hand, made once."""

    t: Tables
    samples: Samples
    first: Ints
    second: Ints
    rest: Any
    start: Any
    stop: Any
    end: Any
    kept_start: Any
    kept_stop: Any
    kept_end: Any
    since: Any
    seen: Ints
    merged: Ints
    at: Ints
    waiter: Ints
    following: Ints
    blocked: Ints
    stack: Ints
    copy: Ints
    random: Ints
    reach: Ints


def prepare(t: Tables, samples: Samples, seed: int) -> State:
    """A State for this Tables."""
    rows, places, ranks = len(samples.ticks), len(t.ticks), len(t.limit)
    letters = len(t.rank)

    def row(size: int, value: int = -1) -> Any:
        return table([[value] * size for _ in range(rows)])

    return State(
        t,
        samples,
        ints([-1] * places),
        ints([-1] * places),
        row(places, 0),
        row(places),
        row(places),
        row(places),
        row(places),
        row(places),
        row(places),
        row(ranks, 0),
        ints([0] * letters),
        ints([0] * (letters // 3)),
        ints([0] * ranks),
        ints([-1] * places),
        ints([-1] * ranks),
        ints([-1] * ranks),
        ints([0] * ranks),
        ints([0] * places),
        ints([(seed * 7919 + 12345) % 2147483646 + 1]),
        ints(REACH),
    )


def table(rows: Sequence[Sequence[int]]) -> Any:
    """Rows of integers as the loops read them."""
    if not fast():
        return [list(row) for row in rows]
    import numpy

    return numpy.array(rows, dtype=numpy.int64)


@compiled
def evaluate(s: State, word: Ints, span: bool) -> int:
    """Replay the whole word; the sum over the samples of what is minimized, or -1."""
    t = s.t
    ranks = len(t.limit)
    for r in range(ranks):
        if not assign(t, r, t.word_at[r + 1] - 1, word, s.first, s.second, s.seen, s.merged):
            return -1
    total = 0
    for k in range(len(s.samples.ticks)):
        for r in range(ranks):
            s.since[k][r] = t.word_at[r]
            remaining(s, k, r, word)
        if not replayed(s, k, word, 1 << 60):
            return -1
        total += objective(s, k, word, span)
    return total


@compiled
def replayed(s: State, k: int, word: Ints, cut: int) -> bool:
    return replay(
        s.t,
        word,
        s.first,
        s.second,
        s.since[k],
        s.samples.ticks[k],
        s.samples.unit_ticks[k],
        s.rest[k],
        cut,
        s.start[k],
        s.stop[k],
        s.end[k],
        s.at,
        s.waiter,
        s.following,
        s.blocked,
        s.stack,
    )


@compiled
def remaining(s: State, k: int, r: int, word: Ints) -> None:
    """The work of rank r after each position."""
    work = 0
    for p in range(s.t.word_at[r + 1] - 1, s.t.word_at[r] - 1, -1):
        s.rest[k][p] = work
        u = word[p]
        if u >= 0:
            if s.t.solo[u] >= 0:
                work += s.samples.ticks[k][s.first[p]]
            else:
                work += s.samples.unit_ticks[k][u]


@compiled
def objective(s: State, k: int, word: Ints, span: bool) -> int:
    """What is minimized, of the replayed word."""
    worst = 0
    for r in range(len(s.t.limit)):
        lo, hi = s.t.word_at[r], s.t.word_at[r + 1]
        if hi > lo:
            last = s.stop[k][hi - 1]
            if span:
                while lo < hi - 1 and word[lo] < 0:
                    lo += 1
                last -= s.start[k][lo]
            if last > worst:
                worst = last
    return worst


@compiled
def mean_end(s: State, k: int) -> float:
    """The mean end of the ranks."""
    total = 0
    for r in range(len(s.t.limit)):
        if s.t.word_at[r + 1] > s.t.word_at[r]:
            total += s.stop[k][s.t.word_at[r + 1] - 1]
    return total / len(s.t.limit)
