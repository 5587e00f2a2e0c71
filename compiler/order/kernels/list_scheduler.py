"""List scheduling: whenever a rank falls idle it starts the operation with the least score among
those that can start now. One loop, plain integers, no object per operation: about 4 µs for each
in plain Python, and written so that it can be compiled.

The score of operation n of letter x is key[x] + n · period[x]. A rank may leave itself idle for
something better that is known to come soon (`look`), do weight gradients once more than `eager`
of them wait, and pair what may overlap (`pairing`). What is on its way, activations of forwards
whose backward has not run, it may keep below `cap`: 1F1B is such a cap, and nothing but the limit
then says how long weight gradients wait.

With `reserve` it never gets stuck, at any limit that can be met: a forward is admitted only if the
micro-batches that are under way on the rank can still finish one after the other, in an order that
is the same everywhere (index, then pipeline). Then the oldest one of all can always go on.
"""

from heapq import heappop, heappush
from typing import Any

from stretto.compiler.order.kernels.arrays import Ints, Tables
from stretto.compiler.order.kernels.jit import compiled

FOREVER = 1 << 60
URGENT = 500  # the score of a weight gradient when more than `eager` wait


@compiled
def decode(
    t: Tables,
    key: Ints,
    period: Ints,
    eager: Ints,
    cap: Ints,
    look: int,
    reserve: bool,
    pairing: bool,
    word: Ints,
    size: Ints,
    begin: Ints,
    free: Ints,
    end: Ints,
) -> int:
    """Fill `word` (units, rank r's from `word_at[r]` on, `size[r]` of them), `begin` and `free`
    (ticks, by rank: first start and last end) and `end` (ticks, by place; -1 for what never ran).
    Returns the makespan, or -1 if it got stuck. `look` in 64ths of the duration of what would be
    started instead."""
    letters, ranks, places, stages = len(t.rank), len(t.limit), len(t.ticks), len(t.rank) // 3
    for x in range(places):
        end[x] = -1
    done = [0] * letters
    merged = [0] * stages
    held = [0] * ranks
    flying = [0] * ranks  # grains of forwards whose backward is to come
    waiting = [0] * ranks  # weight gradients that could run
    freeable = [0] * ranks  # grains that they would give back
    idle = [False] * ranks
    events = [(0, r) for r in range(ranks)]
    for r in range(ranks):
        size[r] = 0
        free[r] = 0
        begin[r] = 0
    has_extra, has_partner, can_pair = len(t.extra_at) > 1, len(t.partner) > 0, len(t.pair) > 0
    left, makespan = 0, 0
    for x in range(letters):
        left += t.count[x]
    while events:
        now, r = heappop(events)
        if now < free[r]:
            continue
        best, best_score, best_mate, best_ticks = -1, FOREVER, -1, 0
        soon = FOREVER  # the earliest start still to come
        late, late_score = FOREVER, FOREVER  # that of the best still to come
        for at in range(t.letter_at[r], t.letter_at[r + 1]):
            x = t.letter[at]
            n = done[x]
            kind = x % 3
            g = x // 3
            if kind == 2:
                n_left = t.count[x] - n - (merged[g] if t.joint[g] >= 0 else 0)
                if n_left <= 0 or n + merged[g] >= done[x - 1]:
                    continue
            elif n >= t.count[x]:
                continue
            place = t.base[x] + n
            mate = -1
            if has_partner and kind != 2 and t.partner[place] >= 0:
                if kind == 1:
                    continue  # its forward speaks for both
                mate = t.partner[place]
                for bt in range(t.letter_at[r], t.letter_at[r + 1]):
                    y = t.letter[bt]
                    if y % 3 == 1 and t.base[y] <= mate < t.base[y] + t.count[y]:
                        late_mate = t.base[y] + done[y] != mate or done[y - 1] < t.own[mate]
                        mate = -2 if late_mate else y
                        break
                if mate == -2:
                    continue
            if kind == 1 and done[x - 1] < t.own[place]:
                continue
            if kind == 0:
                if held[r] + t.take[place] > t.limit[r]:
                    continue
                if flying[r] + t.take[place] > cap[r]:
                    continue
                if (
                    reserve
                    and t.many[r] > 1
                    and not _admits(t, r, x, n, done, held[r] - freeable[r])
                ):
                    continue
            ready = 0
            for which in range(2):
                y = x if which == 0 else mate
                if y < 0:
                    break
                place_y = t.base[y] + done[y]
                for k in range(t.need_at[y], t.need_at[y + 1]):
                    e = end[t.base[t.need[k]] + done[y]]
                    if e < 0:
                        ready = FOREVER
                        break
                    if e + t.need_lag[k] > ready:
                        ready = e + t.need_lag[k]
                if has_extra and ready < FOREVER:
                    for k in range(t.extra_at[place_y], t.extra_at[place_y + 1]):
                        e = end[t.extra[k]]
                        if e < 0:
                            ready = FOREVER
                            break
                        if e + t.extra_lag[k] > ready:
                            ready = e + t.extra_lag[k]
            if ready == FOREVER:
                continue
            score = key[x] + n * period[x]
            if kind == 2 and waiting[r] > eager[r]:
                score = URGENT
            if ready <= now:
                if score < best_score:
                    best, best_score, best_mate = x, score, mate
            else:
                if ready < soon:
                    soon = ready
                if score < late_score:
                    late, late_score = ready, score
        if best < 0:
            idle[r] = True
            if soon < FOREVER:
                heappush(events, (soon, r))
            continue
        place = t.base[best] + done[best]
        best_ticks = t.ticks[place]
        if late_score < best_score and (late - now) * 64 < look * best_ticks:
            idle[r] = True
            heappush(events, (late, r))
            continue
        if can_pair and pairing and best_mate < 0 and best % 3 != 2:
            alone = best
            best, best_mate = _mate(
                t, r, best, done, end, held[r], cap[r] - flying[r], now, key, period
            )
            if reserve and best_mate >= 0 and t.many[r] > 1:
                x = best if best % 3 == 0 else best_mate
                if not _admits(t, r, x, done[x], done, held[r] - freeable[r]):
                    best, best_mate = alone, -1
        unit = best
        if best_mate >= 0:
            unit = t.pair[best // 3 * stages + best_mate // 3]
            best_ticks = t.unit_ticks[unit]
        idle[r] = False
        stop = now + best_ticks
        if best_mate < 0:
            best_ticks = t.ticks[t.base[best] + done[best]]
            stop = now + best_ticks
        if size[r] == 0:
            begin[r] = now
        word[t.word_at[r] + size[r]] = unit
        size[r] += 1
        free[r] = stop
        if stop > makespan:
            makespan = stop
        for which in range(2):
            y = best if which == 0 else best_mate
            if y < 0:
                break
            place = t.base[y] + done[y]
            end[place] = stop
            done[y] += 1
            left -= 1
            held[r] += t.take[place] - t.give[place]
            kind = y % 3
            if kind == 0 and t.give[place] == 0:
                flying[r] += t.take[place]
            elif kind == 1:
                flying[r] -= t.take[t.base[y - 1] + done[y] - 1]
            if kind == 1 and t.count[y + 1] > 0:
                kept = t.give[t.base[y + 1]]
                if t.merged[unit]:
                    merged[y // 3] += 1
                    held[r] -= kept
                    left -= 1
                elif t.whole[place]:
                    merged[y // 3] += 1
                else:
                    waiting[r] += 1
                    freeable[r] += kept
            elif kind == 2:
                waiting[r] -= 1
                freeable[r] -= t.give[place]
            for k in range(t.next_at[y], t.next_at[y + 1]):
                other = t.rank[t.next[k]]
                if idle[other]:
                    heappush(events, (stop + t.next_lag[k], other))
            if has_extra:
                for other in range(ranks):
                    if idle[other]:
                        heappush(events, (stop, other))
        heappush(events, (stop, r))
    return makespan if left == 0 else -1


@compiled
def _admits(t: Tables, r: int, x: int, n: int, done: Any, bound_up: int) -> bool:
    """Whether, with forward n of letter x admitted, the micro-batches under way on rank r can
    still finish one after the other, each with what those before it have given back (a banker's
    question). `bound_up`: grains held that no waiting W can give back."""
    many, most, first, last, jobs = t.slices, 0, FOREVER, n // t.slices, 0
    for at in range(t.letter_at[r], t.letter_at[r + 1]):
        y = t.letter[at]
        if y % 3 != 0:
            continue
        most += t.take[t.base[y]] * many
        jobs = max(jobs, t.job[y // 3] + 1)
        over = done[y + 1] if t.count[y + 1] > 0 else done[y]
        if over < t.count[y]:
            first = min(first, over // many)
        last = max(last, (done[y] - 1) // many)
    free = t.limit[r] - bound_up - t.take[t.base[x] + n]
    oldest = True
    for m in range(first, last + 1):
        for job in range(jobs):
            needs, holds, open_ = 0, 0, False
            for at in range(t.letter_at[r], t.letter_at[r + 1]):
                y = t.letter[at]
                if y % 3 != 0 or t.job[y // 3] != job or m * many >= t.count[y]:
                    continue
                begun = max(0, min(many, done[y] - m * many))
                over = begun
                if t.count[y + 1] > 0:
                    over = max(0, min(many, done[y + 1] - m * many))
                if over < many:
                    open_ = True
                if y == x and n // many == m:
                    begun += 1
                needs += t.take[t.base[y]] * (many - begun)
                if t.count[y + 1] > 0:
                    holds += t.take[t.base[y]] * (begun - over)
            if open_:
                if oldest and job == t.job[x // 3] and m == n // many:
                    return True
                oldest = False
                if needs > free:
                    return False
                free += holds
                if free >= most:
                    return True
    return True


@compiled
def _mate(
    t: Tables,
    r: int,
    best: int,
    done: Any,
    end: Ints,
    held: int,
    room: int,
    now: int,
    key: Ints,
    period: Ints,
) -> tuple[int, int]:
    """What letter `best` could overlap with right now: (forward, backward), or (best, -1)."""
    stages = len(t.rank) // 3
    found, score = -1, FOREVER
    for at in range(t.letter_at[r], t.letter_at[r + 1]):
        y = t.letter[at]
        if y % 3 != 1 - best % 3 or done[y] >= t.count[y]:
            continue
        forward, back = (best, y) if best % 3 == 0 else (y, best)
        if t.pair[forward // 3 * stages + back // 3] < 0:
            continue
        place = t.base[forward] + done[forward]
        if (
            held + t.take[place] > t.limit[r]
            or t.take[place] > room
            or done[back - 1] < t.own[t.base[back] + done[back]]
        ):
            continue
        ready = 0
        for k in range(t.need_at[y], t.need_at[y + 1]):
            e = end[t.base[t.need[k]] + done[y]]
            ready = FOREVER if e < 0 else max(ready, e + t.need_lag[k])
        if ready <= now and key[y] + done[y] * period[y] < score:
            found, score = y, key[y] + done[y] * period[y]
    if found < 0:
        return best, -1
    return (best, found) if best % 3 == 0 else (found, best)
