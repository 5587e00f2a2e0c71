"""Modulo schedules: every rank repeats one circular order of its op classes, cut off at both ends.
Annealed on these circles, and judged by the whole sequence that they unroll to. List schedules lose
much where several stages share a rank with little memory; circles are small, and each says all
about its sequence: this searches over some dozen classes where sequences have thousands.

On a rank the class at position a of its circle runs, in round k, its operation k - offset; to move
it on past the end of the circle adds one to its stage offset. (Circles of two or three rounds,
others at the beginning and the end, and phases found by CP-SAT on a coarse grid gave nothing
better.)
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from random import Random
from typing import Any

import msgspec

from stretto.compiler.order.engines.priority_rules import periods, unhindered
from stretto.compiler.order.engines.spending import RunBatch, RunLength, spend
from stretto.compiler.order.kernels.annealing import (
    Cooling,
    Goal,
    copy,
    cutoff,
    heat,
    threshold,
)
from stretto.compiler.order.kernels.arrays import Arrays
from stretto.compiler.order.kernels.bundle import Bundle, Ints
from stretto.compiler.order.kernels.evaluator import (
    Evaluator,
    blank,
    evaluate,
    evaluator_of,
    mean_end,
    objective,
    remaining,
    replayed,
)
from stretto.compiler.order.kernels.instance import SearchInstance, instance_of
from stretto.compiler.order.kernels.jit import compiled, inner, ints
from stretto.compiler.order.kernels.moves import draw
from stretto.compiler.order.kernels.op_classes import F, W, forwards, kind_of, stage_of
from stretto.compiler.order.kernels.replay import assign
from stretto.compiler.order.open_search import WORK
from stretto.compiler.order.search_state import SearchState, start_search
from stretto.compiler.problem.expand import expand

NAME = "periodic"
KEPT = 8  # schedules that are kept as starts
SEEDS = 100  # from one run of the engine in a search to the next
HEATS = (0.03, 0.1, 0.01, 0.3)  # to begin with, in mean durations for each micro-batch
LONG = 20_000  # operations, beyond which circles are judged by fewer micro-batches
TURNS = 3  # times the depth of the chain: how many these are
LATE = (0, 2, 4, 1)  # weight gradients after their input gradients, in their own durations
PACES = 150  # at which one of two starts is drawn
WAITS = (0, 0, 1, 2, 4, 6)  # halves of a mean duration


@dataclass(frozen=True, slots=True)
class ModuloSchedule(Bundle):
    """`circle`: the circles one after the other, rank r's from `class_at[r]` of the Arrays on;
    `offset` (rounds) and `depth` (along the chain of forwards and backwards) by class. The rest is
    for changes: what they may have to undo, and the ranks that they changed."""

    circle: Ints
    offset: Ints
    depth: Ints
    old_circle: Ints
    old_offset: Ints
    changed: Ints


def suits(instance: SearchInstance) -> bool:
    """Whether circles say everything: equally many micro-batches in all pipelines, nothing
    written, no rules, no pairs."""
    counts = {instance.count[x] for x in forwards(len(instance.rank))}
    plain = not instance.extra and not instance.problem.spec.exceptions and instance.slices == 1
    return len(counts) == 1 and plain and not instance.pairs


def run(state: SearchState, share: float) -> None:
    """Anneal from several seeds, from others each time that the engine runs in a search; without
    effort, or a share, submit two schedules as they are to begin with."""
    if not suits(state.instance):
        return
    if state.budget.effort == 0 or not share:
        _submit_starts(state)
        return
    short = _shortened_search(state)
    size = short.instance.size
    until = state.left() * (1 - share)
    if _annealed(state, short, 0, 0) is None:
        return  # pipelines that have to take turns

    def seconds() -> float:
        began = state.budget.clock()
        _annealed(state, short, 0, 100)
        return (state.budget.clock() - began) / 100

    moves = RunLength(max(500, min(200_000, 300 * WORK // size)), 500, 3)
    many = moves.moves(state, until, seconds)
    first = SEEDS * state.runs.get(NAME, 0)
    batch = RunBatch(NAME, many * size, KEPT, first)
    spend(state, until, lambda k: _annealed(state, short, k, many), batch)


def _submit_starts(state: SearchState) -> None:
    if state.instance.size <= LONG:
        for seed in range(2):
            schedule = begin(state.instance, state.evaluator, seed)
            state.submit(unrolled(state.t, schedule), NAME, seed)


def _shortened_search(state: SearchState) -> SearchState:
    """The search, or one with fewer micro-batches in each pipeline where there are many: its
    circles are as good for all of them, and found sooner."""
    instance = state.instance
    if instance.size <= LONG:
        return state
    spec = instance.problem.spec
    many = TURNS * (max(s for _, s in instance.stages) + 1)
    lines = tuple(
        msgspec.structs.replace(line, microbatches=min(many, line.microbatches))
        for line in spec.pipelines
    )
    total = sum(line.microbatches for line in lines)
    short = expand(msgspec.structs.replace(spec, pipelines=lines, microbatches=total))
    if len(short.operations) == instance.size:
        return state
    return start_search(instance_of(short), state.budget, state.bound)


def _annealed(state: SearchState, short: SearchState, k: int, moves: int) -> Any:
    """The flat sequence of the best circles that a run with seed k finds for `short`, for all
    micro-batches; None where it finds none."""
    instance, mean = short.instance, short.mean_ticks()
    s = evaluator_of(short.t, short.samples(), state.budget.seed + k, state.stop)
    schedule = begin(instance, s, k)
    kept, sequence, best = copied(schedule), blank(instance.size), blank(instance.size)
    cooling = Cooling(moves, HEATS[k % len(HEATS)] * mean * max(instance.count), 0.1 * mean)
    goal = Goal(state.span, 0.5, state.enough if short is state else 0)
    value = anneal(s, schedule, kept, sequence, best, cooling, goal)
    if value < 0 or short is state:
        return best if value >= 0 else None
    return unrolled(state.t, kept)


def begin(instance: SearchInstance, s: Evaluator, seed: int) -> ModuloSchedule:
    """Circles to begin with. For every other seed, of a steady state in which everything runs as
    soon as its data is there, with a period so long that memory suffices; at worst one micro-batch
    after the other. For the others the best of some in which micro-batches move on at one pace,
    drawn at random, the same on all ranks (the building blocks of Qi et al., "Pipeline Parallelism
    with Controllable Memory")."""
    starts = unhindered(instance, LATE[seed % len(LATE)])
    least = max(periods(instance))
    longest = 1 + max(starts) + max(instance.duration)
    period = least
    while True:
        best = steady_state(instance, starts, period)
        value = _value(s, best)
        if period >= longest or value >= 0 or s.stop_now[0] > 0:
            break
        period = min(longest, period + max(1, least // 20))
    random = Random(seed)
    half = sum(instance.duration) / len(instance.duration) / 2
    for _ in range(0 if seed % 2 else PACES):
        if s.stop_now[0] > 0:
            break
        waits = [round(random.choice(WAITS) * half) for _ in range(6)]
        starts = unhindered(instance, random.choice(LATE), waits)
        period = round(least * random.choice((1, 1, 1.05, 1.1, 1.2, 1.3)))
        other = steady_state(instance, starts, period)
        new = _value(s, other)
        if new >= 0 and (new < value or value < 0):
            best, value = other, new
    return best


def steady_state(instance: SearchInstance, starts: Sequence[int], period: int) -> ModuloSchedule:
    """The circles of a steady state in which operation n of class x starts at
    `starts[x] + n · period` (ticks)."""
    flat: list[int] = []
    offset = [0] * len(instance.rank)
    for classes in instance.classes_by_rank():
        here = sorted(classes, key=lambda x: (starts[x] % period, kind_of(x), x))
        flat += here
        for x in here:
            offset[x] = starts[x] // period
    depth = []
    for x in range(len(instance.rank)):
        p, stage = instance.stages[stage_of(x)]
        many = sum(1 for q, _ in instance.stages if q == p)
        depth.append(stage if kind_of(x) == F else 2 * many - 1 - stage)
    changed = ints([0] * instance.ranks)
    return ModuloSchedule(ints(flat), ints(offset), ints(depth), ints(flat), ints(offset), changed)


def copied(schedule: ModuloSchedule) -> ModuloSchedule:
    """The same, in memory of its own."""
    return ModuloSchedule(*[getattr(schedule, one.name).copy() for one in fields(schedule)])


def unrolled(t: Arrays, schedule: ModuloSchedule) -> Ints:
    """The flat sequence that the circles stand for."""
    sequence = blank(len(t.ticks))
    for r in range(len(t.limit)):
        unroll(t, schedule, r, sequence)
    return sequence


def _value(s: Evaluator, schedule: ModuloSchedule) -> int:
    """The makespan (ticks) of the circles' sequence, or -1 where it cannot run."""
    return int(evaluate(s, unrolled(s.t, schedule), False))


@compiled
def unroll(t: Arrays, c: ModuloSchedule, r: int, sequence: Ints) -> None:
    """Write the sequence of rank r that its circle stands for."""
    lo, hi = t.class_at[r], t.class_at[r + 1]
    p = t.sequence_at[r]
    if lo == hi:
        return
    first, last = 1 << 60, -(1 << 60)
    for a in range(lo, hi):
        x = t.op_class[a]
        first = min(first, c.offset[x])
        last = max(last, c.offset[x] + t.count[x])
    for k in range(first, last):
        for a in range(lo, hi):
            x = c.circle[a]
            n = k - c.offset[x]
            if 0 <= n < t.count[x]:
                sequence[p] = x
                p += 1


@inner
def shift(t: Arrays, c: ModuloSchedule, x: int, by: int) -> None:
    """Move class x past `by` others on its rank's circle, backwards where negative."""
    lo, hi = t.class_at[t.rank[x]], t.class_at[t.rank[x] + 1]
    others = hi - lo - 1
    if others < 1:
        c.offset[x] += by
        return
    a = lo
    while c.circle[a] != x:
        a += 1
    goal = a - lo + by
    rounds = goal // others
    goal -= rounds * others
    c.offset[x] += rounds
    for p in range(a, hi - 1):
        c.circle[p] = c.circle[p + 1]
    for p in range(hi - 1, lo + goal, -1):
        c.circle[p] = c.circle[p - 1]
    c.circle[lo + goal] = x


@compiled
def anneal(
    s: Evaluator,
    c: ModuloSchedule,
    kept: ModuloSchedule,
    sequence: Ints,
    best: Ints,
    cooling: Cooling,
    goal: Goal,
) -> int:
    """Anneal the circles; the best ones seen go into `kept`, their sequence into `best`. Its value
    (ticks), or -1 if what was given cannot run."""
    for r in range(len(s.t.limit)):
        c.changed[r] = 1
    if not _write(s, c, sequence) or not replayed(s, s.nominal, sequence, s.never):
        return -1
    found = objective(s, s.nominal, sequence, goal.span)
    mean = mean_end(s, s.nominal)
    cost = found + goal.weight * mean
    _keep(c, kept, sequence, best)
    for move in range(cooling.moves):
        if found <= goal.enough or s.stop_now[0] > 0:
            break
        hot = heat(cooling, move)
        copy(c.circle, c.old_circle)
        copy(c.offset, c.old_offset)
        for _ in range(1 + draw(s.random, 2)):
            _change(s.t, c, s.random)
        if not _changed(s.t, c):
            continue
        allowed = threshold(cost, hot, s.random)
        cut = cutoff(allowed, mean, hot, goal)
        if _write(s, c, sequence) and replayed(s, s.nominal, sequence, cut):
            new = objective(s, s.nominal, sequence, goal.span)
            ended = mean_end(s, s.nominal)
            if new + goal.weight * ended <= allowed:
                mean, cost = ended, new + goal.weight * ended
                if new < found:
                    found = new
                    _keep(c, kept, sequence, best)
                continue
        copy(c.old_circle, c.circle)
        copy(c.old_offset, c.offset)
        _write(s, c, sequence)
    return int(found)


@inner
def _change(t: Arrays, c: ModuloSchedule, random: Ints) -> None:
    """One class moved; the same on a stretch of ranks; all classes from a depth on, or up to it,
    a round later or earlier; all weight gradients of these."""
    ranks = len(t.limit)
    a = draw(random, len(t.op_class))
    x = t.op_class[a]
    r = t.rank[x]
    many = t.class_at[r + 1] - t.class_at[r]
    by = 1 + draw(random, 2 if draw(random, 3) > 0 else many + 1)
    if draw(random, 2) == 0:
        by = -by
    dice = draw(random, 10)
    if dice < 8:
        role, until = a - t.class_at[r], r + 1
        if dice >= 5:
            until += draw(random, ranks - r)
        for q in range(r, until):
            if role < t.class_at[q + 1] - t.class_at[q]:
                shift(t, c, t.op_class[t.class_at[q] + role], by)
        return
    later = draw(random, 2) == 0
    for y in range(len(c.offset)):
        if (c.depth[y] >= c.depth[x]) == later and (dice == 8 or kind_of(y) == W):
            c.offset[y] += 1 if by > 0 else -1


@inner
def _keep(c: ModuloSchedule, kept: ModuloSchedule, sequence: Ints, best: Ints) -> None:
    """Copy the circles, and their sequence, as the best ones."""
    copy(c.circle, kept.circle)
    copy(c.offset, kept.offset)
    copy(sequence, best)


@inner
def _changed(t: Arrays, c: ModuloSchedule) -> bool:
    """Mark the ranks whose circles are not what they were; whether there are any."""
    some = False
    for r in range(len(t.limit)):
        c.changed[r] = 0
        for a in range(t.class_at[r], t.class_at[r + 1]):
            x = c.circle[a]
            if x != c.old_circle[a] or c.offset[x] != c.old_offset[x]:
                c.changed[r] = 1
                some = True
    return some


@inner
def _write(s: Evaluator, c: ModuloSchedule, sequence: Ints) -> bool:
    """Unroll the changed circles; False if a rank's sequence breaks its limit or what it needs of
    itself, and then sequences and operations of the ranks after it are those before the change."""
    t = s.t
    for r in range(len(t.limit)):
        s.since[0][r] = t.sequence_at[r]
        if c.changed[r] > 0:
            unroll(t, c, r, sequence)
            if not assign(t, r, t.sequence_at[r + 1] - 1, sequence, s.assigned):
                return False
            remaining(s, s.nominal, r, sequence)
    return True
