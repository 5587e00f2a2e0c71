"""Priority search: one number per op class says when, in a steady state, its operations should run;
operation n scores number + n · period, and the list scheduler turns scores into a sequence. Every
point keeps to the limit, and a move changes the steady state of all micro-batches at once. Annealed
on the numbers, and on how many activations each rank may have in flight.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

from stretto.compiler.order.engines.priority_rules import NEVER, periods, unhindered
from stretto.compiler.order.engines.spending import RunBatch, RunLength, spend
from stretto.compiler.order.kernels.annealing import Cooling, Goal, copy, heat, threshold
from stretto.compiler.order.kernels.arrays import Arrays
from stretto.compiler.order.kernels.bundle import Bundle, Ints
from stretto.compiler.order.kernels.evaluator import blank
from stretto.compiler.order.kernels.instance import SearchInstance
from stretto.compiler.order.kernels.jit import compiled, fast, inner, ints
from stretto.compiler.order.kernels.list_scheduler import (
    ListState,
    Policy,
    list_schedule,
    list_state,
)
from stretto.compiler.order.kernels.moves import draw
from stretto.compiler.order.kernels.op_classes import F, W, kind_of, stage_of
from stretto.compiler.order.search_state import SearchState

NAME = "offsets"
ROUND = 12_000_000  # operations listed in one run

WAYS: tuple[tuple[int, float, float], ...] = (
    (32, 3.0, 0.1),
    (16, 6.0, 0.5),
    (0, 1.0, 0.1),
    (32, 1.0, 0.1),
    (64, 3.0, 0.1),
    (16, 3.0, 0.1),
    (24, 3.0, 0.3),
    (0, 0.3, 0.1),
    (48, 2.0, 0.1),
    (32, 6.0, 0.5),
)
"""The lookahead (64ths), how hot to begin (mean durations), how much the mean end counts: what won
on one problem or another."""


@dataclass(frozen=True, slots=True)
class PriorityState(Bundle):
    """What a run works on: the `policy`, whose keys and caps are changed. `depth` (of its stage
    along the chain) by class, `step` (grains by which a cap changes) by rank. The rest is memory:
    for the list scheduler, for what is undone, and for the best sequence."""

    t: Arrays
    policy: Policy
    list: ListState
    depth: Ints
    step: Ints
    old_key: Ints
    old_cap: Ints
    best: Ints
    random: Ints


def run(state: SearchState, share: float) -> None:
    """Anneal from several seeds in several ways."""
    instance, mean = state.instance, state.mean_ticks()
    pairing = bool(instance.pairs)
    until = state.left() * (1 - share)
    depth = max(s for _, s in instance.stages) + 1
    lates = ((4, 2), (4 * depth, 1), (2 * depth, 2), (8 * depth, 1), (0, 2))

    def seconds() -> float:
        began, some = state.budget.clock(), 20 if fast() else 4
        trial = prepare(instance, state.t, state.budget.seed, Start(lookahead=32), state.stop)
        anneal(trial, Cooling(some, mean, mean / 50), Goal(state.span, 0.1, state.enough))
        return (state.budget.clock() - began) / some

    length = RunLength(max(200, min(20_000, ROUND // max(1, instance.size))), 50, 4)
    moves = length.moves(state, until, seconds)

    def work(k: int) -> Any:
        lookahead, hot, weight = WAYS[k % len(WAYS)]
        start = Start(*lates[k // 2 % len(lates)], lookahead, pairing)
        s = prepare(instance, state.t, state.budget.seed + k, start, state.stop)
        cooling = Cooling(moves, hot * mean, hot * mean / 50)
        value = anneal(s, cooling, Goal(state.span, weight, state.enough))
        return s.best if value >= 0 else None

    spend(state, until, work, RunBatch(NAME, moves * instance.size, kept=4, last=10 * len(WAYS)))


class Start(NamedTuple):
    """Where a run begins: weight gradients `late` times their duration after they could run, the
    period in `halves` of the least; and what the policy says of `lookahead` and `pairing`."""

    late: int = 4
    halves: int = 2
    lookahead: int = 0
    pairing: bool = False


def prepare(
    instance: SearchInstance, t: Arrays, seed: int, start: Start, stop: Ints | None = None
) -> PriorityState:
    """The state of a run that begins with numbers as if every operation ran as soon as its data is
    there."""
    key = unhindered(instance, start.late)
    sizes = [NEVER] * instance.ranks
    for x, r in enumerate(instance.rank):
        if kind_of(x) == F and instance.count[x] and instance.alloc[instance.base[x]]:
            sizes[r] = min(sizes[r], instance.alloc[instance.base[x]])
    policy = Policy(
        ints(key),
        ints([max(1, ticks * start.halves // 2) for ticks in periods(instance)]),
        ints([NEVER] * instance.ranks),
        ints(instance.limit),
        start.lookahead,
        True,
        start.pairing,
    )
    return PriorityState(
        t,
        policy,
        list_state(t, stop),
        ints([instance.stages[stage_of(x)][1] for x in range(len(key))]),
        ints([0 if size == NEVER else size for size in sizes]),
        ints(key),
        ints(instance.limit),
        blank(instance.size),
        ints([(seed * 104729 + 4321) % 2147483646 + 1]),
    )


@compiled
def anneal(s: PriorityState, cooling: Cooling, goal: Goal) -> int:
    """Anneal the numbers; the best sequence goes to `s.best`. Its value (ticks), or -1 if none was
    found."""
    key, cap = s.policy.key, s.policy.in_flight_cap
    found = _value(s, goal)
    cost = 1e18
    if found >= 0:
        cost = found + goal.weight * _mean(s)
        copy(s.list.sequence, s.best)
    scale = max(1, int(2 * cooling.hot))
    for move in range(cooling.moves):
        if 0 <= found <= goal.enough or s.list.stop_now[0] > 0:
            break
        hot = heat(cooling, move)
        copy(key, s.old_key)
        copy(cap, s.old_cap)
        for _ in range(1 + draw(s.random, 3)):
            _change(s, 1 + draw(s.random, scale))
        value = _value(s, goal)
        new = value + goal.weight * _mean(s)
        if value >= 0 and new <= threshold(cost, hot, s.random):
            cost = new
            if found < 0 or value < found:
                found = value
                copy(s.list.sequence, s.best)
        else:
            copy(s.old_key, key)
            copy(s.old_cap, cap)
    return int(found)


@inner
def _value(s: PriorityState, goal: Goal) -> int:
    """What is minimized, of the sequence that the numbers make; -1 if the scheduler got stuck."""
    value = list_schedule(s.t, s.policy, s.list)
    if value >= 0 and goal.span:
        value = 0
        for r in range(len(s.list.stop)):
            value = max(value, s.list.stop[r] - s.list.begin[r])
    return value


@inner
def _mean(s: PriorityState) -> float:
    """The mean end of the ranks (ticks)."""
    total = 0.0
    for r in range(len(s.list.stop)):
        total += s.list.stop[r]
    return float(total / len(s.list.stop))


@inner
def _change(s: PriorityState, scale: int) -> None:
    """Change some numbers: one; those of a kind by a ramp along the chain; those of a kind from a
    stage on, or up to it; all weight gradients of a rank; or a rank's cap."""
    key, cap, random = s.policy.key, s.policy.in_flight_cap, s.random
    classes = len(key)
    x = draw(random, classes)
    for _ in range(20):
        if s.t.count[x] > 0:
            break
        x = draw(random, classes)
    kind, depth, rank = kind_of(x), s.depth[x], s.t.rank[x]
    by = draw(random, 2 * scale + 1) - scale
    dice = draw(random, 10)
    if dice < 3:
        key[x] += by
    elif dice < 5:
        for y in range(kind, classes, 3):
            key[y] += by * (s.depth[y] - depth) // 4
    elif dice < 7:
        below = draw(random, 2) == 0
        for y in range(kind, classes, 3):
            if (s.depth[y] <= depth) == below:
                key[y] += by
    elif dice < 8:
        for y in range(W, classes, 3):
            if s.t.rank[y] == rank:
                key[y] += by
    elif s.step[rank] > 0:
        more = s.step[rank] if draw(random, 2) == 0 else -s.step[rank]
        above = dice == 9
        for r in range(len(cap)):
            if r == rank or (above and r > rank):
                old = min(cap[r], s.step[rank] * 100_000)
                cap[r] = min(s.t.limit[r], max(s.step[rank], old + more))
    else:
        key[x] += by
