"""Improve a sequence piece by piece with CP-SAT: what starts within a stretch of time is ordered
anew, everything before and after keeps its sequence.

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
from typing import Any

from stretto.compiler.order.engines.cpsat.constraints import ops_of, precedences
from stretto.compiler.order.engines.cpsat.solver import all_solved, solver
from stretto.compiler.order.kernels.evaluator import evaluate
from stretto.compiler.order.kernels.instance import NO_LIMIT, SearchInstance
from stretto.compiler.order.kernels.jit import ints
from stretto.compiler.order.kernels.op_classes import BACK, W, forwards
from stretto.compiler.order.search_state import SearchState
from stretto.compiler.problem.spec import NONE

LARGEST = 13_000  # operations of a step
LEAST, FIRST, MOST = 60, 150, 400  # operations in a stretch
PATIENCE = 4.0  # seconds, or units of effort, for one stretch
CHAINS = 2  # stretches side by side, whatever the machine has: a seed means the same everywhere

LagEdges = list[list[tuple[int, int]]]


@dataclass(frozen=True, slots=True)
class _Surroundings:
    """What is the same for all sequences. By op index: `before` and `after` (op index and lag), and
    `op_class`. By rank `tokens`: two op indices and the grains that the first of them takes and
    the second gives back."""

    before: LagEdges
    after: LagEdges
    op_class: list[int]
    tokens: list[list[tuple[int, int, int]]]


@dataclass(frozen=True, slots=True)
class _Replayed:
    """A sequence replayed. `rows`: by rank the op indices as they run; by op index its `start` and
    `end` (ticks) and its position in the sequence."""

    rows: list[list[int]]
    start: list[int]
    end: list[int]
    position: list[int]


@dataclass(slots=True)
class _Subproblem:
    """A part of a sequence to be ordered anew: op indices `free`, and by each of these the variable
    of its `start`; `m` is what `solver` is to solve."""

    m: Any
    solver: Any
    free: set[int]
    start: dict[int, Any]


def suits(instance: SearchInstance) -> bool:
    """Whether sequences of the SearchInstance can be cut at a moment: no units, nothing that takes
    no time."""
    return (
        instance.problem.spec.minimize == "makespan"
        and not instance.pairs
        and all(ticks == NONE for ticks in instance.full_backward)
        and all(instance.duration)
        and all(partner == NONE for partner in instance.partner)
    )


def improve(state: SearchState, sequence: Sequence[int], seconds: float) -> None:
    """Offer better and better sequences than `sequence` until so many seconds (or units of effort)
    are spent. Raises `Stop` when the best is good enough."""
    neighbours, random = _neighbours_of(state.instance), Random(state.budget.seed)
    best = [int(u) for u in sequence]
    value = int(evaluate(state.evaluator, ints(best), state.span))
    many, left, until = float(FIRST), seconds, state.budget.clock() + seconds
    while left > 0:
        played = _played(state, best)
        patience = min(PATIENCE, max(0.1, left))
        tried = [
            _stretch(state, neighbours, played, begin, int(many), value)
            for begin in _begins(random, state.instance.size, int(many))
        ]
        if state.stopped():
            break
        for one in tried:
            one.solver = solver(state.budget, patience, random.randrange(1 << 30))
        statuses, interrupted = all_solved([(one.solver, one.m) for one in tried], state.stopped)
        changed: set[int] = set()
        for one, status in zip(tried, statuses, strict=True):
            name = one.solver.status_name(status)
            many = max(LEAST, min(MOST, many * (1.03 if name == "OPTIMAL" else 0.9)))
            if name not in ("OPTIMAL", "FEASIBLE") or one.free & changed:
                continue
            trial = _changed(neighbours, played, one, best)
            new = int(evaluate(state.evaluator, ints(trial), state.span))
            if 0 <= new <= value:
                best, changed = trial, changed | one.free
            if 0 <= new < value:
                value = new
                state.submit(best, "cpsat", 1)
        if interrupted:
            raise KeyboardInterrupt
        state.report("cpsat")
        worked = sum(one.solver.response_proto.deterministic_time for one in tried) / CHAINS
        left = (
            until - state.budget.clock()
            if state.budget.effort is None
            else left - max(worked, 0.01)
        )


def _begins(random: Random, size: int, many: int) -> list[int]:
    """Where stretches begin among all operations by their start, far from each other."""
    room = max(1, size - many // 2)
    first = random.randrange(room)
    return [(first + k * room // CHAINS) % room for k in range(CHAINS)]


def _neighbours_of(instance: SearchInstance) -> _Surroundings:
    before: LagEdges = [[] for _ in range(instance.size)]
    after: LagEdges = [[] for _ in range(instance.size)]
    for a, b, lag in precedences(instance):
        before[b].append((a, lag))
        after[a].append((b, lag))
    op_class = [x for x, many in enumerate(instance.count) for _ in range(many)]
    tokens: list[list[tuple[int, int, int]]] = [[] for _ in range(instance.ranks)]
    for x in forwards(len(instance.rank)):
        forward, back, weight = (ops_of(instance, y) for y in (x, x + BACK, x + W))
        halves = [n for n, q in enumerate(back) if not instance.is_full[q]]
        pairs = [(p, p) for p in forward]
        pairs += list(zip(forward, back, strict=False))
        pairs += [(forward[n], q) for n, q in zip(halves, weight, strict=True)]
        own = tokens[instance.rank[x]]
        own.extend((p, q, instance.free[q]) for p, q in pairs if instance.free[q])
    return _Surroundings(before, after, op_class, tokens)


def _played(state: SearchState, sequence: Sequence[int]) -> _Replayed:
    instance, s, t = state.instance, state.evaluator, state.t
    evaluate(s, ints(sequence), state.span)
    found = _Replayed([], [0] * instance.size, [0] * instance.size, [0] * instance.size)
    for r in range(instance.ranks):
        row = []
        for at in range(int(t.sequence_at[r]), int(t.sequence_at[r + 1])):
            p = int(s.assigned.first[at])
            found.start[p] = int(s.start[0][at])
            found.end[p] = found.start[p] + instance.duration[p]
            found.position[p] = at
            row.append(p)
        found.rows.append(row)
    return found


def _stretch(
    state: SearchState,
    neighbours: _Surroundings,
    played: _Replayed,
    begin: int,
    many: int,
    value: int,
) -> _Subproblem:
    """The operations from the `begin`-th on, by start, to be ordered anew for a step of at most
    `value`."""
    from ortools.sat.python import cp_model

    instance, start = state.instance, played.start
    order = sorted(range(instance.size), key=lambda p: (start[p], played.position[p]))
    past, free, coming = order[:begin], order[begin : begin + many], order[begin + many :]
    made = _Subproblem(cp_model.CpModel(), None, set(free), {})
    m = made.m
    tail, least = _tails(instance, neighbours, played, set(past), coming)
    goal = m.new_int_var(max(least, state.bound), value, "")
    chains = [m.new_int_var(0, value, "") for _ in range(instance.ranks)]
    gone = set(past)
    for row, chain in zip(played.rows, chains, strict=True):
        m.add(goal >= chain)
        own = [p for p in row if p in made.free]
        idle = max([0, *(played.end[p] for p in row if p in gone)])
        behind = next((tail[p] for p in row if p in tail), 0)
        for p in own:
            early = max(
                [idle, *(played.end[q] + lag for q, lag in neighbours.before[p] if q in gone)]
            )
            rest = max([behind, *(lag + tail[q] for q, lag in neighbours.after[p] if q in tail)])
            late = value - rest - instance.duration[p]
            made.start[p] = m.new_int_var(early, late, "")
            m.add(chain >= made.start[p] + instance.duration[p] + rest)
            m.add_hint(made.start[p], start[p])
        m.add_no_overlap(
            [m.new_fixed_size_interval_var(made.start[p], instance.duration[p], "") for p in own]
        )
    for p in free:
        for q, lag in neighbours.before[p]:
            if q in made.free:
                m.add(made.start[p] >= made.start[q] + instance.duration[q] + lag)
    for r, row in enumerate(played.rows):
        _memory(instance, neighbours, played, made, r, [p for p in row if p in gone], value)
    m.minimize(2 * instance.ranks * goal + sum(chains))
    return made


def _tails(
    instance: SearchInstance,
    neighbours: _Surroundings,
    played: _Replayed,
    gone: set[int],
    coming: Sequence[int],
) -> tuple[dict[int, int], int]:
    """Ticks from the start of each of `coming` to the end of the step, in the sequences that they
    have; and what the step takes at least for what is before the stretch."""
    following = {a: b for row in played.rows for a, b in pairwise(row)}
    tail: dict[int, int] = {}
    for p in reversed(coming):
        rest = max([0, *(lag + tail[q] for q, lag in neighbours.after[p])])
        if p in following:
            rest = max(rest, tail[following[p]])
        tail[p] = instance.duration[p] + rest
    before = [
        played.end[q] + lag + tail[p]
        for p in coming
        for q, lag in neighbours.before[p]
        if q in gone
    ]
    before += [played.end[a] + tail[b] for a, b in following.items() if a in gone and b in tail]
    return tail, max([0, *before, *(played.end[p] for p in gone)])


def _memory(
    instance: SearchInstance,
    neighbours: _Surroundings,
    played: _Replayed,
    made: _Subproblem,
    r: int,
    gone: Sequence[int],
    value: int,
) -> None:
    """What rank r holds during the stretch; what it held before and gives back after it narrows
    the limit. `gone`: what it ran before."""
    limit, m, before = instance.limit[r], made.m, set(gone)
    if limit >= NO_LIMIT:
        return
    begin = max([0, *(played.end[p] for p in gone)])
    intervals, grains = [], []
    for taker, giver, many in neighbours.tokens[r]:
        if taker in before and giver not in before and giver not in made.free:
            limit -= many
        elif taker in made.free or (taker in before and giver in made.free):
            start = made.start[taker] if taker in made.free else begin
            end = made.start[giver] + instance.duration[giver] if giver in made.free else value
            length = m.new_int_var(0, value, "")
            intervals.append(m.new_interval_var(start, length, end, ""))
            grains.append(many)
    if intervals:
        m.add_cumulative(intervals, grains, limit)


def _changed(
    neighbours: _Surroundings, played: _Replayed, made: _Subproblem, sequence: Sequence[int]
) -> list[int]:
    """The sequence with the stretch as it was solved."""
    new = list(sequence)
    for row in played.rows:
        own = [p for p in row if p in made.free]
        at = [played.position[p] for p in own]
        own.sort(key=lambda p: int(made.solver.value(made.start[p])))
        for position, p in zip(at, own, strict=True):
            new[position] = neighbours.op_class[p]
    return new
