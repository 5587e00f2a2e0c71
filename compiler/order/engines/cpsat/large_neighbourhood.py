"""Improve a word piece by piece with CP-SAT: what starts within a stretch of time is ordered anew,
everything before and after keeps its sequence.

What starts before the stretch waits for nothing in it, so its times stand. What starts after it is
known by tails: the longest chains from its start to the end of the step. So the solver sees the
freed operations alone, some hundred of them however long the step is, and closes most stretches
within a second. A stretch that cannot shorten the step may shorten what leads up to the end from
each rank; that counts a little, and is what later stretches gain from.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from time import monotonic
from typing import Any

from stretto.compiler.order.engines.cpsat.constraints import places, sequences
from stretto.compiler.order.engines.cpsat.solver import all_solved, solver
from stretto.compiler.order.kernels.evaluator import evaluate
from stretto.compiler.order.kernels.instance import NO_LIMIT, F, Model
from stretto.compiler.order.kernels.jit import ints
from stretto.compiler.order.search_state import Hunt
from stretto.compiler.problem.spec import NONE

LARGEST = 13_000  # operations of a step
LEAST, FIRST, MOST = 60, 150, 400  # operations in a stretch
PATIENCE = 4.0  # seconds, or units of effort, for one stretch
CHAINS = 2  # stretches side by side, whatever the machine has: a seed means the same everywhere

Edges = list[list[tuple[int, int]]]


@dataclass(frozen=True, slots=True)
class _Ground:
    """What is the same for all words. By place: `before` and `after` (place and lag), `letter`. By
    rank `tokens`: memory that the first place takes and the second gives back, in grains."""

    before: Edges
    after: Edges
    letter: list[int]
    tokens: list[list[tuple[int, int, int]]]


@dataclass(frozen=True, slots=True)
class _Played:
    """A word replayed. `rows`: by rank the places as they run; by place its `start` and `end`
    (ticks) and its position in the word."""

    rows: list[list[int]]
    start: list[int]
    end: list[int]
    position: list[int]


@dataclass(slots=True)
class _Stretch:
    """A part of a word to be ordered anew: places `free`, and by place of these the variable of
    its `start`; `m` is what `solver` is to solve."""

    m: Any
    solver: Any
    free: set[int]
    start: dict[int, Any]


def suits(model: Model) -> bool:
    """Whether words of the Model can be cut at a moment: no units, nothing that takes no time."""
    return (
        model.problem.spec.minimize == "makespan"
        and not model.pairs
        and all(ticks == NONE for ticks in model.joint)
        and all(model.duration)
        and all(partner == NONE for partner in model.partner)
    )


def improve(hunt: Hunt, word: Sequence[int], seconds: float) -> None:
    """Offer better and better words than `word` until so many seconds (or units of effort) are
    spent. Raises `Stop` when the best is good enough."""
    ground, random = _ground(hunt.model), Random(hunt.budget.seed)
    best = [int(u) for u in word]
    value = int(evaluate(hunt.state, ints(best), hunt.span))
    many, left, until = float(FIRST), seconds, monotonic() + seconds
    while left > 0:
        played = _played(hunt, best)
        patience = min(PATIENCE, max(0.1, left))
        tried = [
            _stretch(hunt, ground, played, begin, int(many), value)
            for begin in _begins(random, hunt.model.size, int(many))
        ]
        for one in tried:
            one.solver = solver(hunt.budget, patience, random.randrange(1 << 30))
        statuses, interrupted = all_solved([(one.solver, one.m) for one in tried])
        changed: set[int] = set()
        for one, status in zip(tried, statuses, strict=True):
            name = one.solver.status_name(status)
            many = max(LEAST, min(MOST, many * (1.03 if name == "OPTIMAL" else 0.9)))
            if name not in ("OPTIMAL", "FEASIBLE") or one.free & changed:
                continue
            trial = _changed(ground, played, one, best)
            new = int(evaluate(hunt.state, ints(trial), hunt.span))
            if 0 <= new <= value:
                best, changed = trial, changed | one.free
            if 0 <= new < value:
                value = new
                hunt.offer(best, "cpsat", 1)
        if interrupted:
            raise KeyboardInterrupt
        hunt.tell("cpsat")
        worked = sum(one.solver.response_proto.deterministic_time for one in tried) / CHAINS
        left = until - monotonic() if hunt.budget.effort is None else left - max(worked, 0.01)


def _begins(random: Random, size: int, many: int) -> list[int]:
    """Where stretches begin among all operations by their start, far from each other."""
    room = max(1, size - many // 2)
    first = random.randrange(room)
    return [(first + k * room // CHAINS) % room for k in range(CHAINS)]


def _ground(model: Model) -> _Ground:
    before: Edges = [[] for _ in range(model.size)]
    after: Edges = [[] for _ in range(model.size)]
    for a, b, lag in sequences(model):
        before[b].append((a, lag))
        after[a].append((b, lag))
    letter = [x for x, many in enumerate(model.count) for _ in range(many)]
    tokens: list[list[tuple[int, int, int]]] = [[] for _ in range(model.ranks)]
    for x in range(F, len(model.rank), 3):
        forwards, backs, weights = (places(model, y) for y in (x, x + 1, x + 2))
        halves = [n for n, q in enumerate(backs) if not model.whole[q]]
        pairs = [(p, p) for p in forwards]
        pairs += list(zip(forwards, backs, strict=False))
        pairs += [(forwards[n], q) for n, q in zip(halves, weights, strict=True)]
        own = tokens[model.rank[x]]
        own.extend((p, q, model.give[q]) for p, q in pairs if model.give[q])
    return _Ground(before, after, letter, tokens)


def _played(hunt: Hunt, word: Sequence[int]) -> _Played:
    model, state, t = hunt.model, hunt.state, hunt.t
    evaluate(state, ints(word), hunt.span)
    found = _Played([], [0] * model.size, [0] * model.size, [0] * model.size)
    for r in range(model.ranks):
        row = []
        for at in range(int(t.word_at[r]), int(t.word_at[r + 1])):
            p = int(state.first[at])
            found.start[p] = int(state.start[0][at])
            found.end[p] = found.start[p] + model.duration[p]
            found.position[p] = at
            row.append(p)
        found.rows.append(row)
    return found


def _stretch(
    hunt: Hunt, ground: _Ground, played: _Played, begin: int, many: int, value: int
) -> _Stretch:
    """The operations from the `begin`-th on, by start, to be ordered anew for a step of at most
    `value`."""
    from ortools.sat.python import cp_model

    model, start = hunt.model, played.start
    order = sorted(range(model.size), key=lambda p: (start[p], played.position[p]))
    past, free, coming = order[:begin], order[begin : begin + many], order[begin + many :]
    made = _Stretch(cp_model.CpModel(), None, set(free), {})
    m = made.m
    tail, least = _tails(model, ground, played, set(past), coming)
    goal = m.new_int_var(max(least, hunt.bound), value, "")
    chains = [m.new_int_var(0, value, "") for _ in range(model.ranks)]
    gone = set(past)
    for row, chain in zip(played.rows, chains, strict=True):
        m.add(goal >= chain)
        own = [p for p in row if p in made.free]
        idle = max([0, *(played.end[p] for p in row if p in gone)])
        behind = next((tail[p] for p in row if p in tail), 0)
        for p in own:
            early = max([idle, *(played.end[q] + lag for q, lag in ground.before[p] if q in gone)])
            rest = max([behind, *(lag + tail[q] for q, lag in ground.after[p] if q in tail)])
            late = value - rest - model.duration[p]
            made.start[p] = m.new_int_var(early, late, "")
            m.add(chain >= made.start[p] + model.duration[p] + rest)
            m.add_hint(made.start[p], start[p])
        m.add_no_overlap(
            [m.new_fixed_size_interval_var(made.start[p], model.duration[p], "") for p in own]
        )
    for p in free:
        for q, lag in ground.before[p]:
            if q in made.free:
                m.add(made.start[p] >= made.start[q] + model.duration[q] + lag)
    for r, row in enumerate(played.rows):
        _memory(model, ground, played, made, r, [p for p in row if p in gone], value)
    m.minimize(2 * model.ranks * goal + sum(chains))
    return made


def _tails(
    model: Model, ground: _Ground, played: _Played, gone: set[int], coming: Sequence[int]
) -> tuple[dict[int, int], int]:
    """Ticks from the start of each of `coming` to the end of the step, in the sequences that they
    have; and what the step takes at least for what is before the stretch."""
    following = {a: b for row in played.rows for a, b in pairwise(row)}
    tail: dict[int, int] = {}
    for p in reversed(coming):
        rest = max([0, *(lag + tail[q] for q, lag in ground.after[p])])
        if p in following:
            rest = max(rest, tail[following[p]])
        tail[p] = model.duration[p] + rest
    before = [
        played.end[q] + lag + tail[p] for p in coming for q, lag in ground.before[p] if q in gone
    ]
    before += [played.end[a] + tail[b] for a, b in following.items() if a in gone and b in tail]
    return tail, max([0, *before, *(played.end[p] for p in gone)])


def _memory(
    model: Model,
    ground: _Ground,
    played: _Played,
    made: _Stretch,
    r: int,
    gone: Sequence[int],
    value: int,
) -> None:
    """What rank r holds during the stretch; what it held before and gives back after it narrows
    the limit. `gone`: what it ran before."""
    limit, m, before = model.limit[r], made.m, set(gone)
    if limit >= NO_LIMIT:
        return
    begin = max([0, *(played.end[p] for p in gone)])
    intervals, grains = [], []
    for taker, giver, many in ground.tokens[r]:
        if taker in before and giver not in before and giver not in made.free:
            limit -= many
        elif taker in made.free or (taker in before and giver in made.free):
            start = made.start[taker] if taker in made.free else begin
            end = made.start[giver] + model.duration[giver] if giver in made.free else value
            length = m.new_int_var(0, value, "")
            intervals.append(m.new_interval_var(start, length, end, ""))
            grains.append(many)
    if intervals:
        m.add_cumulative(intervals, grains, limit)


def _changed(ground: _Ground, played: _Played, made: _Stretch, word: Sequence[int]) -> list[int]:
    """The word with the stretch as it was solved."""
    new = list(word)
    for row in played.rows:
        own = [p for p in row if p in made.free]
        at = [played.position[p] for p in own]
        own.sort(key=lambda p: int(made.solver.value(made.start[p])))
        for position, p in zip(at, own, strict=True):
            new[position] = ground.letter[p]
    return new
