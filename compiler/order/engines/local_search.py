"""Annealing over words: change one rank's word a little, replay, keep it if that was not much
worse; "not much" shrinks. Half of the changes are at an idle stretch. The cost is what is
minimized plus a little of the mean end of the ranks, without which plateaus stop the search; over
several samples of the durations it is the mean.
"""

from math import exp, log

from stretto.compiler.order.kernels.arrays import Ints, Tables
from stretto.compiler.order.kernels.evaluator import (
    State,
    evaluate,
    mean_end,
    objective,
    remaining,
    replayed,
)
from stretto.compiler.order.kernels.jit import compiled
from stretto.compiler.order.kernels.moves import draw, join, merge, move, split, swap
from stretto.compiler.order.kernels.replay import assign


@compiled
def _change(s: State, word: Ints, overlaps: bool) -> int:
    """Make one random change to one rank's word, whose old form is kept in `copy`. The rank, or
    -1 - rank where nothing sensible came out."""
    t, random = s.t, s.random
    places = len(word)
    start, stop = s.start[0], s.stop[0]
    a = draw(random, places)
    idle = draw(random, 2) == 0
    if idle:
        for _ in range(12):
            if word[a] >= 0 and a > 0 and start[a] > stop[a - 1] and stop[a - 1] >= 0:
                break
            a = draw(random, places)
    ranks = len(t.limit)
    lo_r, hi_r = 0, ranks
    while hi_r - lo_r > 1:
        middle = (lo_r + hi_r) // 2
        if t.word_at[middle] <= a:
            lo_r = middle
        else:
            hi_r = middle
    r = lo_r
    while t.word_at[r + 1] <= a:
        r += 1
    lo, hi = t.word_at[r], t.word_at[r + 1]
    for p in range(lo, hi):
        s.copy[p] = word[p]
    dice = draw(random, 100)
    if overlaps and dice < 30:
        if dice < 15:
            return r if merge(t, word, lo, hi, a, random) else -1 - r
        if dice < 26:
            return r if split(t, word, lo, hi, a, random) else -1 - r
        return r if join(t, word, hi, a) else -1 - r
    far = 1 + draw(random, s.reach[draw(random, len(s.reach))])
    b = a + far if draw(random, 2) == 0 else a - far
    if b < lo or b >= hi:
        return -1 - r
    if dice < 50:
        return r if swap(t, word, a, b) else -1 - r
    if dice < 75:
        return r if move(t, word, b, a) else -1 - r
    return r if move(t, word, a, b) else -1 - r


@compiled
def run(
    s: State,
    word: Ints,
    best: Ints,
    moves: int,
    hot: float,
    cold: float,
    weight: float,
    span: bool,
    overlaps: bool,
    enough: int,
) -> int:
    """Anneal `word` for so many moves, from temperature `hot` to `cold`; the best one seen goes
    into `best`. The best sum of what is minimized (over the samples), or -1 if the word that was
    given cannot run. Stops at `enough`."""
    t = s.t
    rows, places = len(s.samples.ticks), len(word)
    now = evaluate(s, word, span)
    if now < 0:
        return -1
    found = now
    for p in range(places):
        best[p] = word[p]
    mean = 0.0
    for k in range(rows):
        mean += mean_end(s, k)
        for p in range(places):
            s.kept_start[k][p] = s.start[k][p]
            s.kept_stop[k][p] = s.stop[k][p]
            s.kept_end[k][p] = s.end[k][p]
    cost = now + weight * mean
    for turn in range(moves):
        if found <= enough:
            break
        heat = hot * exp(log(cold / hot) * turn / moves) * rows
        r = _change(s, word, overlaps)
        sensible = r >= 0
        if not sensible:
            r = -1 - r
        lo, hi = t.word_at[r], t.word_at[r + 1]
        a, b = lo, hi - 1
        while a < hi and word[a] == s.copy[a]:
            a += 1
        if a == hi:
            continue
        while b > a and word[b] == s.copy[b]:
            b -= 1
        last = hi - 1 if overlaps else b
        if not sensible or not assign(t, r, last, word, s.first, s.second, s.seen, s.merged):
            for p in range(a, b + 1):
                word[p] = s.copy[p]
            assign(t, r, last, word, s.first, s.second, s.seen, s.merged)
            continue
        allowed = cost - heat * log((1 + draw(s.random, 1 << 30)) / (1 << 30))
        value, ends, tried, fine = 0, 0.0, 0, True
        cut = 1 << 60
        if rows == 1 and not span:
            cut = int(allowed - weight * mean + weight * heat) + 1
        for k in range(rows):
            early = s.kept_stop[k][a - 1] if a > lo else 0
            _before(t, s.kept_start[k], early, s.since[k])
            s.since[k][r] = a
            remaining(s, k, r, word)
            tried += 1
            if not replayed(s, k, word, cut):
                fine = False
                break
            value += objective(s, k, word, span)
            ends += mean_end(s, k)
        if fine and value + weight * ends <= allowed:
            now, mean, cost = value, ends, value + weight * ends
            for k in range(rows):
                _keep(s, k, word, True)
            if value < found:
                found = value
                for p in range(places):
                    best[p] = word[p]
            continue
        for p in range(a, b + 1):
            word[p] = s.copy[p]
        assign(t, r, last, word, s.first, s.second, s.seen, s.merged)
        for k in range(tried):
            remaining(s, k, r, word)
            _keep(s, k, word, False)
    return found


@compiled
def _keep(s: State, k: int, word: Ints, forward: bool) -> None:
    """Copy the times of everything that was replayed: to the kept ones, or back from them."""
    start, stop, end = s.start[k], s.stop[k], s.end[k]
    kept_start, kept_stop, kept_end = s.kept_start[k], s.kept_stop[k], s.kept_end[k]
    if not forward:
        start, kept_start = kept_start, start
        stop, kept_stop = kept_stop, stop
        end, kept_end = kept_end, end
    for q in range(len(s.t.limit)):
        for p in range(s.since[k][q], s.t.word_at[q + 1]):
            kept_start[p] = start[p]
            kept_stop[p] = stop[p]
            if word[p] >= 0:
                kept_end[s.first[p]] = end[s.first[p]]
                if s.second[p] >= 0:
                    kept_end[s.second[p]] = end[s.second[p]]


@compiled
def _before(t: Tables, start: Ints, early: int, since: Ints) -> None:
    """For every rank its first position that starts at `early` or later."""
    for q in range(len(t.limit)):
        lo, hi = t.word_at[q], t.word_at[q + 1]
        while lo < hi:
            middle = (lo + hi) // 2
            if start[middle] >= early:
                hi = middle
            else:
                lo = middle + 1
        since[q] = lo
