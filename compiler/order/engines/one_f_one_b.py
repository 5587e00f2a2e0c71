"""k-F-1B orders for one stage per rank: some forwards ahead, then a backward and a forward in turn,
as 1F1B has it. Two numbers per rank say all: how many forwards it is ahead, and how long an idle
time must be (64ths of a weight gradient) for a weight gradient to go in; where memory is full one
goes in anyway. Annealed on these numbers. Every zero-bubble schedule of a chain is of this kind,
and a limit of the memory, full or partial release, is kept by construction.

How many ahead is best is not obvious where the limit lies between the number of ranks (ZB-H1) and
twice that (ZB-H2): the number must fall by one or two from each rank to the next, and the search
finds where.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from stretto.compiler.order.engines.spending import CHAINS, RunBatch, RunLength, spend
from stretto.compiler.order.kernels.annealing import Cooling, Goal, copy, heat, threshold
from stretto.compiler.order.kernels.arrays import Arrays
from stretto.compiler.order.kernels.bundle import Bundle, Ints
from stretto.compiler.order.kernels.evaluator import blank
from stretto.compiler.order.kernels.instance import SearchInstance
from stretto.compiler.order.kernels.jit import compiled, inner, ints
from stretto.compiler.order.kernels.moves import draw
from stretto.compiler.order.kernels.op_classes import BACK, W, forward_of, forwards
from stretto.compiler.order.kernels.replay import data_ready
from stretto.compiler.order.open_search import WORK
from stretto.compiler.order.search_state import SearchState

NAME = "alternating"
LONGEST = 192  # a wait, in 64ths of a weight gradient
HEATS = ((0.3, 0.1), (1.0, 0.1), (0.3, 0.5))  # at first (mean durations), weight of the mean end


@dataclass(frozen=True, slots=True)
class WarmupState(Bundle):
    """What a run works on. By rank: `ahead` (operations) and `wait` (64ths of a weight gradient)
    with their old values, `at` (the next position), `begin` and `stop` (ticks: first start, last
    end), `held` (grains), `queued` (1: on the stack), `stack`. `sequence` and `best` are flat
    sequences, `done` by class, `end` (ticks) by op index. `stop_now`: 1 once it is to return."""

    t: Arrays
    ahead: Ints
    wait: Ints
    old_ahead: Ints
    old_wait: Ints
    sequence: Ints
    best: Ints
    at: Ints
    begin: Ints
    stop: Ints
    held: Ints
    queued: Ints
    stack: Ints
    done: Ints
    end: Ints
    random: Ints
    stop_now: Ints


def suits(instance: SearchInstance) -> bool:
    """Whether this is one pipeline with a stage on each rank, of which nothing is written."""
    spec = instance.problem.spec
    chain = forwards(len(instance.rank))
    once = sorted(instance.rank[x] for x in chain) == list(range(instance.ranks))
    plain = not instance.extra and not spec.exceptions and instance.slices == 1
    trained = all(instance.count[x] == instance.count[x + BACK] for x in chain)
    return once and plain and trained and len(spec.pipelines) == 1 and not spec.pipelines[0].feeds


def run(state: SearchState, share: float) -> None:
    """Anneal from several starts; what is to be had without is submitted first."""
    if not suits(state.instance):
        return
    numbers = list(starts(state.instance))
    until = state.left() * (1 - share)
    began = state.budget.clock()
    timed, tried = state.budget.effort is None, 0
    for ahead, wait in numbers:
        if timed and tried and state.left() <= until:
            break
        tried += 1
        s = prepare(state, ahead, wait, 0)
        if anneal(s, Cooling(0, 1.0, 1.0), Goal(state.span, 0.1, state.enough)) >= 0:
            state.submit(s.best, NAME)
    each = max(1e-6, (state.budget.clock() - began) / tried)
    mean, size = state.mean_ticks(), state.instance.size
    length = RunLength(max(200, min(40_000, 80 * WORK // size)), 100, 4)
    moves = length.moves(state, until, lambda: each)

    def work(k: int) -> Any:
        ahead, wait = numbers[k % len(numbers)]
        s = prepare(state, ahead, wait, state.budget.seed + k)
        hot, weight = HEATS[k // CHAINS % len(HEATS)]
        goal = Goal(state.span, weight, state.enough)
        value = anneal(s, Cooling(moves, hot * mean, mean / 50), goal)
        return s.best if value >= 0 else None

    spend(state, until, work, RunBatch(NAME, moves * size, kept=4, last=4 * len(numbers)))


def starts(instance: SearchInstance) -> Iterator[tuple[list[int], list[int]]]:
    """Numbers to begin with, `ahead` and `wait` by rank: as many ahead on the first rank as fit,
    or as are of use, and less by one or two from each rank to the next; the twos spread, at the
    end, or at the beginning."""
    last = instance.ranks - 1
    room = [
        2 * last + 1 if not size else max(1, min(limit // size, 2 * last + 1))
        for limit, size in zip(instance.limit, _sizes(instance), strict=True)
    ]
    most = min(room)
    at = [0] * instance.ranks
    for g, (_, stage) in enumerate(instance.stages):
        at[instance.rank[forward_of(g)]] = stage
    for wait in (16, 48, 0, 64):
        for shape in range(4):
            ahead = []
            for here, fits in zip(at, room, strict=True):
                many = (
                    1 + (most - 1) * (last - here) // max(1, last),
                    min(most - here, 2 * (last - here) + 1),
                    max(last - here + 1, most - 2 * here),
                    last - here + 1,
                )[shape]
                ahead.append(max(1, min(many, fits)))
            yield ahead, [wait] * instance.ranks


def _sizes(instance: SearchInstance) -> list[int]:
    """By rank the grains that a forward takes."""
    sizes = [0] * instance.ranks
    for x in forwards(len(instance.rank)):
        if instance.count[x]:
            sizes[instance.rank[x]] = instance.alloc[instance.base[x]]
    return sizes


def prepare(
    state: SearchState, ahead: Sequence[int], wait: Sequence[int], seed: int
) -> WarmupState:
    """The state of a run that begins with these numbers."""
    instance, t = state.instance, state.t
    ranks, size = instance.ranks, instance.size
    return WarmupState(
        t=t,
        ahead=ints(ahead),
        wait=ints(wait),
        old_ahead=ints(ahead),
        old_wait=ints(wait),
        sequence=blank(size),
        best=blank(size),
        at=ints([0] * ranks),
        begin=ints([0] * ranks),
        stop=ints([0] * ranks),
        held=ints([0] * ranks),
        queued=ints([0] * ranks),
        stack=ints([0] * ranks),
        done=ints([0] * len(instance.rank)),
        end=ints([0] * size),
        random=ints([(seed * 15485863 + 97) % 2147483646 + 1]),
        stop_now=state.stop,
    )


@compiled
def anneal(s: WarmupState, cooling: Cooling, goal: Goal) -> int:
    """Anneal the numbers; the best sequence goes to `s.best`. Its value (ticks), or -1 if none was
    found."""
    found, cost = _cost(s, goal)
    if found < 0:
        cost = 1e18
    copy(s.sequence, s.best)
    for move in range(cooling.moves):
        if 0 <= found <= goal.enough or s.stop_now[0] > 0:
            break
        copy(s.ahead, s.old_ahead)
        copy(s.wait, s.old_wait)
        for _ in range(1 + draw(s.random, 2)):
            _change(s)
        value, new = _cost(s, goal)
        if value >= 0 and new <= threshold(cost, heat(cooling, move), s.random):
            cost = new
            if found < 0 or value < found:
                found = value
                copy(s.sequence, s.best)
        else:
            copy(s.old_ahead, s.ahead)
            copy(s.old_wait, s.wait)
    return int(found)


@inner
def _cost(s: WarmupState, goal: Goal) -> tuple[int, float]:
    """What is minimized, and the same with a little of the mean end; -1 where it cannot run."""
    if not write(s):
        return -1, 0.0
    most, mean = 0, 0.0
    for r in range(len(s.stop)):
        end = s.stop[r] - s.begin[r] if goal.span else s.stop[r]
        most = max(most, end)
        mean += end
    return most, most + goal.weight * mean / len(s.stop)


@inner
def _change(s: WarmupState) -> None:
    """One rank more or less ahead, or all after it, or all before it, or one more and another
    less; one rank's wait, or those of all after it."""
    ranks = len(s.ahead)
    r, dice = draw(s.random, ranks), draw(s.random, 6)
    by = 1 if draw(s.random, 2) == 0 else -1
    lo, hi = r, r + 1
    if dice in (1, 4):
        hi = ranks
    elif dice == 2:
        lo = 0
    if dice == 3 or dice == 4:
        by = draw(s.random, 41) - 20
        for q in range(lo, hi):
            s.wait[q] = max(0, min(LONGEST, s.wait[q] + by))
        return
    for q in range(lo, hi):
        s.ahead[q] = max(1, s.ahead[q] + by)
    if dice == 5:
        q = draw(s.random, ranks)
        s.ahead[q] = max(1, s.ahead[q] - by)


@inner
def write(s: WarmupState) -> bool:
    """Fill `sequence`, `begin`, `stop` and `end`; False where the ranks wait for each other, or
    memory does not suffice for the numbers."""
    t = s.t
    top = _reset(s)
    left = len(s.end)
    while top > 0:
        top -= 1
        r = s.stack[top]
        s.queued[r] = 0
        while s.at[r] < t.sequence_at[r + 1]:
            x, begin = _next(s, r)
            if x == FULL:
                return False
            if x == LATER:
                break
            _append(s, r, x, begin)
            left -= 1
            for k in range(t.next_at[x], t.next_at[x + 1]):
                other = t.rank[t.next[k]]
                if other != r and s.queued[other] == 0:
                    s.queued[other] = 1
                    s.stack[top] = other
                    top += 1
    return left == 0


FULL, LATER = -1, -2  # in place of a class: memory does not suffice; it has to wait for data


@inner
def _reset(s: WarmupState) -> int:
    """Forget what was written. The height of the stack, which has all ranks, the first on top."""
    ranks = len(s.stop)
    for op in range(len(s.end)):
        s.end[op] = -1
    for x in range(len(s.done)):
        s.done[x] = 0
    for r in range(ranks):
        s.at[r] = s.t.sequence_at[r]
        s.stop[r] = 0
        s.begin[r] = -1
        s.held[r] = 0
        s.queued[r] = 1
        s.stack[r] = ranks - 1 - r
    return ranks


@inner
def _next(s: WarmupState, r: int) -> tuple[int, int]:
    """The class of what rank r runs next and when that starts (ticks); or FULL, or LATER."""
    t, done, now = s.t, s.done, s.stop[r]
    f = t.op_class[t.class_at[r]]
    b, w = f + BACK, f + W
    x = w
    if done[f] < t.count[f] and (done[f] == done[b] or done[f] - done[b] < s.ahead[r]):
        x = f
    elif done[b] < t.count[b]:
        x = b
    if x == w:
        return w, now
    begin = data_ready(t, x, done[x], s.end, now)
    some = done[w] < t.count[w] and done[w] < done[b]
    full = x == f and s.held[r] + t.alloc[t.base[f] + done[f]] > t.limit[r]
    if full and not some:
        return FULL, 0
    if some:
        long = t.ticks[t.base[w] + done[w]]
        gap = begin - now
        if full or (gap > 0 and gap * 64 >= long * s.wait[r]):
            return w, now
    if begin < 0:
        return LATER, 0
    return x, begin


@inner
def _append(s: WarmupState, r: int, x: int, begin: int) -> None:
    """Rank r runs the next operation of class x from `begin` on."""
    t = s.t
    op = t.base[x] + s.done[x]
    if s.begin[r] < 0:
        s.begin[r] = begin
    s.stop[r] = begin + t.ticks[op]
    s.end[op] = s.stop[r]
    s.held[r] += t.alloc[op] - t.free[op]
    s.done[x] += 1
    s.sequence[s.at[r]] = x
    s.at[r] += 1
