"""SearchInstance → the constraints of CP-SAT: when every operation starts and ends, who overlaps
with whom, which backwards run whole. Every order of the SearchInstance that is as good as the one
asked for is among the solutions.

An overlapped unit stands in its rank's sequence as its forward, with the unit's length; its
backward starts with it. The edges and the earliest and latest starts of `cuts_of` are redundant,
and what makes small instances close.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from stretto.compiler.order.engines.cpsat.cuts import Cuts
from stretto.compiler.order.kernels.instance import NO_LIMIT, SearchInstance
from stretto.compiler.order.kernels.op_classes import (
    BACK,
    F,
    W,
    backward_of,
    forward_of,
    forwards,
    kind_of,
    stage_of,
    weight_of,
)
from stretto.compiler.problem.spec import NONE
from stretto.compiler.problem.topological import topological


@dataclass(slots=True)
class CpVariables:
    """By op index when each operation starts and ends (variables, or sums of them); the W of a
    whole backward ends with it. `overlaps`: by op indices of a forward and a backward, whether they
    are one unit. `whole`: by op index of a backward that may run with its W or without, whether it
    does, in a unit or alone. `goal`: what is minimized. `rows`: by rank what it runs one at a
    time."""

    goal: Any
    start: list[Any] = field(default_factory=list)
    end: list[Any] = field(default_factory=list)
    overlaps: dict[tuple[int, int], Any] = field(default_factory=dict)
    whole: dict[int, Any] = field(default_factory=dict)
    rows: list[list[Any]] = field(default_factory=list)


def constraints(
    m: Any, instance: SearchInstance, known: Cuts, least: int, most: int
) -> CpVariables:
    """Fill `m`, an empty CpModel, with the orders whose value is from `least` to `most`."""
    span = instance.problem.spec.minimize == "span"
    horizon = _horizon(instance) if span else most
    made = CpVariables(m.new_int_var(least, most, ""), rows=[[] for _ in range(instance.ranks)])
    for p, before in enumerate(known.before):
        late = horizon if span else most - known.behind[p]
        made.start.append(m.new_int_var(before, max(before, late), ""))
        made.end.append(made.start[p] + instance.duration[p])
    edges = [*precedences(instance), *((a, b, 0) for a, b in known.edges)]
    _units(m, instance, made, edges)
    _intervals(m, instance, made, horizon)
    for a, b, lag in edges:
        m.add(made.start[b] >= made.end[a] + lag)
    for r, row in enumerate(made.rows):
        if row:
            m.add_no_overlap(row)
            _memory(m, instance, made, r, horizon)
            _goal(m, instance, made, known, r, horizon if span else 0)
    sources = [
        x for x in forwards(len(instance.count)) if instance.count[x] and not instance.needs[x]
    ]
    if len(sources) == 1 and not instance.extra:
        m.add(made.start[instance.base[sources[0]]] == 0)
    return made


def ops_of(instance: SearchInstance, x: int) -> range:
    """The op indices of a class."""
    return range(instance.base[x], instance.base[x] + instance.count[x])


def _horizon(instance: SearchInstance) -> int:
    """By then everything has ended, if nothing starts later than it can."""
    lag = max((lag for needs in instance.needs for _, lag in needs), default=0)
    lag = max([lag, *(lag for edges in instance.extra.values() for _, lag in edges)])
    unit = max([0, *instance.pairs.values(), *instance.full_backward])
    return sum(instance.duration) + instance.size * (lag + unit)


def precedences(instance: SearchInstance) -> Iterator[tuple[int, int, int]]:
    """Op indices of which the second starts so many ticks after the first has ended: data, what is
    its own, class by class in turn, and what was written. Nothing of weight gradients that may run
    inside a full backward."""
    for x in range(len(instance.rank)):
        if kind_of(x) == W and instance.full_backward[stage_of(x)] != NONE:
            continue
        back = ops_of(instance, x - 1) if kind_of(x) != F else range(0)
        halves = [q for q in back if not instance.is_full[q]]
        for n, p in enumerate(ops_of(instance, x)):
            if n:
                yield p - 1, p, 0
            for y, lag in instance.needs[x]:
                if instance.count[y]:
                    yield instance.base[y] + n, p, lag
            if kind_of(x) == BACK and instance.forwards_before[p]:
                yield back[instance.forwards_before[p] - 1], p, 0
            if kind_of(x) == W:
                yield halves[n], p, 0
    for p, edges in instance.extra.items():
        for q, lag in edges:
            yield q, p, lag


def _units(
    m: Any, instance: SearchInstance, made: CpVariables, edges: list[tuple[int, int, int]]
) -> None:
    """A variable for every two operations that may be one unit: neither has to follow the other,
    and neither was written alone."""
    if not instance.pairs:
        return
    after = _after(instance, edges)
    for x, y in instance.pairs:
        for p in ops_of(instance, x):
            for q in ops_of(instance, y):
                free = p not in instance.alone and q not in instance.alone
                if free and not (after[p] >> q & 1 or after[q] >> p & 1):
                    one = made.overlaps[p, q] = m.new_bool_var("")
                    m.add(made.start[p] == made.start[q]).only_enforce_if(one)


def _after(instance: SearchInstance, edges: list[tuple[int, int, int]]) -> list[int]:
    """By op index the set (as bits) of those that edges lead to."""
    heads: list[list[int]] = [[] for _ in range(instance.size)]
    waits = [0] * instance.size
    for a, b, _ in edges:
        heads[a].append(b)
        waits[b] += 1
    order = topological(heads, waits)
    after = [0] * instance.size
    for p in reversed(order):
        for q in heads[p]:
            after[p] |= after[q] | 1 << q
    return after


def _intervals(m: Any, instance: SearchInstance, made: CpVariables, most: int) -> None:
    """What every operation occupies of its rank, and when it ends."""
    units: dict[int, list[tuple[Any, int]]] = {}
    for (p, q), one in made.overlaps.items():
        ticks = instance.pairs[_class(instance, p), _class(instance, q)]
        units.setdefault(p, []).append((one, ticks))
        units.setdefault(q, []).append((one, ticks))
    for x, r in enumerate(instance.rank):
        for p in ops_of(instance, x):
            if kind_of(x) == F and p in units:
                made.rows[r].append(_forward(m, instance, made, p, units[p], most))
            elif kind_of(x) == BACK and (p in units or instance.full_backward[stage_of(x)] != NONE):
                made.rows[r].extend(_backward(m, instance, made, x, p, units.get(p, []), most))
            elif instance.duration[p] and not (
                kind_of(x) == W and instance.full_backward[stage_of(x)] != NONE
            ):
                ticks = instance.duration[p]
                made.rows[r].append(m.new_fixed_size_interval_var(made.start[p], ticks, ""))
    for g, ticks in enumerate(instance.full_backward):
        if ticks != NONE:
            made.rows[instance.rank[forward_of(g)]].extend(_weights(m, instance, made, g, most))


def _class(instance: SearchInstance, p: int) -> int:
    """The class of an operation."""
    return max(x for x, many in enumerate(instance.count) if many and instance.base[x] <= p)


def _forward(
    m: Any,
    instance: SearchInstance,
    made: CpVariables,
    p: int,
    units: list[tuple[Any, int]],
    most: int,
) -> Any:
    """A forward, alone or with the length of its unit."""
    alone = instance.duration[p]
    m.add_at_most_one([one for one, _ in units])
    ticks = m.new_int_var(
        min(alone, *(t for _, t in units)), max(alone, *(t for _, t in units)), ""
    )
    m.add(ticks == alone + sum((t - alone) * one for one, t in units))
    made.end[p] = m.new_int_var(0, most, "")
    return m.new_interval_var(made.start[p], ticks, made.end[p], "")


def _backward(
    m: Any,
    instance: SearchInstance,
    made: CpVariables,
    x: int,
    p: int,
    units: list[tuple[Any, int]],
    most: int,
) -> Iterator[Any]:
    """A backward: by itself, whole by itself, or in a unit."""
    start, full_backward = made.start[p], instance.full_backward[stage_of(x)]
    alone = m.new_bool_var("")
    choices = [(alone, instance.duration[p])]
    yield m.new_optional_fixed_size_interval_var(start, instance.duration[p], alone, "")
    if full_backward != NONE:
        whole = m.new_bool_var("")
        choices.append((whole, full_backward))
        yield m.new_optional_fixed_size_interval_var(start, full_backward, whole, "")
        made.whole[p] = 1 - alone if "B" in instance.problem.spec.overlap else whole
    choices += units
    m.add_exactly_one([one for one, _ in choices])
    made.end[p] = m.new_int_var(0, most, "")
    m.add(made.end[p] == start + sum(ticks * one for one, ticks in choices))


def _weights(
    m: Any, instance: SearchInstance, made: CpVariables, g: int, most: int
) -> Iterator[Any]:
    """Weight gradients that end with their backwards where these are whole; of the others in
    turn."""
    last = None
    for q, p in zip(ops_of(instance, backward_of(g)), ops_of(instance, weight_of(g)), strict=True):
        start, whole = made.start[p], made.whole[q]
        apart = m.new_bool_var("")
        m.add(apart == 1 - whole)
        made.end[p] = m.new_int_var(0, most, "")
        m.add(start >= made.end[q]).only_enforce_if(apart)
        m.add(made.end[p] == start + instance.duration[p]).only_enforce_if(apart)
        m.add(made.end[p] == made.end[q]).only_enforce_if(~apart)
        yield m.new_optional_fixed_size_interval_var(start, instance.duration[p], apart, "")
        latest = m.new_int_var(0, most, "")
        m.add(latest >= made.end[p]).only_enforce_if(apart)
        if last is not None:
            m.add(latest >= last)
            m.add(start >= last).only_enforce_if(apart)
        last = latest


def _memory(m: Any, instance: SearchInstance, made: CpVariables, r: int, most: int) -> None:
    """What is held at each moment: a cumulative of what is taken at the start of F and given back
    at the end of I and of W. One stage with whole release needs only that a forward waits for the
    W of the micro-batch that many before it."""
    limit = instance.limit[r]
    if limit >= NO_LIMIT:
        return
    classes = instance.classes(r)
    forwards = [x for x in classes if kind_of(x) == F]
    if len(forwards) == 1 and _chain(m, instance, made, forwards[0], limit):
        return
    intervals, grains = [], []

    def hold(p: int, end: Any, many: int) -> None:
        length = m.new_int_var(0, most, "")
        intervals.append(m.new_interval_var(made.start[p], length, end, ""))
        grains.append(many)

    for x in forwards:
        backs, weights = ops_of(instance, x + BACK), list(ops_of(instance, x + W))
        for n, p in enumerate(ops_of(instance, x)):
            if instance.free[p]:
                hold(p, made.end[p], instance.free[p])
            if n < len(backs):
                q = backs[n]
                if instance.free[q]:
                    hold(p, made.end[q], instance.free[q])
                if not instance.is_full[q] and instance.free[w := weights.pop(0)]:
                    hold(p, made.end[w], instance.free[w])
    m.add_cumulative(intervals, grains, limit)


def _chain(m: Any, instance: SearchInstance, made: CpVariables, x: int, limit: int) -> bool:
    last = x + W if instance.count[x + W] else x + BACK
    forwards, ends = ops_of(instance, x), ops_of(instance, last)
    if (
        len(ends) != len(forwards)
        or not instance.alloc[forwards[0]]
        or instance.full_backward[stage_of(x)] != NONE
    ):
        return False
    if last == x + W and any(instance.free[q] for q in ops_of(instance, x + BACK)):
        return False
    room = limit // instance.alloc[forwards[0]]
    for p, q in zip(forwards[room:], ends, strict=False):
        m.add(made.start[p] >= made.end[q])
    return True


def _goal(
    m: Any, instance: SearchInstance, made: CpVariables, known: Cuts, r: int, most: int
) -> None:
    """What is minimized is no less than what rank r says. `most`: of a span, the latest start."""
    first = m.new_int_var(0, most, "") if most else 0
    for x in instance.classes(r):
        for p in ops_of(instance, x):
            m.add(made.goal >= made.end[p] - first)
            if most:
                m.add(first <= made.start[p])
            else:
                m.add(made.goal >= made.start[p] + known.behind[p])
