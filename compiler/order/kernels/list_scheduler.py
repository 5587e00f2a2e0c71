"""List scheduling: whenever a rank falls idle it starts the operation with the least score among
those that can start now. One loop, plain integers, no object per operation, and written so that it
can be compiled.

The score of operation n of class x is key[x] + n · period[x]. A rank may leave itself idle for
something better that is known to come soon (`lookahead`), do weight gradients once more than
`max_pending_w` of them wait, and pair what may overlap (`pairing`). `in_flight_cap` limits the
activations in flight (forward done, backward not): 1F1B is such a cap, and nothing but the memory
limit then says how long weight gradients wait.

With `reserve` it never gets stuck, at any limit that can be met: a forward is admitted only if the
micro-batches that are under way on the rank can still finish one after the other, in an order that
is the same everywhere (index, then pipeline). Then the oldest one of all can always go on.
"""

from dataclasses import dataclass

from stretto.compiler.order.kernels.arrays import Arrays
from stretto.compiler.order.kernels.bundle import Bundle, Ints
from stretto.compiler.order.kernels.heap import drop_first, push
from stretto.compiler.order.kernels.instance import NO_LIMIT
from stretto.compiler.order.kernels.jit import counted, doubled, inner, ints, part
from stretto.compiler.order.kernels.op_classes import (
    BACK,
    F,
    W,
    kind_of,
    stage_of,
    stages_in,
)
from stretto.compiler.order.kernels.replay import NOTHING, data_ready, ready

FOREVER = 1 << 60
URGENT = 500
"""The score of a weight gradient when more than `max_pending_w` wait."""

ALONE, EXCLUDED = -1, -2
"""In place of a partner's class: the operation runs alone; it may not run now."""


@dataclass(frozen=True, slots=True)
class Policy(Bundle):
    """How to choose: `key` and `period` by class, `max_pending_w` (operations) and `in_flight_cap`
    (grains) by rank, `lookahead` in 64ths of the duration of what would be started instead. See
    the module."""

    key: Ints
    period: Ints
    max_pending_w: Ints
    in_flight_cap: Ints
    lookahead: int
    reserve: bool
    pairing: bool


@dataclass(frozen=True, slots=True)
class ListState(Bundle):
    """A list schedule in the making. `sequence`: the flat sequence, rank r's units from
    `sequence_at[r]` on, `size[r]` of them. By rank `begin` and `stop` (ticks: first start, last
    end), `held` (grains), `in_flight` (grains of forwards whose backward is to come), `pending_w`
    (weight gradients that could run), `freeable` (grains that these would give back), `idle` (1:
    it waits to be told that something has ended). `done` by class, `fused` (full backwards) by
    stage, `end` (ticks; -1 for what has not run) by op index. `whom`: ranks that are to look
    again, `when` (ticks). `live`: of rank r, from its `class_at` on, `live_on[r]` classes, `listed`
    by class, among which are all whose next operation could run as far as counts and data tell.
    `most` by rank: the grains that all stages of one micro-batch take.
    `totals`: the events to come, the makespan so far (ticks), the operations to come; the steps
    that were made since the memory was, and at most how many may be. `stop_now`: 1 once it is to
    return, with nothing."""

    sequence: Ints
    size: Ints
    begin: Ints
    stop: Ints
    held: Ints
    in_flight: Ints
    pending_w: Ints
    freeable: Ints
    idle: Ints
    done: Ints
    fused: Ints
    end: Ints
    when: Ints
    whom: Ints
    live: Ints
    live_on: Ints
    listed: Ints
    most: Ints
    totals: Ints
    stop_now: Ints


def list_state(t: Arrays, stop: Ints | None = None, steps: int = FOREVER) -> ListState:
    """Memory for list schedules, which end when `stop` becomes 1, or all together after so many
    steps: classes looked at for one operation to start."""
    size, ranks, classes = len(t.ticks), len(t.limit), len(t.rank)
    told = len(t.next) + ranks + 1
    lengths = [*[ranks] * 8, classes, stages_in(classes), size, told, told]  # after the first
    lengths += [len(t.op_class), ranks, classes]
    made = [ints([NOTHING] * size), *(ints([0] * many) for many in lengths)]
    made.append(ints([_grains(t, r) for r in range(ranks)]))
    made.append(ints([0, 0, 0, 0, steps]))
    made.append(ints([0]) if stop is None else stop)
    return ListState(*made)


def _grains(t: Arrays, r: int) -> int:
    """What all stages of one micro-batch take on rank r."""
    here = [t.op_class[at] for at in range(t.class_at[r], t.class_at[r + 1])]
    return t.slices * sum([int(t.alloc[t.base[x]]) for x in here if kind_of(x) == F])


@counted
def list_schedule(t: Arrays, policy: Policy, s: ListState) -> int:
    """Make the list schedule of the policy. Returns the makespan (ticks), or -1 if it got
    stuck."""
    _reset(t, s)
    times, ranks = doubled(s.when), doubled(s.whom)
    for r in range(len(s.size)):
        times[r], ranks[r] = 0, r
    s.totals[0], s.totals[1], s.totals[2] = len(s.size), 0, len(s.end)
    _run_events(t, policy, s, times, ranks)
    while s.totals[0] > 0 and s.stop_now[0] == 0 and s.totals[3] <= s.totals[4]:
        times, ranks = doubled(times), doubled(ranks)
        _run_events(t, policy, s, times, ranks)
    return s.totals[1] if s.totals[2] == 0 else -1


@inner
def _run_events(t: Arrays, policy: Policy, s: ListState, times: Ints, ranks: Ints) -> None:
    """Run the events of the heap (`times`, `ranks`) and those that follow, until none is left or
    there is no room for more."""
    stops, room = s.stop, len(times) - len(s.when)
    waiting, makespan, left = s.totals[0], s.totals[1], s.totals[2]
    while 0 < waiting <= room and s.stop_now[0] == 0 and s.totals[3] <= s.totals[4]:
        now, r = times[0], ranks[0]
        drop_first(times, ranks, waiting)
        waiting -= 1
        if now < stops[r]:
            continue
        started, many = _step(t, policy, s, r, now)
        left -= started
        makespan = max(makespan, stops[r])
        for k in range(many):
            push(times, ranks, waiting, s.when[k], s.whom[k])
            waiting += 1
    s.totals[0], s.totals[1], s.totals[2] = waiting, makespan, left


@part
def _step(t: Arrays, policy: Policy, s: ListState, r: int, now: int) -> tuple[int, int]:
    """Let rank r look for something to start. How many operations it starts, and how many ranks
    are to look again, `whom` and `when`."""
    best, mate, again = _pick(t, policy, s, r, now)
    if best < 0:
        s.idle[r] = 1
        s.when[0] = again
        s.whom[0] = r
        return 0, 1 if again < FOREVER else 0
    started = _start(t, s, r, now, best, mate)
    return started, _tell(t, s, r, best, mate)


@inner
def _reset(t: Arrays, s: ListState) -> None:
    for p in range(len(s.end)):
        s.end[p] = -1
        s.sequence[p] = -1
    for r in range(len(s.size)):
        s.size[r] = 0
        s.begin[r] = 0
        s.stop[r] = 0
        s.held[r] = 0
        s.in_flight[r] = 0
        s.pending_w[r] = 0
        s.freeable[r] = 0
        s.idle[r] = 0
        s.live_on[r] = t.class_at[r + 1] - t.class_at[r]
    for at in range(len(s.live)):
        s.live[at] = t.op_class[at]
        s.listed[t.op_class[at]] = 1
    for x in range(len(s.done)):
        s.done[x] = 0
    for g in range(len(s.fused)):
        s.fused[g] = 0


@part
def _pick(t: Arrays, policy: Policy, s: ListState, r: int, now: int) -> tuple[int, int, int]:
    """What rank r starts now: a class and that of its partner (ALONE where it has none). Or -1,
    where it starts nothing, and when it is to look again (ticks; FOREVER: when told)."""
    best, mate, again = _best(t, policy, s, r, now)
    if best < 0:
        return best, mate, again
    if len(t.pair) > 0 and policy.pairing and mate < 0 and kind_of(best) != W:
        mate = _mate(t, policy, s, r, best, now)
        if policy.reserve and mate >= 0 and t.stages_on[r] > 1:
            forward = best if kind_of(best) == F else mate
            if not _safe(t, s, r, forward):
                mate = ALONE
    return best, mate, again


@part
def _best(t: Arrays, policy: Policy, s: ListState, r: int, now: int) -> tuple[int, int, int]:
    """The same, but for pairs that nobody wrote: of what can start now the operation with the
    least score, unless a better one is known to come soon."""
    best, best_score, mate = -1, FOREVER, ALONE
    soon = FOREVER  # the earliest start still to come
    late, late_score = FOREVER, FOREVER  # that of the best still to come
    first = kept = t.class_at[r]
    s.totals[3] += s.live_on[r]
    for at in range(first, first + s.live_on[r]):
        x = s.live[at]
        n = s.done[x]
        begin = data_ready(t, x, n, s.end, now) if _due(t, s, x) else NOTHING
        if begin < 0:
            s.listed[x] = 0
            continue
        s.live[kept] = x
        kept += 1
        other = _admissible(t, policy, s, r, x)
        if other == EXCLUDED:
            continue
        if len(t.extra_at) > 1:
            begin = ready(t, x, t.base[x] + n, s.end, now)
        if begin >= 0 and other >= 0:
            begin = ready(t, other, t.base[other] + s.done[other], s.end, begin)
        if begin < 0:
            continue
        score = policy.key[x] + n * policy.period[x]
        if kind_of(x) == W and s.pending_w[r] > policy.max_pending_w[r]:
            score = URGENT
        if begin == now:
            if score < best_score:
                best, best_score, mate = x, score, other
        else:
            if begin < soon:
                soon = begin
            if score < late_score:
                late, late_score = begin, score
    s.live_on[r] = kept - first
    if best < 0:
        return -1, ALONE, soon
    ticks = t.ticks[t.base[best] + s.done[best]]
    if late_score < best_score and (late - now) * 64 < policy.lookahead * ticks:
        return -1, ALONE, late
    return best, mate, now


@part
def _due(t: Arrays, s: ListState, x: int) -> bool:
    """Whether class x has an operation left, and its stage has run what comes before that."""
    n, kind, g = s.done[x], kind_of(x), stage_of(x)
    if kind == W:
        left = t.count[x] - n - (s.fused[g] if t.full_backward[g] >= 0 else 0)
        return bool(left > 0 and n + s.fused[g] < s.done[x - W + BACK])
    if n >= t.count[x]:
        return False
    return bool(kind == F or s.done[x - BACK] >= t.forwards_before[t.base[x] + n])


@part
def _admissible(t: Arrays, policy: Policy, s: ListState, r: int, x: int) -> int:
    """Whether the next operation of class x, which is due, may run on rank r once its data is
    there: the class of the one that it was written to overlap with, ALONE, or EXCLUDED."""
    n, kind = s.done[x], kind_of(x)
    if kind == W:
        return ALONE
    op, mate = t.base[x] + n, ALONE
    if len(t.partner) > 0 and t.partner[op] >= 0:
        if kind == BACK:
            return EXCLUDED  # its forward speaks for both
        mate = _partner(t, s, r, t.partner[op])
        if mate == EXCLUDED:
            return EXCLUDED
    if kind == BACK:
        return ALONE
    if s.held[r] + t.alloc[op] > t.limit[r]:
        return EXCLUDED
    if s.in_flight[r] + t.alloc[op] > policy.in_flight_cap[r]:
        return EXCLUDED
    if policy.reserve and t.stages_on[r] > 1 and not _safe(t, s, r, x):
        return EXCLUDED
    return mate


@inner
def _partner(t: Arrays, s: ListState, r: int, op: int) -> int:
    """The class of the backward `op`, if it is the next of its class and its forwards are over;
    else EXCLUDED."""
    for at in range(t.class_at[r], t.class_at[r + 1]):
        y = t.op_class[at]
        if kind_of(y) == BACK and t.base[y] <= op < t.base[y] + t.count[y]:
            if t.base[y] + s.done[y] != op or s.done[y - BACK] < t.forwards_before[op]:
                return EXCLUDED
            return int(y)
    return EXCLUDED


@part
def _start(t: Arrays, s: ListState, r: int, now: int, best: int, mate: int) -> int:
    """Start the operation, or the pair, now. How many operations that is, a W that a full
    backward takes along included."""
    unit = best
    stop = now + t.ticks[t.base[best] + s.done[best]]
    if mate >= 0:
        forward, backward = (best, mate) if kind_of(best) == F else (mate, best)
        unit = t.pair[stage_of(forward) * len(s.fused) + stage_of(backward)]
        stop = now + t.unit_ticks[unit]
        best, mate = forward, backward
    s.idle[r] = 0
    if s.size[r] == 0:
        s.begin[r] = now
    s.sequence[t.sequence_at[r] + s.size[r]] = unit
    s.size[r] += 1
    s.stop[r] = stop
    many = _run(t, s, r, best, stop, t.fused[unit] > 0)
    if mate >= 0:
        many += _run(t, s, r, mate, stop, t.fused[unit] > 0)
    return many


@part
def _run(t: Arrays, s: ListState, r: int, x: int, stop: int, fused: bool) -> int:
    """Account for the next operation of class x, which ends at `stop`; `fused`: a backward takes
    its W along. How many operations that is."""
    op, kind = t.base[x] + s.done[x], kind_of(x)
    s.end[op] = stop
    s.done[x] += 1
    s.held[r] += t.alloc[op] - t.free[op]
    if kind == F:
        if t.free[op] == 0:
            s.in_flight[r] += t.alloc[op]
        return 1
    if kind == W:
        s.pending_w[r] -= 1
        s.freeable[r] -= t.free[op]
        return 1
    f, w = x - BACK, x - BACK + W
    s.in_flight[r] -= t.alloc[t.base[f] + s.done[x] - 1]
    if t.count[w] > 0:
        kept = t.free[t.base[w]]
        if fused:
            s.fused[stage_of(x)] += 1
            s.held[r] -= kept
            return 2
        if t.is_full[op]:
            s.fused[stage_of(x)] += 1
        else:
            s.pending_w[r] += 1
            s.freeable[r] += kept
    return 1


@part
def _tell(t: Arrays, s: ListState, r: int, best: int, mate: int) -> int:
    """Have idle ranks look again when what rank r has just started reaches them, and rank r when
    it is over: `whom` and `when`, and how many these are."""
    stop, many = s.stop[r], 1
    s.when[0] = stop
    s.whom[0] = r
    for which in range(2):
        y = best if which == 0 else mate
        if y >= 0:
            if kind_of(y) != W:
                _list(t, s, y + 1)  # of a forward its backward, of that its weight gradient
            for k in range(t.next_at[y], t.next_at[y + 1]):
                _list(t, s, t.next[k])
                other = t.rank[t.next[k]]
                if s.idle[other] > 0:
                    s.when[many] = stop + t.next_lag[k]
                    s.whom[many] = other
                    many += 1
    if len(t.extra_at) > 1:
        for other in range(len(s.idle)):
            if s.idle[other] > 0:
                s.when[many] = stop
                s.whom[many] = other
                many += 1
    return many


@inner
def _list(t: Arrays, s: ListState, x: int) -> None:
    """Have the rank of class x look at it again, in its place among the classes."""
    if s.listed[x] > 0 or t.count[x] == 0:
        return
    r = t.rank[x]
    at = t.class_at[r] + s.live_on[r]
    while at > t.class_at[r] and s.live[at - 1] > x:
        s.live[at] = s.live[at - 1]
        at -= 1
        s.totals[3] += 1
    s.live[at] = x
    s.live_on[r] += 1
    s.listed[x] = 1


@inner
def _safe(t: Arrays, s: ListState, r: int, x: int) -> bool:
    """Whether, with the next forward of class x admitted, the micro-batches under way on rank r
    can still finish one after the other, each with what those before it have given back. This is
    the banker's algorithm; most often there is room for everything, and nothing is walked."""
    if t.limit[r] >= NO_LIMIT:
        return True
    locked = s.held[r] - s.freeable[r]  # what no weight gradient that waits can give back
    free = t.limit[r] - locked - t.alloc[t.base[x] + s.done[x]]
    most = s.most[r]
    if free >= most:
        return True
    many, first, last, jobs = t.slices, FOREVER, s.done[x] // t.slices, 0
    s.totals[3] += t.class_at[r + 1] - t.class_at[r]
    for at in range(t.class_at[r], t.class_at[r + 1]):
        y = t.op_class[at]
        if kind_of(y) != F:
            continue
        jobs = max(jobs, t.job[stage_of(y)] + 1)
        over = s.done[y + BACK] if t.count[y + BACK] > 0 else s.done[y]
        if over < t.count[y]:
            first = min(first, over // many)
        last = max(last, (s.done[y] - 1) // many)
    oldest = True
    for m in range(first, last + 1):
        for job in range(jobs):
            needs, holds, waiting = _account(t, s, r, x, m, job)
            if waiting:
                if oldest and job == t.job[stage_of(x)] and m == s.done[x] // many:
                    return True
                oldest = False
                if needs > free:
                    return False
                free += holds
                if free >= most:
                    return True
    return True


@inner
def _account(t: Arrays, s: ListState, r: int, x: int, m: int, job: int) -> tuple[int, int, bool]:
    """Of micro-batch m in the pipelines of `job` on rank r, with the next forward of class x
    admitted: the grains that it needs to finish, those that it gives back then, and whether it is
    under way or to come at all."""
    needs, holds, waiting, many = 0, 0, False, t.slices
    s.totals[3] += t.class_at[r + 1] - t.class_at[r]
    for at in range(t.class_at[r], t.class_at[r + 1]):
        y = t.op_class[at]
        if kind_of(y) != F or t.job[stage_of(y)] != job or m * many >= t.count[y]:
            continue
        begun = max(0, min(many, s.done[y] - m * many))
        over = begun
        if t.count[y + BACK] > 0:
            over = max(0, min(many, s.done[y + BACK] - m * many))
        if over < many:
            waiting = True
        if y == x and s.done[x] // many == m:
            begun += 1
        needs += t.alloc[t.base[y]] * (many - begun)
        if t.count[y + BACK] > 0:
            holds += t.alloc[t.base[y]] * (begun - over)
    return needs, holds, waiting


@inner
def _mate(t: Arrays, policy: Policy, s: ListState, r: int, best: int, now: int) -> int:
    """The class of the best operation that the next one of class `best` could overlap with right
    now, or ALONE."""
    room = policy.in_flight_cap[r] - s.in_flight[r]
    found, score = ALONE, FOREVER
    for at in range(t.class_at[r], t.class_at[r + 1]):
        y = t.op_class[at]
        if kind_of(y) != BACK - kind_of(best) or s.done[y] >= t.count[y]:
            continue
        forward, back = (best, y) if kind_of(best) == F else (y, best)
        if t.pair[stage_of(forward) * len(s.fused) + stage_of(back)] < 0:
            continue
        op = t.base[forward] + s.done[forward]
        if (
            s.held[r] + t.alloc[op] > t.limit[r]
            or t.alloc[op] > room
            or s.done[back - BACK] < t.forwards_before[t.base[back] + s.done[back]]
        ):
            continue
        begin = data_ready(t, y, s.done[y], s.end, now)
        mine = policy.key[y] + s.done[y] * policy.period[y]
        if begin == now and mine < score:
            found, score = y, mine
    return found
