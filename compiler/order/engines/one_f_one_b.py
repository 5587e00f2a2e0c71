"""Alternating orders for one stage per rank: so many forwards ahead, then a backward and a forward
in turn, as 1F1B has it. Two numbers per rank say all: how many forwards it is ahead, and how long
an idle time must be (64ths of a weight gradient) for a weight gradient to go in; where memory is
full one goes in anyway. Annealed on these numbers. Every zero-bubble schedule of a chain is of
this kind, and a limit of the memory, whole or partial release, is kept by construction.

How many ahead is best is not obvious where the limit lies between the number of ranks (ZB-H1) and
twice that (ZB-H2): the number must fall by one or two from each rank to the next, and the search
finds where.
"""

from collections.abc import Iterator, Sequence
from math import exp, log
from typing import NamedTuple

from stretto.compiler.order.kernels.arrays import Ints, Tables
from stretto.compiler.order.kernels.instance import BACK, F, Model
from stretto.compiler.order.kernels.jit import compiled, ints
from stretto.compiler.order.kernels.moves import draw

LONGEST = 192  # a wait, in 64ths of a weight gradient


class Search(NamedTuple):
    """What a run works on: `ahead` and `wait` by rank. The rest is memory for what `write` says
    and for the best."""

    t: Tables
    ahead: Ints
    wait: Ints
    old_ahead: Ints
    old_wait: Ints
    word: Ints
    best: Ints
    begin: Ints
    free: Ints
    end: Ints
    random: Ints


def suits(model: Model) -> bool:
    """Whether this is one pipeline with a stage on each rank, of which nothing is written."""
    spec = model.problem.spec
    once = sorted(model.rank[::3]) == list(range(model.ranks))
    plain = not model.extra and not spec.exceptions and model.slices == 1
    trained = all(model.count[x] == model.count[x + BACK] for x in range(0, len(model.rank), 3))
    return once and plain and trained and len(spec.pipelines) == 1 and not spec.pipelines[0].feeds


def starts(model: Model) -> Iterator[tuple[list[int], list[int]]]:
    """Numbers to begin with, `ahead` and `wait` by rank: as many ahead on the first rank as fit,
    or as are of use, and less by one or two from each rank to the next; the twos spread, at the
    end, or at the beginning."""
    last = model.ranks - 1
    room = [
        2 * last + 1 if not size else max(1, min(limit // size, 2 * last + 1))
        for limit, size in zip(model.limit, _sizes(model), strict=True)
    ]
    most = min(room)
    at = [0] * model.ranks
    for g, (_, stage) in enumerate(model.stages):
        at[model.rank[3 * g]] = stage
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
            yield ahead, [wait] * model.ranks


def _sizes(model: Model) -> list[int]:
    sizes = [0] * model.ranks
    for x in range(F, len(model.rank), 3):
        if model.count[x]:
            sizes[model.rank[x]] = model.take[model.base[x]]
    return sizes


def prepare(
    model: Model, t: Tables, ahead: Sequence[int], wait: Sequence[int], seed: int
) -> Search:
    """A Search that begins with these numbers."""
    ranks, size = model.ranks, model.size
    return Search(
        t,
        ints(ahead),
        ints(wait),
        ints(ahead),
        ints(wait),
        ints([-1] * size),
        ints([-1] * size),
        ints([0] * ranks),
        ints([0] * ranks),
        ints([0] * size),
        ints([(seed * 15485863 + 97) % 2147483646 + 1]),
    )


@compiled
def write(s: Search) -> bool:
    """Fill `word`, `begin` and `free` (first start and last end by rank) and `end` (by place);
    False where the ranks wait for each other, or memory does not suffice for the numbers."""
    t, end = s.t, s.end
    ranks = len(t.limit)
    at = [0] * ranks
    held = [0] * ranks
    done = [0] * len(t.rank)
    waiting = [True] * ranks
    stack = [ranks - 1 - r for r in range(ranks)]
    left = len(end)
    for p in range(len(end)):
        end[p] = -1
    for r in range(ranks):
        at[r] = t.word_at[r]
        s.free[r] = 0
        s.begin[r] = -1
    while len(stack) > 0:
        r = stack.pop()
        waiting[r] = False
        f = t.letter[t.letter_at[r]]
        b, w = f + 1, f + 2
        while at[r] < t.word_at[r + 1]:
            now = s.free[r]
            x = w
            if done[f] < t.count[f] and (done[f] == done[b] or done[f] - done[b] < s.ahead[r]):
                x = f
            elif done[b] < t.count[b]:
                x = b
            ready = 0
            if x != w:
                for k in range(t.need_at[x], t.need_at[x + 1]):
                    e = end[t.base[t.need[k]] + done[x]]
                    if e < 0:
                        ready = -1
                        break
                    ready = max(ready, e + t.need_lag[k])
                some = done[w] < t.count[w] and done[w] < done[b]
                full = x == f and held[r] + t.take[t.base[f] + done[f]] > t.limit[r]
                if full and not some:
                    return False
                if some:
                    long = t.ticks[t.base[w] + done[w]]
                    gap = ready - now
                    if full or (gap > 0 and gap * 64 >= long * s.wait[r]):
                        x = w
                        ready = now
                if ready < 0:
                    break
            place = t.base[x] + done[x]
            begin = max(now, ready)
            if s.begin[r] < 0:
                s.begin[r] = begin
            s.free[r] = begin + t.ticks[place]
            end[place] = s.free[r]
            held[r] += t.take[place] - t.give[place]
            done[x] += 1
            left -= 1
            s.word[at[r]] = x
            at[r] += 1
            for k in range(t.next_at[x], t.next_at[x + 1]):
                other = t.rank[t.next[k]]
                if other != r and not waiting[other]:
                    waiting[other] = True
                    stack.append(other)
    return left == 0


@compiled
def _cost(s: Search, weight: float, span: bool) -> tuple[int, float]:
    """What is minimized, and the same with a little of the mean end; -1 where it cannot run."""
    if not write(s):
        return -1, 0.0
    most, mean = 0, 0.0
    for r in range(len(s.free)):
        end = s.free[r] - s.begin[r] if span else s.free[r]
        most = max(most, end)
        mean += end
    return most, most + weight * mean / len(s.free)


@compiled
def _change(s: Search) -> None:
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


@compiled
def run(
    s: Search, moves: int, hot: float, cold: float, weight: float, span: bool, enough: int
) -> int:
    """Anneal the numbers; the best word goes to `s.best`. Its value, or -1 if none was found."""
    found, cost = _cost(s, weight, span)
    if found < 0:
        cost = 1e18
    for p in range(len(s.word)):
        s.best[p] = s.word[p]
    for turn in range(moves):
        if 0 <= found <= enough:
            break
        heat = hot * exp(log(cold / hot) * turn / moves)
        for r in range(len(s.ahead)):
            s.old_ahead[r] = s.ahead[r]
            s.old_wait[r] = s.wait[r]
        for _ in range(1 + draw(s.random, 2)):
            _change(s)
        value, new = _cost(s, weight, span)
        if value >= 0 and new <= cost - heat * log((1 + draw(s.random, 1 << 30)) / (1 << 30)):
            cost = new
            if found < 0 or value < found:
                found = value
                for p in range(len(s.word)):
                    s.best[p] = s.word[p]
            continue
        for r in range(len(s.ahead)):
            s.ahead[r] = s.old_ahead[r]
            s.wait[r] = s.old_wait[r]
    return int(found)
