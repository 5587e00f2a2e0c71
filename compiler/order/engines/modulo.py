"""Periodic orders: every rank repeats one circular order of its letters, cut off at both ends.
Annealed on these circles, and judged by the whole word that they unroll to. List schedules lose
much where several stages share a rank with little memory; circles are few, and each says all about
its word: this searches over some dozen letters where words have thousands.

On a rank the letter at place a of its circle runs, in round k, its operation k - turn; to move it
on past the end of the circle adds one to its turn. (Circles of two or three rounds, others at the
beginning and the end, and phases found by CP-SAT on a coarse grid gave nothing better.)
"""

from collections.abc import Sequence
from math import exp, log
from random import Random
from typing import NamedTuple

import msgspec

from stretto.compiler.order.engines.priority_rules import periods, unhindered
from stretto.compiler.order.kernels.arrays import Ints, Tables
from stretto.compiler.order.kernels.evaluator import (
    State,
    evaluate,
    mean_end,
    objective,
    remaining,
    replayed,
)
from stretto.compiler.order.kernels.instance import Model
from stretto.compiler.order.kernels.instance import model as model_of
from stretto.compiler.order.kernels.jit import compiled, ints
from stretto.compiler.order.kernels.moves import draw
from stretto.compiler.order.kernels.replay import NOTHING, assign
from stretto.compiler.problem.expand import expand


class Circles(NamedTuple):
    """`letter`: the circles one after the other, rank r's from `letter_at[r]` of the Tables on;
    `turn` and `depth` (its place along the chain of forwards and backwards) by letter. The rest
    is for changes: what they may have to undo, and the ranks that they changed."""

    letter: Ints
    turn: Ints
    depth: Ints
    old_letter: Ints
    old_turn: Ints
    changed: Ints


def circles(model: Model, starts: Sequence[int], period: int) -> Circles:
    """The circles of a steady state in which operation n of letter x starts at
    `starts[x] + n · period`."""
    flat: list[int] = []
    turn = [0] * len(model.rank)
    for r in range(model.ranks):
        here = sorted(model.letters(r), key=lambda x: (starts[x] % period, x % 3, x))
        flat += here
        for x in here:
            turn[x] = starts[x] // period
    depth = []
    for x in range(len(model.rank)):
        p, stage = model.stages[x // 3]
        many = sum(1 for q, _ in model.stages if q == p)
        depth.append(stage if x % 3 == 0 else 2 * many - 1 - stage)
    changed = ints([0] * model.ranks)
    return Circles(ints(flat), ints(turn), ints(depth), ints(flat), ints(turn), changed)


def copied(c: Circles) -> Circles:
    """The same, in memory of its own."""
    return Circles(*[one.copy() for one in c])


def suits(model: Model) -> bool:
    """Whether a circle says everything: equally many micro-batches in all pipelines, nothing
    written, no rules, no pairs."""
    counts = {model.count[x] for x in range(0, len(model.rank), 3)}
    plain = not model.extra and not model.problem.spec.exceptions and model.slices == 1
    return len(counts) == 1 and plain and not model.pairs


def shortened(model: Model, many: int) -> Model:
    """The same with at most so many micro-batches in each pipeline: its circles are as good for
    all of them, and found sooner."""
    spec = model.problem.spec
    lines = tuple(
        msgspec.structs.replace(line, microbatches=min(many, line.microbatches))
        for line in spec.pipelines
    )
    total = sum(line.microbatches for line in lines)
    return model_of(expand(msgspec.structs.replace(spec, pipelines=lines, microbatches=total)))


LATE = (0, 2, 4, 1)  # weight gradients after their input gradients, in their own durations
PACES = 150  # at which one of two starts is drawn
WAITS = (0, 0, 1, 2, 4, 6)  # halves of a mean duration


def begin(model: Model, s: State, seed: int) -> Circles:
    """Circles to begin with. For every other seed, of a steady state in which everything runs as
    soon as its data is there, with a period so long that memory suffices; at worst one micro-batch
    after the other. For the others the best of some in which micro-batches move on at one pace,
    drawn at random, the same on all ranks (the building blocks of Qi et al., "Pipeline Parallelism
    with Controllable Memory")."""
    starts = unhindered(model, LATE[seed % len(LATE)])
    least = max(periods(model))
    whole = 1 + max(starts) + max(model.duration)
    period = least
    while True:
        c = circles(model, starts, period)
        value = _value(model, s, c)
        if period >= whole or value >= 0:
            break
        period = min(whole, period + max(1, least // 20))
    random = Random(seed)
    half = sum(model.duration) / len(model.duration) / 2
    for _ in range(0 if seed % 2 else PACES):
        waits = [round(random.choice(WAITS) * half) for _ in range(6)]
        starts = unhindered(model, random.choice(LATE), waits)
        other = circles(model, starts, round(least * random.choice((1, 1, 1.05, 1.1, 1.2, 1.3))))
        new = _value(model, s, other)
        if new >= 0 and (new < value or value < 0):
            c, value = other, new
    return c


def _value(model: Model, s: State, c: Circles) -> int:
    """The makespan of the circles' word, or -1 where it cannot run."""
    word = ints([NOTHING] * model.size)
    for r in range(model.ranks):
        unroll(s.t, c, r, word)
    return int(evaluate(s, word, False))


@compiled
def unroll(t: Tables, c: Circles, r: int, word: Ints) -> None:
    """Write the word of rank r that its circle stands for."""
    lo, hi = t.letter_at[r], t.letter_at[r + 1]
    p = t.word_at[r]
    if lo == hi:
        return
    first, last = 1 << 60, -(1 << 60)
    for a in range(lo, hi):
        x = t.letter[a]
        first = min(first, c.turn[x])
        last = max(last, c.turn[x] + t.count[x])
    for k in range(first, last):
        for a in range(lo, hi):
            x = c.letter[a]
            n = k - c.turn[x]
            if 0 <= n < t.count[x]:
                word[p] = x
                p += 1


@compiled
def shift(t: Tables, c: Circles, x: int, by: int) -> None:
    """Move letter x past `by` others on its rank's circle, backwards where negative."""
    lo, hi = t.letter_at[t.rank[x]], t.letter_at[t.rank[x] + 1]
    others = hi - lo - 1
    if others < 1:
        c.turn[x] += by
        return
    a = lo
    while c.letter[a] != x:
        a += 1
    goal = a - lo + by
    rounds = goal // others
    goal -= rounds * others
    c.turn[x] += rounds
    for p in range(a, hi - 1):
        c.letter[p] = c.letter[p + 1]
    for p in range(hi - 1, lo + goal, -1):
        c.letter[p] = c.letter[p - 1]
    c.letter[lo + goal] = x


@compiled
def _change(t: Tables, c: Circles, random: Ints) -> None:
    """One letter moved; the same on a stretch of ranks; all letters from a depth on, or up to it,
    a turn later or earlier; all weight gradients of these."""
    ranks = len(t.limit)
    a = draw(random, len(t.letter))
    x = t.letter[a]
    r = t.rank[x]
    many = t.letter_at[r + 1] - t.letter_at[r]
    by = 1 + draw(random, 2 if draw(random, 3) > 0 else many + 1)
    if draw(random, 2) == 0:
        by = -by
    dice = draw(random, 10)
    if dice < 8:
        role, until = a - t.letter_at[r], r + 1
        if dice >= 5:
            until += draw(random, ranks - r)
        for q in range(r, until):
            if role < t.letter_at[q + 1] - t.letter_at[q]:
                shift(t, c, t.letter[t.letter_at[q] + role], by)
        return
    later = draw(random, 2) == 0
    for y in range(len(c.turn)):
        if (c.depth[y] >= c.depth[x]) == later and (dice == 8 or y % 3 == 2):
            c.turn[y] += 1 if by > 0 else -1


@compiled
def run(
    s: State,
    c: Circles,
    kept: Circles,
    word: Ints,
    best: Ints,
    moves: int,
    hot: float,
    cold: float,
    weight: float,
    span: bool,
    enough: int,
) -> int:
    """Anneal the circles for so many moves, from temperature `hot` to `cold`; the best ones seen go
    into `kept`, their word into `best`. Its value, or -1 if what was given cannot run. Stops at
    `enough`."""
    ranks = len(s.t.limit)
    for r in range(ranks):
        c.changed[r] = 1
    if not _write(s, c, word) or not replayed(s, 0, word, 1 << 60):
        return -1
    found = objective(s, 0, word, span)
    mean = mean_end(s, 0)
    cost = found + weight * mean
    _keep(c, kept, word, best)
    for turn in range(moves):
        if found <= enough:
            break
        heat = hot * exp(log(cold / hot) * turn / moves)
        for a in range(len(c.letter)):
            c.old_letter[a] = c.letter[a]
        for x in range(len(c.turn)):
            c.old_turn[x] = c.turn[x]
        for _ in range(1 + draw(s.random, 2)):
            _change(s.t, c, s.random)
        if not _changed(s.t, c):
            continue
        allowed = cost - heat * log((1 + draw(s.random, 1 << 30)) / (1 << 30))
        cut = 1 << 60
        if not span:
            cut = int(allowed - weight * mean + weight * heat) + 1
        if _write(s, c, word) and replayed(s, 0, word, cut):
            new = objective(s, 0, word, span)
            ended = mean_end(s, 0)
            if new + weight * ended <= allowed:
                mean, cost = ended, new + weight * ended
                if new < found:
                    found = new
                    _keep(c, kept, word, best)
                continue
        for a in range(len(c.letter)):
            c.letter[a] = c.old_letter[a]
        for x in range(len(c.turn)):
            c.turn[x] = c.old_turn[x]
        _write(s, c, word)
    return int(found)


@compiled
def _keep(c: Circles, kept: Circles, word: Ints, best: Ints) -> None:
    for a in range(len(c.letter)):
        kept.letter[a] = c.letter[a]
    for x in range(len(c.turn)):
        kept.turn[x] = c.turn[x]
    for p in range(len(word)):
        best[p] = word[p]


@compiled
def _changed(t: Tables, c: Circles) -> bool:
    """Mark the ranks whose circles are not what they were; whether there are any."""
    some = False
    for r in range(len(t.limit)):
        c.changed[r] = 0
        for a in range(t.letter_at[r], t.letter_at[r + 1]):
            x = c.letter[a]
            if x != c.old_letter[a] or c.turn[x] != c.old_turn[x]:
                c.changed[r] = 1
                some = True
    return some


@compiled
def _write(s: State, c: Circles, word: Ints) -> bool:
    """Unroll the changed circles; False if a rank's word breaks its limit or what it needs of
    itself, and then words and operations of the ranks after it are those before the change."""
    t = s.t
    for r in range(len(t.limit)):
        s.since[0][r] = t.word_at[r]
        if c.changed[r] > 0:
            unroll(t, c, r, word)
            last = t.word_at[r + 1] - 1
            if not assign(t, r, last, word, s.first, s.second, s.seen, s.merged):
                return False
            remaining(s, 0, r, word)
    return True
