"""Annealing over sequences: change one rank's sequence a little, replay, keep it if that was not
much worse; "not much" shrinks. Half of the changes are where a rank idles. The cost is what is
minimized plus a little of the mean end of the ranks, without which plateaus stop the search; over
several samples of the durations it is the mean.
"""

from typing import NamedTuple

from stretto.compiler.order.kernels.annealing import (
    Cooling,
    Goal,
    copy,
    cutoff,
    heat,
    threshold,
)
from stretto.compiler.order.kernels.arrays import Arrays
from stretto.compiler.order.kernels.bundle import Ints
from stretto.compiler.order.kernels.evaluator import (
    Evaluator,
    evaluate,
    mean_end,
    objective,
    remaining,
    replayed,
)
from stretto.compiler.order.kernels.jit import compiled, inner
from stretto.compiler.order.kernels.moves import draw, join, merge, move, split, swap
from stretto.compiler.order.kernels.replay import assign


class Trial(NamedTuple):
    """A change of `rank`: its positions from `first` to `last` differ from `copy`; operations are
    to be assigned anew up to position `until`."""

    rank: int
    first: int
    last: int
    until: int


@compiled
def anneal(
    s: Evaluator, sequence: Ints, best: Ints, cooling: Cooling, goal: Goal, overlaps: bool
) -> int:
    """Anneal `sequence`; the best one seen goes into `best`. The best sum of what is minimized
    (ticks, over the samples), or -1 if the sequence that was given cannot run. `overlaps`: pairs
    may be merged and split."""
    rows = len(s.samples.ticks)
    now = evaluate(s, sequence, goal.span)
    if now < 0:
        return -1
    found = now
    copy(sequence, best)
    mean = 0.0
    for k in range(rows):
        mean += mean_end(s, k)
        copy(s.start[k], s.kept_start[k])
        copy(s.stop[k], s.kept_stop[k])
        copy(s.end[k], s.kept_end[k])
    cost = now + goal.weight * mean
    for turn in range(cooling.moves):
        if found <= goal.enough or s.stop_now[0] > 0:
            break
        hot = heat(cooling, turn) * rows
        r = _change(s, sequence, overlaps)
        trial = _trial(s, sequence, r if r >= 0 else -1 - r, overlaps)
        if trial.last < trial.first:
            continue
        if r < 0 or not assign(s.t, r, trial.until, sequence, s.assigned):
            _undo(s, sequence, trial)
            continue
        allowed = threshold(cost, hot, s.random)
        cut = cutoff(allowed, mean, hot, goal) if rows == 1 else s.never
        value, ends, tried = _replay(s, sequence, trial, cut, goal.span)
        accepted = value >= 0 and value + goal.weight * ends <= allowed
        if accepted:
            mean, cost = ends, value + goal.weight * ends
            if value < found:
                found = value
                copy(sequence, best)
        else:
            _undo(s, sequence, trial)
        for k in range(tried):
            if not accepted:
                remaining(s, k, trial.rank, sequence)
            _keep(s, k, sequence, accepted)
    return int(found)


@inner
def _change(s: Evaluator, sequence: Ints, overlaps: bool) -> int:
    """Make one random change to one rank's sequence, whose old form is kept in `copy`. The rank,
    or -1 - rank where nothing sensible came out."""
    t, random = s.t, s.random
    a = _position(s, sequence)
    r = _rank_at(t, a)
    lo, hi = t.sequence_at[r], t.sequence_at[r + 1]
    for p in range(lo, hi):
        s.copy[p] = sequence[p]
    dice = draw(random, 100)
    if overlaps and dice < 30:
        if dice < 15:
            return r if merge(t, sequence, lo, hi, a, random) else -1 - r
        if dice < 26:
            return r if split(t, sequence, lo, hi, a, random) else -1 - r
        return r if join(t, sequence, hi, a) else -1 - r
    far = 1 + draw(random, s.reach[draw(random, len(s.reach))])
    b = a + far if draw(random, 2) == 0 else a - far
    if b < lo or b >= hi:
        return -1 - r
    if dice < 50:
        return r if swap(t, sequence, a, b) else -1 - r
    if dice < 75:
        return r if move(t, sequence, b, a) else -1 - r
    return r if move(t, sequence, a, b) else -1 - r


@inner
def _position(s: Evaluator, sequence: Ints) -> int:
    """A position to change; half of the time one before which its rank idles."""
    start, stop = s.start[0], s.stop[0]
    a = draw(s.random, len(sequence))
    if draw(s.random, 2) == 0:
        for _ in range(12):
            if sequence[a] >= 0 and a > 0 and start[a] > stop[a - 1] and stop[a - 1] >= 0:
                break
            a = draw(s.random, len(sequence))
    return a


@inner
def _rank_at(t: Arrays, a: int) -> int:
    """The rank whose sequence has position a."""
    lo, hi = 0, len(t.limit)
    while hi - lo > 1:
        middle = (lo + hi) // 2
        if t.sequence_at[middle] <= a:
            lo = middle
        else:
            hi = middle
    while t.sequence_at[lo + 1] <= a:
        lo += 1
    return lo


@inner
def _trial(s: Evaluator, sequence: Ints, r: int, overlaps: bool) -> Trial:
    """What the change of rank r comes to; `last` is below `first` where nothing differs."""
    lo, hi = s.t.sequence_at[r], s.t.sequence_at[r + 1]
    a, b = lo, hi - 1
    while a < hi and sequence[a] == s.copy[a]:
        a += 1
    if a < hi:
        while b > a and sequence[b] == s.copy[b]:
            b -= 1
    return Trial(r, a, b, hi - 1 if overlaps else b)


@inner
def _undo(s: Evaluator, sequence: Ints, trial: Trial) -> None:
    """Take the change back."""
    for p in range(trial.first, trial.last + 1):
        sequence[p] = s.copy[p]
    assign(s.t, trial.rank, trial.until, sequence, s.assigned)


@inner
def _replay(
    s: Evaluator, sequence: Ints, trial: Trial, cut: int, span: bool
) -> tuple[int, float, int]:
    """Replay what the change may move. The sum over the samples of what is minimized (-1 where it
    ends after `cut` or cannot run), that of the mean ends, and how many samples were replayed."""
    value, ends = 0, 0.0
    for k in range(len(s.samples.ticks)):
        early = 0
        if trial.first > s.t.sequence_at[trial.rank]:
            early = s.kept_stop[k][trial.first - 1]
        _before(s.t, s.kept_start[k], early, s.since[k])
        s.since[k][trial.rank] = trial.first
        remaining(s, k, trial.rank, sequence)
        if not replayed(s, k, sequence, cut):
            return -1, 0.0, k + 1
        value += objective(s, k, sequence, span)
        ends += mean_end(s, k)
    return value, ends, len(s.samples.ticks)


@inner
def _keep(s: Evaluator, k: int, sequence: Ints, accepted: bool) -> None:
    """Copy the times of everything that was replayed: to the kept ones if it was accepted, else
    back from them."""
    start, stop, end = s.start[k], s.stop[k], s.end[k]
    kept_start, kept_stop, kept_end = s.kept_start[k], s.kept_stop[k], s.kept_end[k]
    if not accepted:
        start, kept_start = kept_start, start
        stop, kept_stop = kept_stop, stop
        end, kept_end = kept_end, end
    first, second = s.assigned.first, s.assigned.second
    for q in range(len(s.t.limit)):
        for p in range(s.since[k][q], s.t.sequence_at[q + 1]):
            kept_start[p] = start[p]
            kept_stop[p] = stop[p]
            if sequence[p] >= 0:
                kept_end[first[p]] = end[first[p]]
                if second[p] >= 0:
                    kept_end[second[p]] = end[second[p]]


@inner
def _before(t: Arrays, start: Ints, early: int, since: Ints) -> None:
    """For every rank its first position that starts at `early` or later."""
    for q in range(len(t.limit)):
        lo, hi = t.sequence_at[q], t.sequence_at[q + 1]
        while lo < hi:
            middle = (lo + hi) // 2
            if start[middle] >= early:
                hi = middle
            else:
                lo = middle + 1
        since[q] = lo
