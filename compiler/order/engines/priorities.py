"""Offset search: one number per letter says when, in a steady state, its operations should run;
operation n scores number + n · period, and a list scheduler turns scores into a word. Every point
keeps to the limit, and a move changes the steady state of all micro-batches at once. Annealed on
the numbers, and on how many activations each rank may hold.
"""

from math import exp, log
from typing import Any, NamedTuple

from stretto.compiler.order.engines.priority_rules import NEVER, periods, unhindered
from stretto.compiler.order.kernels.arrays import Ints, Tables
from stretto.compiler.order.kernels.instance import Model
from stretto.compiler.order.kernels.jit import compiled, ints
from stretto.compiler.order.kernels.list_scheduler import decode
from stretto.compiler.order.kernels.moves import draw
from stretto.compiler.order.kernels.replay import NOTHING


class Search(NamedTuple):
    """What a run works on. `key` by letter, `period` by letter, `cap` by rank; `place` by letter
    (its stage's place along the chain); the rest is memory for `decode` and for the best."""

    t: Tables
    key: Ints
    period: Ints
    cap: Ints
    place: Ints
    step: Ints
    eager: Ints
    word: Ints
    size: Ints
    begin: Ints
    free: Ints
    end: Ints
    old_key: Ints
    old_cap: Ints
    best: Ints
    random: Ints


def prepare(model: Model, t: Tables, seed: int, late: int = 4, halves: int = 2) -> Search:
    """Numbers as if every operation ran as soon as its data is there, weight gradients `late`
    times their duration after it."""
    letters = len(model.rank)
    key = unhindered(model, late)
    period = [max(1, ticks * halves // 2) for ticks in periods(model)]
    sizes = [NEVER] * model.ranks
    for x, r in enumerate(model.rank):
        if x % 3 == 0 and model.count[x] and model.take[model.base[x]]:
            sizes[r] = min(sizes[r], model.take[model.base[x]])
    blank = [NOTHING] * model.size
    return Search(
        t,
        ints(key),
        ints(period),
        ints(model.limit),
        ints([model.stages[x // 3][1] for x in range(letters)]),
        ints([0 if size == NEVER else size for size in sizes]),
        ints([NEVER] * model.ranks),
        ints(blank),
        ints([0] * model.ranks),
        ints([0] * model.ranks),
        ints([0] * model.ranks),
        ints([0] * model.size),
        ints(key),
        ints(model.limit),
        ints(blank),
        ints([(seed * 104729 + 4321) % 2147483646 + 1]),
    )


@compiled
def _value(s: Search, look: int, span: bool, pairing: bool) -> int:
    """What is minimized, of the word that the numbers make; -1 if it got stuck."""
    for p in range(len(s.word)):
        s.word[p] = -1
    value = decode(
        s.t,
        s.key,
        s.period,
        s.eager,
        s.cap,
        look,
        True,
        pairing,
        s.word,
        s.size,
        s.begin,
        s.free,
        s.end,
    )
    if value >= 0 and span:
        value = 0
        for r in range(len(s.cap)):
            value = max(value, s.free[r] - s.begin[r])
    return value


@compiled
def _mean(s: Search) -> float:
    total = 0.0
    for r in range(len(s.free)):
        total += s.free[r]
    return float(total / len(s.free))


@compiled
def _change(s: Search, scale: int) -> None:
    """Change some numbers: one; those of a kind by a ramp along the chain; those of a kind from a
    stage on, or up to it; all weight gradients of a rank; or a rank's cap."""
    letters, random = len(s.key), s.random
    x = draw(random, letters)
    for _ in range(20):
        if s.t.count[x] > 0:
            break
        x = draw(random, letters)
    kind, place, rank = x % 3, s.place[x], s.t.rank[x]
    by = draw(random, 2 * scale + 1) - scale
    dice = draw(random, 10)
    if dice < 3:
        s.key[x] += by
    elif dice < 5:
        for y in range(kind, letters, 3):
            s.key[y] += by * (s.place[y] - place) // 4
    elif dice < 7:
        below = draw(random, 2) == 0
        for y in range(kind, letters, 3):
            if (s.place[y] <= place) == below:
                s.key[y] += by
    elif dice < 8:
        for y in range(2, letters, 3):
            if s.t.rank[y] == rank:
                s.key[y] += by
    elif s.step[rank] > 0:
        more = s.step[rank] if draw(random, 2) == 0 else -s.step[rank]
        above = dice == 9
        for r in range(len(s.cap)):
            if r == rank or (above and r > rank):
                old = min(s.cap[r], s.step[rank] * 100_000)
                s.cap[r] = min(s.t.limit[r], max(s.step[rank], old + more))
    else:
        s.key[x] += by


@compiled
def run(
    s: Search,
    moves: int,
    hot: float,
    cold: float,
    weight: float,
    look: int,
    span: bool,
    pairing: bool,
    enough: int,
) -> int:
    """Anneal the numbers; the best word goes to `s.best`. Its value, or -1 if none was found."""
    value = _value(s, look, span, pairing)
    found = value
    cost = 1e18
    if value >= 0:
        cost = value + weight * _mean(s)
        for p in range(len(s.word)):
            s.best[p] = s.word[p]
    scale = max(1, int(2 * hot))
    for turn in range(moves):
        if 0 <= found <= enough:
            break
        heat = hot * exp(log(cold / hot) * turn / moves)
        for x in range(len(s.key)):
            s.old_key[x] = s.key[x]
        for r in range(len(s.cap)):
            s.old_cap[r] = s.cap[r]
        for _ in range(1 + draw(s.random, 3)):
            _change(s, 1 + draw(s.random, scale))
        value = _value(s, look, span, pairing)
        fine = value >= 0
        if fine:
            new = value + weight * _mean(s)
            fine = new <= cost - heat * log((1 + draw(s.random, 1 << 30)) / (1 << 30))
        if fine:
            cost = new
            if found < 0 or value < found:
                found = value
                for p in range(len(s.word)):
                    s.best[p] = s.word[p]
        else:
            for x in range(len(s.key)):
                s.key[x] = s.old_key[x]
            for r in range(len(s.cap)):
                s.cap[r] = s.old_cap[r]
    return found


def mean_ticks(model: Model) -> float:
    """The mean duration of an operation that takes any time at all."""
    some: list[Any] = [ticks for ticks in model.duration if ticks]
    return float(sum(some) / max(1, len(some)))
