"""Periodic orders: a steady state in which every rank repeats one period, found by CP-SAT, then
unrolled from the first micro-batch to the last. List schedules lose much where several stages
share a rank with little memory; a steady state is small enough to solve.

An operation of micro-batch m starts at phase + m · period. The unknowns are the phases of one
micro-batch; on a rank no two of its operations may meet modulo the period, and the activations
that are alive at each forward, counted over all micro-batches, must fit the limit. On the true
grid of ticks this is often too hard, so durations are rounded to a few units: only the order is
kept, and it is timed (and annealed) with the true ones. Cut off at both ends, a periodic order
needs no more memory than its steady state.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from stretto.compiler.order.exact import solved
from stretto.compiler.order.model import NO_LIMIT, Model


@dataclass(frozen=True, slots=True)
class Grid:
    """Whole durations by letter, lags by need, and how many ticks a unit stands for."""

    ticks: list[int]
    lags: list[list[int]]
    unit: int


def grids(model: Model) -> Iterator[Grid]:
    """Roundings to try: all durations alike; the mean one as 1, 2, 3 units. Transfers rounded to
    nothing, or up."""
    first = [model.duration[model.base[x]] if model.count[x] else 0 for x in range(len(model.rank))]
    some = sorted(ticks for ticks in first if ticks)
    if not some:
        return
    mean = sum(some) / len(some)
    seen = set()
    equal = [2 if ticks else 0 for ticks in first]
    yield Grid(equal, [[0 for _ in needs] for needs in model.needs], round(mean / 2))
    yield Grid(equal, [[_lag(lag, mean, True) for _, lag in needs] for needs in model.needs], 1)
    for parts in (1, 2, 3):
        unit = max(1.0, mean / parts)
        ticks = [max(1, round(x / unit)) if x else 0 for x in first]
        for up in (False, True):
            lags = [[_lag(lag, unit, up) for _, lag in needs] for needs in model.needs]
            key = (tuple(ticks), tuple(map(tuple, lags)))
            if key not in seen:
                seen.add(key)
                yield Grid(ticks, lags, round(unit))


def _lag(lag: int, unit: float, up: bool) -> int:
    return -int(-lag // unit) if up else round(lag / unit)


def suits(model: Model) -> bool:
    """Whether one period says everything: one pipeline, or several with equally many
    micro-batches, nothing written, no rules."""
    counts = {model.count[3 * g] for g in range(len(model.stages))}
    spec = model.problem.spec
    return len(counts) == 1 and not model.extra and not spec.exceptions and model.slices == 1


def steady(
    model: Model, grid: Grid, seconds: float, seed: int, exact: bool
) -> tuple[list[int], int] | None:
    """Phases by letter and the period (in the grid's units), the period as short as CP-SAT finds
    it; None if it finds none in that time. `exact`: the time is CP-SAT's own deterministic one."""
    work = [0] * model.ranks
    for x, r in enumerate(model.rank):
        if model.count[x]:
            work[r] += grid.ticks[x]
    least = max(work)
    if not least:
        return None
    found = _solve(model, grid, least, seconds * 0.3, seed, exact)
    if found is not None:
        return found, least
    best = None
    for part in (2, 4, 8, 16, 32):
        period = least + max(1, least // part)
        if best is not None and period >= best[1]:
            break
        found = _solve(model, grid, period, seconds * (0.3 if best is None else 0.15), seed, exact)
        if found is None:
            break
        best = found, period
    return best


def _solve(
    model: Model, grid: Grid, period: int, seconds: float, seed: int, exact: bool
) -> list[int] | None:
    """Phases for this period, the latency of a micro-batch as short as time allows."""
    from ortools.sat.python import cp_model

    letters = [x for x in range(len(model.rank)) if model.count[x]]
    horizon = 4 * period + 8 * sum(grid.ticks) + 8 * sum(map(sum, grid.lags))
    m = cp_model.CpModel()
    start, turn, phase = {}, {}, {}
    for x in letters:
        turn[x] = m.new_int_var(0, horizon // period + 1, "")
        phase[x] = m.new_int_var(0, period - 1, "")
        start[x] = turn[x] * period + phase[x]
    for x in letters:
        needs = [
            (y, lag)
            for (y, _), lag in zip(model.needs[x], grid.lags[x], strict=True)
            if model.count[y]
        ]
        if x % 3:
            needs.append((x - 1, 0))
        for y, lag in needs:
            m.add(start[x] >= start[y] + grid.ticks[y] + lag)
    for r in range(model.ranks):
        own = [x for x in letters if model.rank[x] == r]
        twice = [
            m.new_fixed_size_interval_var(phase[x] + shift, grid.ticks[x], "")
            for x in own
            for shift in (0, period)
            if grid.ticks[x]
        ]
        if twice:
            m.add_no_overlap(twice)
        if model.limit[r] < NO_LIMIT:
            _memory(m, model, grid, own, start, period, r)
    last = m.new_int_var(0, 4 * horizon, "")
    for x in letters:
        m.add(last >= start[x] + grid.ticks[x])
    m.minimize(last)
    solver = cp_model.CpSolver()
    if exact:
        solver.parameters.max_deterministic_time = seconds
        solver.parameters.num_workers = 1
    else:
        solver.parameters.max_time_in_seconds = seconds
        solver.parameters.num_workers = 2
    solver.parameters.random_seed = seed
    status, interrupted = solved(solver, m)
    if interrupted:
        raise KeyboardInterrupt
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return None
    return [solver.value(start[x]) if x in start else 0 for x in range(len(model.rank))]


def _memory(
    m: Any,
    model: Model,
    grid: Grid,
    own: Sequence[int],
    start: dict[int, Any],
    period: int,
    r: int,
) -> None:
    """At the start of every forward of the rank: for each stage, how many of its micro-batches
    have begun and not yet given their activation back (a floor each), weighted by what they hold.
    With the start s of the forward, F at f and end e of what gives back, it is
    floor((s - f) / period) - floor((s - e) / period)."""
    forwards = [x for x in own if x % 3 == 0]
    for x in forwards:
        total = []
        for y in forwards:
            if not model.count[y + 1]:
                continue  # gives back what it took at its own end
            size, base = model.take[model.base[y]], model.base
            gives = [(y + 1, model.give[base[y + 1]])]
            if model.count[y + 2]:
                gives.append((y + 2, model.give[base[y + 2]]))
            begun = _floor(m, start[x] - start[y], period)
            if y == x:
                begun = 0
            for z, amount in gives:
                if amount:
                    over = _floor(m, start[x] - start[z] - grid.ticks[z], period)
                    total.append(amount * (begun - over))
            assert size >= 0
        if total:
            m.add(sum(total) <= model.limit[r])


def _floor(m: Any, expression: Any, period: int) -> Any:
    """The floor of expression / period."""
    quotient = m.new_int_var(-10_000, 10_000, "")
    m.add(expression >= quotient * period)
    m.add(expression <= quotient * period + period - 1)
    return quotient


def unroll(model: Model, phases: Sequence[int], period: int) -> list[list[tuple[int, ...]]]:
    """The words: all operations of each rank by start."""
    words: list[list[tuple[int, ...]]] = []
    for r in range(model.ranks):
        timed = sorted(
            (phases[x] + n * period, x % 3, x)
            for x in model.letters(r)
            for n in range(model.count[x])
        )
        words.append([(x,) for _, _, x in timed])
    return words
