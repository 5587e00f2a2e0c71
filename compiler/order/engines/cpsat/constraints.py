"""Model → the constraints of CP-SAT: when every operation starts and ends, who overlaps with whom,
which backwards run whole. Every order of the Model that is as good as the one asked for is among
the solutions.

An overlapped unit stands in its rank's sequence as its forward, with the unit's length; its
backward starts with it. The edges and the earliest and latest starts of `implied` are redundant,
and what makes small instances close.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from stretto.compiler.order.engines.cpsat.cuts import Implied
from stretto.compiler.order.kernels.instance import BACK, NO_LIMIT, F, Model, W
from stretto.compiler.problem.spec import NONE


@dataclass(slots=True)
class Moments:
    """Of every place when it starts and ends (variables, or sums of them); the W of a whole
    backward ends with it. `overlaps`: by places of a forward and a backward, whether they are one
    unit. `whole`: by place of a backward that may run with its W or without, whether it does,
    in a unit or alone. `goal`: what is minimized. `rows`: by rank what it runs one at a time."""

    goal: Any
    start: list[Any] = field(default_factory=list)
    end: list[Any] = field(default_factory=list)
    overlaps: dict[tuple[int, int], Any] = field(default_factory=dict)
    whole: dict[int, Any] = field(default_factory=dict)
    rows: list[list[Any]] = field(default_factory=list)


def constraints(m: Any, model: Model, known: Implied, least: int, most: int) -> Moments:
    """Fill `m`, an empty CpModel, with the orders whose value is from `least` to `most`."""
    span = model.problem.spec.minimize == "span"
    horizon = _horizon(model) if span else most
    made = Moments(m.new_int_var(least, most, ""), rows=[[] for _ in range(model.ranks)])
    for p, before in enumerate(known.before):
        late = horizon if span else most - known.behind[p]
        made.start.append(m.new_int_var(before, max(before, late), ""))
        made.end.append(made.start[p] + model.duration[p])
    edges = [*sequences(model), *((a, b, 0) for a, b in known.edges)]
    _units(m, model, made, edges)
    _intervals(m, model, made, horizon)
    for a, b, lag in edges:
        m.add(made.start[b] >= made.end[a] + lag)
    for r, row in enumerate(made.rows):
        if row:
            m.add_no_overlap(row)
            _memory(m, model, made, r, horizon)
            _goal(m, model, made, known, r, horizon if span else 0)
    sources = [x for x in range(F, len(model.count), 3) if model.count[x] and not model.needs[x]]
    if len(sources) == 1 and not model.extra:
        m.add(made.start[model.base[sources[0]]] == 0)
    return made


def places(model: Model, x: int) -> range:
    """The places of a letter."""
    return range(model.base[x], model.base[x] + model.count[x])


def _horizon(model: Model) -> int:
    """By then everything has ended, if nothing starts later than it can."""
    lag = max((lag for needs in model.needs for _, lag in needs), default=0)
    lag = max([lag, *(lag for edges in model.extra.values() for _, lag in edges)])
    unit = max([0, *model.pairs.values(), *model.joint])
    return sum(model.duration) + model.size * (lag + unit)


def sequences(model: Model) -> Iterator[tuple[int, int, int]]:
    """Places of which the second starts so many ticks after the first has ended: data, what is its
    own, letter by letter in turn, and what was written. Nothing of weight gradients that may run
    inside a whole backward."""
    for x in range(len(model.rank)):
        if x % 3 == W and model.joint[x // 3] != NONE:
            continue
        back = places(model, x - 1) if x % 3 else range(0)
        halves = [q for q in back if not model.whole[q]]
        for n, p in enumerate(places(model, x)):
            if n:
                yield p - 1, p, 0
            for y, lag in model.needs[x]:
                if model.count[y]:
                    yield model.base[y] + n, p, lag
            if x % 3 == BACK and model.own[p]:
                yield back[model.own[p] - 1], p, 0
            if x % 3 == W:
                yield halves[n], p, 0
    for p, edges in model.extra.items():
        for q, lag in edges:
            yield q, p, lag


def _units(m: Any, model: Model, made: Moments, edges: list[tuple[int, int, int]]) -> None:
    """A variable for every two places that may be one unit: of which neither has to follow the
    other."""
    if not model.pairs:
        return
    after = _after(model, edges)
    for x, y in model.pairs:
        for p in places(model, x):
            for q in places(model, y):
                if not (after[p] >> q & 1 or after[q] >> p & 1):
                    one = made.overlaps[p, q] = m.new_bool_var("")
                    m.add(made.start[p] == made.start[q]).only_enforce_if(one)


def _after(model: Model, edges: list[tuple[int, int, int]]) -> list[int]:
    """By place the set (as bits) of places that edges lead to."""
    heads: list[list[int]] = [[] for _ in range(model.size)]
    waits = [0] * model.size
    for a, b, _ in edges:
        heads[a].append(b)
        waits[b] += 1
    order = [p for p, many in enumerate(waits) if not many]
    for p in order:  # grows while it is read
        for q in heads[p]:
            waits[q] -= 1
            if not waits[q]:
                order.append(q)
    after = [0] * model.size
    for p in reversed(order):
        for q in heads[p]:
            after[p] |= after[q] | 1 << q
    return after


def _intervals(m: Any, model: Model, made: Moments, most: int) -> None:
    """What every operation occupies of its rank, and when it ends."""
    units: dict[int, list[tuple[Any, int]]] = {}
    for (p, q), one in made.overlaps.items():
        ticks = model.pairs[_letter(model, p), _letter(model, q)]
        units.setdefault(p, []).append((one, ticks))
        units.setdefault(q, []).append((one, ticks))
    for x, r in enumerate(model.rank):
        for p in places(model, x):
            if x % 3 == F and p in units:
                made.rows[r].append(_forward(m, model, made, p, units[p], most))
            elif x % 3 == BACK and (p in units or model.joint[x // 3] != NONE):
                made.rows[r].extend(_backward(m, model, made, x, p, units.get(p, []), most))
            elif model.duration[p] and not (x % 3 == W and model.joint[x // 3] != NONE):
                ticks = model.duration[p]
                made.rows[r].append(m.new_fixed_size_interval_var(made.start[p], ticks, ""))
    for g, ticks in enumerate(model.joint):
        if ticks != NONE:
            made.rows[model.rank[3 * g]].extend(_weights(m, model, made, g, most))


def _letter(model: Model, p: int) -> int:
    """The letter that a place belongs to."""
    return max(x for x, many in enumerate(model.count) if many and model.base[x] <= p)


def _forward(
    m: Any, model: Model, made: Moments, p: int, units: list[tuple[Any, int]], most: int
) -> Any:
    """A forward, alone or with the length of its unit."""
    alone = model.duration[p]
    m.add_at_most_one([one for one, _ in units])
    ticks = m.new_int_var(
        min(alone, *(t for _, t in units)), max(alone, *(t for _, t in units)), ""
    )
    m.add(ticks == alone + sum((t - alone) * one for one, t in units))
    made.end[p] = m.new_int_var(0, most, "")
    return m.new_interval_var(made.start[p], ticks, made.end[p], "")


def _backward(
    m: Any, model: Model, made: Moments, x: int, p: int, units: list[tuple[Any, int]], most: int
) -> Iterator[Any]:
    """A backward: by itself, whole by itself, or in a unit."""
    start, joint = made.start[p], model.joint[x // 3]
    alone = m.new_bool_var("")
    choices = [(alone, model.duration[p])]
    yield m.new_optional_fixed_size_interval_var(start, model.duration[p], alone, "")
    if joint != NONE:
        whole = m.new_bool_var("")
        choices.append((whole, joint))
        yield m.new_optional_fixed_size_interval_var(start, joint, whole, "")
        made.whole[p] = 1 - alone if "B" in model.problem.spec.overlap else whole
    choices += units
    m.add_exactly_one([one for one, _ in choices])
    made.end[p] = m.new_int_var(0, most, "")
    m.add(made.end[p] == start + sum(ticks * one for one, ticks in choices))


def _weights(m: Any, model: Model, made: Moments, g: int, most: int) -> Iterator[Any]:
    """Weight gradients that end with their backwards where these are whole; of the others in
    turn."""
    last = None
    for q, p in zip(places(model, 3 * g + BACK), places(model, 3 * g + W), strict=True):
        start, whole = made.start[p], made.whole[q]
        apart = m.new_bool_var("")
        m.add(apart == 1 - whole)
        made.end[p] = m.new_int_var(0, most, "")
        m.add(start >= made.end[q]).only_enforce_if(apart)
        m.add(made.end[p] == start + model.duration[p]).only_enforce_if(apart)
        m.add(made.end[p] == made.end[q]).only_enforce_if(~apart)
        yield m.new_optional_fixed_size_interval_var(start, model.duration[p], apart, "")
        latest = m.new_int_var(0, most, "")
        m.add(latest >= made.end[p]).only_enforce_if(apart)
        if last is not None:
            m.add(latest >= last)
            m.add(start >= last).only_enforce_if(apart)
        last = latest


def _memory(m: Any, model: Model, made: Moments, r: int, most: int) -> None:
    """What is held at each moment: a cumulative of what is taken at the start of F and given back
    at the end of I and of W. One stage with whole release needs only that a forward waits for the
    W of the micro-batch that many before it."""
    limit = model.limit[r]
    if limit >= NO_LIMIT:
        return
    letters = model.letters(r)
    forwards = [x for x in letters if x % 3 == F]
    if len(forwards) == 1 and _chain(m, model, made, forwards[0], limit):
        return
    intervals, grains = [], []

    def hold(p: int, end: Any, many: int) -> None:
        length = m.new_int_var(0, most, "")
        intervals.append(m.new_interval_var(made.start[p], length, end, ""))
        grains.append(many)

    for x in forwards:
        backs, weights = places(model, x + BACK), list(places(model, x + W))
        for n, p in enumerate(places(model, x)):
            if model.give[p]:
                hold(p, made.end[p], model.give[p])
            if n < len(backs):
                q = backs[n]
                if model.give[q]:
                    hold(p, made.end[q], model.give[q])
                if not model.whole[q] and model.give[w := weights.pop(0)]:
                    hold(p, made.end[w], model.give[w])
    m.add_cumulative(intervals, grains, limit)


def _chain(m: Any, model: Model, made: Moments, x: int, limit: int) -> bool:
    last = x + W if model.count[x + W] else x + BACK
    forwards, ends = places(model, x), places(model, last)
    if len(ends) != len(forwards) or not model.take[forwards[0]] or model.joint[x // 3] != NONE:
        return False
    if last == x + W and any(model.give[q] for q in places(model, x + BACK)):
        return False
    room = limit // model.take[forwards[0]]
    for p, q in zip(forwards[room:], ends, strict=False):
        m.add(made.start[p] >= made.end[q])
    return True


def _goal(m: Any, model: Model, made: Moments, known: Implied, r: int, most: int) -> None:
    """What is minimized is no less than what rank r says. `most`: of a span, the latest start."""
    first = m.new_int_var(0, most, "") if most else 0
    for x in model.letters(r):
        for p in places(model, x):
            m.add(made.goal >= made.end[p] - first)
            if most:
                m.add(first <= made.start[p])
            else:
                m.add(made.goal >= made.start[p] + known.behind[p])
