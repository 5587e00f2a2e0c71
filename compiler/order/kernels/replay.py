"""Replay words: where each unit starts and ends if every rank runs its word top to bottom, each
unit as soon as it can. The inner loop of every search over words; compiled where numba is there.

Positions are those of `Tables.word_at`: a rank's word has as many as it has operations, so that
pairs can be merged and split in place; what is not used holds NOTHING.
"""

from stretto.compiler.order.kernels.arrays import Ints, Tables
from stretto.compiler.order.kernels.jit import compiled

NOTHING = -1
STUCK = 1 << 60


@compiled
def assign(
    t: Tables, r: int, last: int, word: Ints, first: Ints, second: Ints, seen: Ints, merged: Ints
) -> bool:
    """Give the units of rank r up to position `last` their operations: `first` (the forward, or
    the only one) and `second` (a pair's backward), by position, as places. False if the word
    breaks the memory limit or runs something before what it needs on its own rank. `seen` and
    `merged` are scratch, by letter and by stage."""
    for at in range(t.letter_at[r], t.letter_at[r + 1]):
        seen[t.letter[at]] = 0
        merged[t.letter[at] // 3] = 0
    held, limit = 0, t.limit[r]
    for p in range(t.word_at[r], last + 1):
        u = word[p]
        if u < 0:
            continue
        x = t.solo[u]
        second[p] = -1
        if x >= 0:
            place = t.base[x] + seen[x]
            kind = x % 3
            if kind == 0:
                held += t.take[place]
                if held > limit:
                    return False
            elif kind == 1:
                if seen[x - 1] < t.own[place]:
                    return False
                if t.whole[place] > 0:
                    merged[x // 3] += 1
            elif seen[x] + merged[x // 3] >= seen[x - 1]:
                return False
            held -= t.give[place]
            seen[x] += 1
            first[p] = place
            continue
        b = t.back[u]
        place_b = t.base[b] + seen[b]
        if seen[b - 1] < t.own[place_b]:
            return False
        x = t.forward[u]
        if x >= 0:
            place = t.base[x] + seen[x]
            held += t.take[place]
            if held > limit:
                return False
            held -= t.give[place]
            seen[x] += 1
            first[p] = place
            second[p] = place_b
        else:
            first[p] = place_b
        held -= t.give[place_b]
        seen[b] += 1
        if t.merged[u] > 0:
            merged[b // 3] += 1
            held -= t.give[t.base[b + 1]]
        elif t.whole[place_b] > 0:
            merged[b // 3] += 1
    return True


@compiled
def _ready(t: Tables, place: int, x: int, end: Ints, now: int) -> int:
    """When operation `place` of letter x can start; or -1 - the place that it still waits for."""
    n = place - t.base[x]
    for k in range(t.need_at[x], t.need_at[x + 1]):
        source: int = t.base[t.need[k]] + n
        e = end[source]
        if e < 0:
            return -1 - source
        if e + t.need_lag[k] > now:
            now = e + t.need_lag[k]
    if len(t.extra_at) > 1:
        for k in range(t.extra_at[place], t.extra_at[place + 1]):
            e = end[t.extra[k]]
            if e < 0:
                return int(-1 - t.extra[k])
            if e + t.extra_lag[k] > now:
                now = e + t.extra_lag[k]
    return now


@compiled
def replay(
    t: Tables,
    word: Ints,
    first: Ints,
    second: Ints,
    since: Ints,
    ticks: Ints,
    unit_ticks: Ints,
    rest: Ints,
    cut: int,
    start: Ints,
    stop: Ints,
    end: Ints,
    at: Ints,
    waiter: Ints,
    following: Ints,
    blocked: Ints,
    stack: Ints,
) -> bool:
    """Times of all units from position `since[r]` on, for every rank r; what stands before keeps
    the times that it has. False as soon as a unit ends so late that, with the `rest` of the work
    of its rank, it would end after `cut`; or if ranks wait for each other. `end` is by place; what
    follows `end` is scratch, by rank but for `waiter`, by place; -1 at first."""
    ranks = len(t.limit)
    for r in range(ranks):
        at[r] = since[r]
        stack[r] = r
        for p in range(since[r], t.word_at[r + 1]):
            if word[p] >= 0:
                if first[p] >= 0:
                    end[first[p]] = -1
                if second[p] >= 0:
                    end[second[p]] = -1
    top = ranks
    fine = True
    while top > 0 and fine:
        top -= 1
        r = stack[top]
        p = at[r]
        now = 0
        if p > t.word_at[r]:
            now = stop[p - 1]
        while p < t.word_at[r + 1]:
            u = word[p]
            if u < 0:
                start[p] = now
                stop[p] = now
                p += 1
                continue
            place = first[p]
            x = t.solo[u]
            if x >= 0:
                s = now
                if x % 3 != 2 or len(t.extra_at) > 1:
                    s = _ready(t, place, x, end, now)
                long = ticks[place]
            elif second[p] >= 0:
                s = _ready(t, place, t.forward[u], end, now)
                if s >= 0:
                    s = _ready(t, second[p], t.back[u], end, s)
                long = unit_ticks[u]
            else:
                s = _ready(t, place, t.back[u], end, now)
                long = unit_ticks[u]
            if s < 0:
                source = -1 - s
                following[r] = waiter[source]
                waiter[source] = r
                blocked[r] = source
                break
            now = s + long
            if now + rest[p] > cut:
                fine = False
                break
            start[p] = s
            stop[p] = now
            end[place] = now
            w = waiter[place]
            if w >= 0:
                waiter[place] = -1
                while w >= 0:
                    stack[top] = w
                    top += 1
                    w = following[w]
            if second[p] >= 0:
                end[second[p]] = now
                w = waiter[second[p]]
                if w >= 0:
                    waiter[second[p]] = -1
                    while w >= 0:
                        stack[top] = w
                        top += 1
                        w = following[w]
            p += 1
        at[r] = p
    for r in range(ranks):
        if at[r] < t.word_at[r + 1]:
            fine = False
        if blocked[r] >= 0:
            waiter[blocked[r]] = -1
            blocked[r] = -1
    return fine
