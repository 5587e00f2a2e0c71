"""Replay sequences: where each unit starts and ends if every rank runs its sequence top to bottom,
each unit as soon as it can. The inner loop of every search over sequences; compiled where numba is
there.

Positions are those of `Arrays.sequence_at`: a rank's sequence has as many as it has operations, so
that pairs can be merged and split in place; what is not used holds NOTHING.
"""

from dataclasses import dataclass

from stretto.compiler.order.kernels.arrays import Arrays
from stretto.compiler.order.kernels.bundle import Bundle, IntRows, Ints
from stretto.compiler.order.kernels.jit import inner, part
from stretto.compiler.order.kernels.op_classes import BACK, F, W, kind_of, stage_of

NOTHING = -1


@dataclass(frozen=True, slots=True)
class Assigned(Bundle):
    """Which operations the units of a sequence run, by position, as op indices: `first` (the
    forward, or the only one) and `second` (a pair's backward). `seen` (by class) and `fused` (by
    stage) are scratch."""

    first: Ints
    second: Ints
    seen: Ints
    fused: Ints


@dataclass(frozen=True, slots=True)
class Replay(Bundle):
    """What a replay reads: `first` and `second` by position; of each sample of the durations, in
    rows, `rest` (the work of the rank after it, ticks) by position, `since` (the position to begin
    at) by rank, `ticks` by op index, `unit_ticks` by unit. What it writes, in rows too: `start` and
    `stop` (ticks) by position, `end` by op index. The others are scratch: `waiter` by op index,
    else by rank; `waiter` and `blocked` are -1 at first."""

    t: Arrays
    first: Ints
    second: Ints
    since: IntRows
    ticks: IntRows
    unit_ticks: IntRows
    rest: IntRows
    start: IntRows
    stop: IntRows
    end: IntRows
    at: Ints
    waiter: Ints
    following: Ints
    blocked: Ints
    stack: Ints


@inner
def assign(t: Arrays, r: int, last: int, sequence: Ints, into: Assigned) -> bool:
    """Give the units of rank r up to position `last` their operations. False if the sequence
    breaks the memory limit or runs something before what it needs on its own rank."""
    seen, fused = into.seen, into.fused
    for at in range(t.class_at[r], t.class_at[r + 1]):
        seen[t.op_class[at]] = 0
        fused[stage_of(t.op_class[at])] = 0
    held, limit = 0, t.limit[r]
    for p in range(t.sequence_at[r], last + 1):
        u = sequence[p]
        if u < 0:
            continue
        into.second[p] = -1
        x = t.single[u]
        if x >= 0:
            op = t.base[x] + seen[x]
            kind = kind_of(x)
            if kind == F:
                held += t.alloc[op]
                if held > limit:
                    return False
            elif kind == BACK:
                if seen[x - BACK] < t.forwards_before[op]:
                    return False
                if t.is_full[op] > 0:
                    fused[stage_of(x)] += 1
            elif seen[x] + fused[stage_of(x)] >= seen[x - W + BACK]:
                return False
            held -= t.free[op]
            seen[x] += 1
            into.first[p] = op
            continue
        b = t.backward[u]
        op_b = t.base[b] + seen[b]
        if seen[b - BACK] < t.forwards_before[op_b]:
            return False
        into.first[p] = op_b
        x = t.forward[u]
        if x >= 0:
            op = t.base[x] + seen[x]
            held += t.alloc[op]
            if held > limit:
                return False
            held -= t.free[op]
            seen[x] += 1
            into.first[p] = op
            into.second[p] = op_b
        held -= t.free[op_b]
        seen[b] += 1
        if t.fused[u] > 0:
            fused[stage_of(b)] += 1
            held -= t.free[t.base[b - BACK + W]]
        elif t.is_full[op_b] > 0:
            fused[stage_of(b)] += 1
    return True


@part
def data_ready(t: Arrays, x: int, n: int, end: Ints, now: int) -> int:
    """When the data of operation n of class x is there, `now` at the earliest; or -1 - the op
    index that it still waits for."""
    for k in range(t.need_at[x], t.need_at[x + 1]):
        source: int = t.base[t.need[k]] + n
        e = end[source]
        if e < 0:
            return -1 - source
        if e + t.need_lag[k] > now:
            now = e + t.need_lag[k]
    return now


@part
def ready(t: Arrays, x: int, op: int, end: Ints, now: int) -> int:
    """When operation `op` of class x can start, by its data and by what was written; or -1 - the
    op index that it still waits for."""
    now = data_ready(t, x, op - t.base[x], end, now)
    if now >= 0 and len(t.extra_at) > 1:
        for k in range(t.extra_at[op], t.extra_at[op + 1]):
            e = end[t.extra[k]]
            if e < 0:
                return int(-1 - t.extra[k])
            if e + t.extra_lag[k] > now:
                now = e + t.extra_lag[k]
    return now


@inner
def replay(s: Replay, k: int, sequence: Ints, cut: int) -> bool:
    """Times, by sample k, of all units from position `since[r]` on, for every rank r; what stands
    before keeps the times that it has. False as soon as a unit ends so late that, with the `rest`
    of the work of its rank, it would end after `cut`; or if ranks wait for each other."""
    t, since, end = s.t, s.since[k], s.end[k]
    ranks = len(t.limit)
    for r in range(ranks):
        s.at[r] = since[r]
        s.stack[r] = r
        for p in range(since[r], t.sequence_at[r + 1]):
            if sequence[p] >= 0:
                if s.first[p] >= 0:
                    end[s.first[p]] = -1
                if s.second[p] >= 0:
                    end[s.second[p]] = -1
    top = ranks
    while top > 0:
        top = _advance(s, k, sequence, cut, top - 1)
    fine = top == 0
    for r in range(ranks):
        if s.at[r] < t.sequence_at[r + 1]:
            fine = False
        if s.blocked[r] >= 0:
            s.waiter[s.blocked[r]] = -1
            s.blocked[r] = -1
    return fine


@inner
def _advance(s: Replay, k: int, sequence: Ints, cut: int, top: int) -> int:
    """Run the rank at `top` of the stack until it has to wait or is done. The height of the stack
    of ranks that may go on, or -1 where `cut` is passed."""
    t, r, now = s.t, s.stack[top], 0
    start, stop, end, rest = s.start[k], s.stop[k], s.end[k], s.rest[k]
    ticks, unit_ticks, p = s.ticks[k], s.unit_ticks[k], s.at[r]
    if p > t.sequence_at[r]:
        now = stop[p - 1]
    while p < t.sequence_at[r + 1]:
        u = sequence[p]
        if u < 0:
            start[p] = now
            stop[p] = now
            p += 1
            continue
        op = s.first[p]
        x = t.single[u]
        if x >= 0:
            begin = now
            if kind_of(x) != W or len(t.extra_at) > 1:
                begin = ready(t, x, op, end, now)
            long = ticks[op]
        else:
            begin = now
            if s.second[p] >= 0:
                begin = ready(t, t.forward[u], op, end, now)
            if begin >= 0:
                backward = s.second[p] if s.second[p] >= 0 else op
                begin = ready(t, t.backward[u], backward, end, begin)
            long = unit_ticks[u]
        if begin < 0:
            source = -1 - begin
            s.following[r] = s.waiter[source]
            s.waiter[source] = r
            s.blocked[r] = source
            break
        now = begin + long
        if now + rest[p] > cut:
            top = -1
            break
        start[p] = begin
        stop[p] = now
        end[op] = now
        top = _wake(s, op, top)
        if s.second[p] >= 0:
            end[s.second[p]] = now
            top = _wake(s, s.second[p], top)
        p += 1
    s.at[r] = p
    return top


@inner
def _wake(s: Replay, op: int, top: int) -> int:
    """Put the ranks that wait for `op` on the stack, which is `top` high; its new height."""
    w = s.waiter[op]
    if w >= 0:
        s.waiter[op] = -1
        while w >= 0:
            s.stack[top] = w
            top += 1
            w = s.following[w]
    return top
