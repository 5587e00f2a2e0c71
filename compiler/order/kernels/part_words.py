"""The words of all lanes, and what moving one part within its lane does to them: the loops of the
annealing of parts.

Beside the words stands one sequence of all operations, each behind what it waits for, with the
longest path to each (`head`, its start) and from each (`tail`, with itself) in ticks. A part that
moves from a to b changes which operations lead to which only between these two places of the
sequence. So only this stretch is put in order and timed anew, and what comes after it counts with
its tails: a move that makes the step longer is known for it after a few dozen operations, however
long the step is. What is accepted is then spread as far as anything changes.
"""

from dataclasses import dataclass

from stretto.compiler.order.kernels.annealing import Cooling, copy, heat, threshold
from stretto.compiler.order.kernels.bundle import Bundle, Ints
from stretto.compiler.order.kernels.jit import compiled, inner
from stretto.compiler.order.kernels.moves import draw


@dataclass(frozen=True, slots=True)
class PartArrays(Bundle):
    """What does not change. By lane: `first` place of its word (one more at the end), `most` grains
    where its sequence alone says what its rank holds, else -1. By operation: `lane`, `ticks`,
    `kin`; its rows of `before` and `after` (with `before_lag`, `after_lag`), of the holdings that
    it takes (`takes`) and that it helps to free (`frees`) begin at `…_at`. By holding: `grains` and
    how many operations must end to free it (`enders`), its rank (`owner`), and `taken_by`;
    the operations that free it are rows of `ended_by`. By rank `limit`, or -1 where
    there is none or where a lane says it all."""

    first: Ints
    most: Ints
    lane: Ints
    ticks: Ints
    kin: Ints
    before_at: Ints
    before: Ints
    before_lag: Ints
    after_at: Ints
    after: Ints
    after_lag: Ints
    takes_at: Ints
    takes: Ints
    frees_at: Ints
    frees: Ints
    grains: Ints
    enders: Ints
    owner: Ints
    taken_by: Ints
    ended_by_at: Ints
    ended_by: Ints
    limit: Ints


@dataclass(frozen=True, slots=True)
class PartWords(Bundle):
    """What changes. `word`: the operations of all lanes, lane after lane; `at` where each stands
    there. `order`: all operations, each behind what it waits for; `place` where each stands there.
    `head`, `tail`: see the module. `trial`, `mark`, `spare`, `open`: scratch. `best`: the word of
    the least makespan so far, which is `least[0]`. `random`: the generator's state.
    `stop_now`: 1 once the annealing is to return."""

    word: Ints
    at: Ints
    order: Ints
    place: Ints
    head: Ints
    tail: Ints
    trial: Ints
    mark: Ints
    spare: Ints
    open: Ints
    best: Ints
    least: Ints
    random: Ints
    stop_now: Ints


@inner
def ready(s: PartArrays, w: PartWords, times: Ints, z: int) -> int:
    """When z can start, where the others start at these times."""
    t = 0
    p = w.at[z]
    if p > s.first[s.lane[z]]:
        y = w.word[p - 1]
        t = times[y] + s.ticks[y]
    for k in range(s.before_at[z], s.before_at[z + 1]):
        y = s.before[k]
        e = times[y] + s.ticks[y] + s.before_lag[k]
        if e > t:
            t = e
    return int(t)


@inner
def left(s: PartArrays, w: PartWords, z: int) -> int:
    """The longest path from the start of z to the end."""
    t = 0
    p = w.at[z] + 1
    if p < s.first[s.lane[z] + 1]:
        t = w.tail[w.word[p]]
    for k in range(s.after_at[z], s.after_at[z + 1]):
        e = w.tail[s.after[k]] + s.after_lag[k]
        if e > t:
            t = e
    return int(t + s.ticks[z])


@inner
def replayed(s: PartArrays, w: PartWords) -> int:
    """Time everything anew, from `order`; the makespan."""
    n = len(w.order)
    makespan = 0
    for k in range(n):
        z = w.order[k]
        t = ready(s, w, w.head, z)
        w.head[z] = t
        w.trial[z] = t
        makespan = max(makespan, t + s.ticks[z])
    for k in range(n - 1, -1, -1):
        z = w.order[k]
        w.tail[z] = left(s, w, z)
    return makespan


@inner
def shift_part(w: PartWords, a: int, b: int) -> None:
    """Move what stands at a in the words to b, in the same lane."""
    x = w.word[a]
    step = 1 if b > a else -1
    p = a
    while p != b:
        y = w.word[p + step]
        w.word[p] = y
        w.at[y] = p
        p += step
    w.word[b] = x
    w.at[x] = b


@inner
def lane_fits(s: PartArrays, w: PartWords, lane: int) -> bool:
    """Whether the memory of a lane that says it all keeps to its limit."""
    held = 0
    for p in range(s.first[lane], s.first[lane + 1]):
        z = w.word[p]
        for k in range(s.takes_at[z], s.takes_at[z + 1]):
            h = s.takes[k]
            w.open[h] = s.enders[h]
            held += s.grains[h]
        if held > s.most[lane]:
            return False
        for k in range(s.frees_at[z], s.frees_at[z + 1]):
            h = s.frees[k]
            w.open[h] -= 1
            if w.open[h] == 0:
                held -= s.grains[h]
    return True


@inner
def ranks_fit(s: PartArrays, w: PartWords) -> bool:
    """Whether at the planned times no rank exceeds its limit, of those where more than one lane
    matters. (Operations of length 0 count as if they took first and freed last.)"""
    for h in range(len(s.grains)):
        rank = s.owner[h]
        if s.limit[rank] < 0:
            continue
        now = w.head[s.taken_by[h]]
        held = 0
        for g in range(len(s.grains)):
            if s.owner[g] != rank or w.head[s.taken_by[g]] > now:
                continue
            for k in range(s.ended_by_at[g], s.ended_by_at[g + 1]):
                y = s.ended_by[k]
                end = w.head[y] + s.ticks[y]
                if end > now or (end == now and s.ticks[y] == 0):
                    held += s.grains[g]
                    break
        if held > s.limit[rank]:
            return False
    return True


@inner
def later(s: PartArrays, w: PartWords, x: int, lo: int, hi: int) -> bool:
    """Put the stretch from `lo`, where x stands, to `hi` in order, in `spare`: x and what follows
    it go behind the rest. False if the operation at `hi` would have to follow x: a circle."""
    kept = 0
    marked = hi - lo
    w.mark[x] = 1
    for k in range(lo + 1, hi + 1):
        z = w.order[k]
        found = 0
        p = w.at[z]
        if p > s.first[s.lane[z]]:
            y = w.word[p - 1]
            if lo <= w.place[y] < k:
                found = w.mark[y]
        q = s.before_at[z]
        while found == 0 and q < s.before_at[z + 1]:
            y = s.before[q]
            if w.place[y] >= lo:
                found = w.mark[y]
            q += 1
        w.mark[z] = found
        if found == 0:
            w.spare[kept] = z
            kept += 1
    if w.mark[w.order[hi]] == 1:
        return False
    w.spare[kept] = x
    for k in range(lo + 1, hi + 1):
        z = w.order[k]
        if w.mark[z] == 1:
            kept += 1
            w.spare[kept] = z
    return kept == marked


@inner
def sooner(s: PartArrays, w: PartWords, x: int, lo: int, hi: int) -> bool:
    """The same where x, which stands at `hi`, and what leads to it go before the rest. False if
    the operation at `lo` would have to come before x."""
    w.mark[x] = 1
    many = 1
    for k in range(hi - 1, lo - 1, -1):
        z = w.order[k]
        found = 0
        p = w.at[z] + 1
        if p < s.first[s.lane[z] + 1]:
            y = w.word[p]
            if k < w.place[y] <= hi:
                found = w.mark[y]
        q = s.after_at[z]
        while found == 0 and q < s.after_at[z + 1]:
            y = s.after[q]
            if w.place[y] <= hi:
                found = w.mark[y]
            q += 1
        w.mark[z] = found
        many += found
    if w.mark[w.order[lo]] == 1:
        return False
    a = 0
    b = many
    for k in range(lo, hi + 1):
        z = w.order[k]
        if w.mark[z] == 1:
            w.spare[a] = z
            a += 1
        else:
            w.spare[b] = z
            b += 1
    return True


@inner
def through(s: PartArrays, w: PartWords, lo: int, hi: int, most: float) -> int:
    """Time the stretch as it stands in `spare`, in `trial`; the longest path through it, or -1 as
    soon as one is longer than `most`."""
    longest = 0
    for k in range(hi - lo + 1):
        z = w.spare[k]
        t = ready(s, w, w.trial, z)
        w.trial[z] = t
        end = t + s.ticks[z]
        longest = max(longest, end)
        p = w.at[z] + 1
        if p < s.first[s.lane[z] + 1]:
            y = w.word[p]
            if w.place[y] > hi:
                longest = max(longest, end + w.tail[y])
        for q in range(s.after_at[z], s.after_at[z + 1]):
            y = s.after[q]
            if w.place[y] > hi:
                longest = max(longest, end + s.after_lag[q] + w.tail[y])
        if longest > most:
            for j in range(k + 1):
                z = w.spare[j]
                w.trial[z] = w.head[z]
            return -1
    return longest


@inner
def accept(s: PartArrays, w: PartWords, lo: int, hi: int) -> int:
    """Take over the stretch that was timed, and spread what it changes; the new makespan."""
    reach = hi
    for k in range(hi - lo + 1):
        z = w.spare[k]
        w.order[lo + k] = z
        w.head[z] = w.trial[z]
    for k in range(lo, hi + 1):
        w.place[w.order[k]] = k
    for k in range(lo, hi + 1):
        reach = max(reach, furthest(s, w, w.order[k]))
    k = hi + 1
    while k <= reach:
        z = w.order[k]
        t = ready(s, w, w.head, z)
        if t != w.head[z]:
            w.head[z] = t
            w.trial[z] = t
            reach = max(reach, furthest(s, w, z))
        k += 1
    reach = lo
    for k in range(hi, lo - 1, -1):
        z = w.order[k]
        w.tail[z] = left(s, w, z)
        reach = min(reach, nearest(s, w, z))
    k = lo - 1
    while k >= reach:
        z = w.order[k]
        t = left(s, w, z)
        if t != w.tail[z]:
            w.tail[z] = t
            reach = min(reach, nearest(s, w, z))
        k -= 1
    makespan = 0
    for lane in range(len(s.first) - 1):
        if s.first[lane + 1] > s.first[lane]:
            z = w.word[s.first[lane + 1] - 1]
            makespan = max(makespan, w.head[z] + s.ticks[z])
    return makespan


@inner
def furthest(s: PartArrays, w: PartWords, z: int) -> int:
    """The last place of what waits for z directly."""
    found = -1
    p = w.at[z] + 1
    if p < s.first[s.lane[z] + 1]:
        found = w.place[w.word[p]]
    for q in range(s.after_at[z], s.after_at[z + 1]):
        found = max(found, w.place[s.after[q]])
    return int(found)


@inner
def nearest(s: PartArrays, w: PartWords, z: int) -> int:
    """The first place of what z waits for directly."""
    found = len(w.order)
    p = w.at[z]
    if p > s.first[s.lane[z]]:
        found = w.place[w.word[p - 1]]
    for q in range(s.before_at[z], s.before_at[z + 1]):
        found = min(found, w.place[s.before[q]])
    return int(found)


@inner
def passes(s: PartArrays, w: PartWords, a: int, b: int) -> int:
    """Whether what stands at a may go to b: 0 if it would pass its like, 2 if what is held changes
    so that the lane's memory must be looked at, else 1."""
    x = w.word[a]
    step = 1 if b > a else -1
    takes = s.takes_at[x + 1] > s.takes_at[x]
    frees = s.frees_at[x + 1] > s.frees_at[x]
    found = 1
    p = a
    while p != b:
        p += step
        y = w.word[p]
        if s.kin[x] >= 0 and s.kin[y] == s.kin[x]:
            return 0
        if step < 0:
            touched = takes and s.frees_at[y + 1] > s.frees_at[y]
        else:
            touched = frees and s.takes_at[y + 1] > s.takes_at[y]
        if touched and s.most[s.lane[x]] >= 0:
            found = 2
    return found


@inner
def move_part(s: PartArrays, w: PartWords, a: int, b: int, most: float) -> int:
    """Move what stands at a to b if no path through what that changes gets longer than `most`; the
    new makespan, or -1 where nothing was changed."""
    allowed = passes(s, w, a, b)
    if allowed == 0:
        return -1
    x = w.word[a]
    y = w.word[b]
    shift_part(w, a, b)
    fine = allowed == 1 or lane_fits(s, w, s.lane[x])
    lo, hi = min(w.place[x], w.place[y]), max(w.place[x], w.place[y])
    if fine:
        fine = later(s, w, x, lo, hi) if b > a else sooner(s, w, x, lo, hi)
        fine = fine and through(s, w, lo, hi, most) >= 0
    if not fine:
        shift_part(w, b, a)
        return -1
    return accept(s, w, lo, hi)


@inner
def choose(s: PartArrays, w: PartWords, makespan: int, eager: int) -> int:
    """An operation to move: mostly one on a longest path, of 100 so many as `eager` says."""
    n = len(w.order)
    x = draw(w.random, n)
    if draw(w.random, 100) < eager:
        for _ in range(40):
            if w.head[x] + w.tail[x] == makespan:
                break
            x = draw(w.random, n)
    return x


@compiled
def anneal_parts(
    s: PartArrays, w: PartWords, cooling: Cooling, eager: int, reach: int, mixed: bool, enough: int
) -> int:
    """So many moves of single parts, each to a place near its own; the least makespan seen, whose
    words are in `best`. `mixed`: whether memory must be looked at by time. Ends at `enough`."""
    makespan = replayed(s, w)
    if w.least[0] < 0 or makespan < w.least[0]:
        w.least[0] = makespan
        copy(w.word, w.best)
    warmth = cooling.hot
    for move in range(cooling.moves):
        if w.stop_now[0] > 0:
            break
        if move % 64 == 0:
            warmth = heat(cooling, move)
        x = choose(s, w, makespan, eager)
        a = w.at[x]
        d = 1
        while d < reach and draw(w.random, 100) < 65:
            d += 1
        b = a + d if draw(w.random, 2) == 0 else a - d
        lane = s.lane[x]
        b = max(s.first[lane], min(s.first[lane + 1] - 1, b))
        if b == a:
            continue
        most = threshold(makespan, warmth, w.random)
        new = move_part(s, w, a, b, most)
        if new < 0:
            continue
        if mixed and not ranks_fit(s, w):
            new = move_part(s, w, b, a, float(1 << 60))
        makespan = new
        if makespan < w.least[0]:
            w.least[0] = makespan
            copy(w.word, w.best)
            if makespan <= enough:
                break
    return int(w.least[0])
