"""The least makespan or span of small Specs, by two ways that share nothing with `bounds/`: an
exhaustive search (`brute`), and OR-tools' CP-SAT (`solved`, where it is installed). Neither knows
that micro-batches are alike.
"""

from collections.abc import Iterator
from itertools import pairwise, product
from typing import Any, NamedTuple

from stretto.compiler.problem.spec import NONE, Costs, Operation, Spec

Place = tuple[int, int, int, int]  # pipeline, stage, micro-batch, slice


class Task(NamedTuple):
    """A forward or a backward of one place. `ticks`: of a forward, or of B, I and W."""

    place: Place
    forward: bool
    rank: int
    ticks: tuple[int, ...]
    activation: int
    kept: int


def places(spec: Spec, p: int) -> Iterator[Place]:
    line = spec.pipelines[p]
    slices = range(spec.slices) if spec.slices else (NONE,)
    for s, m, k in product(range(len(line.stages)), range(line.microbatches), slices):
        yield p, s, m, k


def tasks(spec: Spec) -> list[Task]:
    costs, found = Costs(spec), []
    for p, line in enumerate(spec.pipelines):
        for place in places(spec, p):
            stage = line.stages[place[1]]
            ticks: tuple[int, ...] = (costs.of(Operation("F", *place)),)
            found.append(Task(place, True, stage.rank, ticks, stage.activation, stage.kept))
            if not line.forward_only:
                ticks = tuple(costs.of(Operation(kind, *place)) for kind in "BIW")
                found.append(Task(place, False, stage.rank, ticks, stage.activation, stage.kept))
    return found


def needs(spec: Spec, task: Task) -> Iterator[tuple[Place, bool, int]]:
    """What the task waits for: place, whether its forward, ticks on the way."""
    lag = {(t.source, t.target): t.ticks for t in spec.transfers}

    def there(place: Place, forward: bool) -> tuple[Place, bool, int]:
        rank = spec.pipelines[place[0]].stages[place[1]].rank
        return place, forward, lag.get((rank, task.rank), 0)

    (p, s, m, k), line = task.place, spec.pipelines[task.place[0]]
    last = len(line.stages) - 1
    if task.forward:
        if s:
            yield there((p, s - 1, m, k), True)
        if k > 0:
            yield there((p, s, m, k - 1), True)
        for q, other in enumerate(spec.pipelines):
            if any(feed == (p, s) for feed in other.feeds):
                yield there((q, len(other.stages) - 1, m, k), True)
        return
    yield there((p, s, m, k), True)
    if s < last:
        yield there((p, s + 1, m, k), False)
    else:
        for q, t in line.feeds:
            if not spec.pipelines[q].forward_only:
                yield there((q, t, m, k), False)
    if 0 <= k < spec.slices - 1:
        yield there((p, s, m, k + 1), False)


def pair_ticks(spec: Spec) -> dict[tuple[tuple[int, int], str, tuple[int, int]], int]:
    return {(p.forward, p.kind, p.backward): p.ticks for p in spec.pairs}


# ---------------------------------------------------------------------------- exhaustive


def brute(spec: Spec) -> int:
    """The least makespan over every order; for about a dozen operations."""
    listed = tasks(spec)
    index = {(task.place, task.forward): i for i, task in enumerate(listed)}
    before = [[(index[p, f], lag) for p, f, lag in needs(spec, task)] for task in listed]
    return _Search(spec, listed, before).run()


def possible(spec: Spec) -> bool:
    """Whether any order keeps to the limits: a search over what has run, without times."""
    listed = tasks(spec)
    index = {(task.place, task.forward): i for i, task in enumerate(listed)}
    before = [[index[p, f] for p, f, _ in needs(spec, task)] for task in listed]
    limits = [x and x.grains for x in spec.limits] or [None] * spec.ranks
    todo, seen = [frozenset[int]()], set()
    while todo:
        done = todo.pop()
        if len(done) == len(listed):
            return True
        if done in seen:
            continue
        seen.add(done)
        for i, task in enumerate(listed):
            if i in done or not done.issuperset(before[i]):
                continue
            held = sum(
                t.activation
                for j, t in enumerate(listed)
                if not t.forward and j not in done and before[j][0] in done and t.rank == task.rank
            )
            limit = limits[task.rank]
            if not task.forward or limit is None or held + task.activation <= limit:
                todo.append(done | {i})
    return False


class _Search:
    """Depth first over who appends what next. A state is what has ended when; one that is no
    earlier than another with the same operations is given up."""

    def __init__(self, spec: Spec, listed: list[Task], before: list[list[tuple[int, int]]]):
        self.spec, self.listed, self.before = spec, listed, before
        self.pairs = pair_ticks(spec)
        self.limit = [x and x.grains for x in spec.limits] or [None] * spec.ranks
        self.best = 1 << 60
        self.seen: dict[Any, list[tuple[int, ...]]] = {}

    def run(self) -> int:
        self.step((NONE,) * len(self.listed), frozenset(), (0,) * self.spec.ranks)
        return self.best

    def step(self, ends: tuple[int, ...], waiting: frozenset[int], free: tuple[int, ...]) -> None:
        """`ends` of the tasks that ran, -1 else; `waiting`: backwards whose W has not run."""
        if max(free) >= self.best:
            return
        if min(ends, default=0) >= 0 and not waiting:
            self.best = max(free)
            return
        key = (tuple(e >= 0 for e in ends), waiting)
        times = ends + free
        known = self.seen.setdefault(key, [])
        if any(all(a <= b for a, b in zip(old, times, strict=True)) for old in known):
            return
        known.append(times)
        for unit in self.units(ends, waiting):
            self.append(unit, ends, waiting, free)

    def units(self, ends: tuple[int, ...], waiting: frozenset[int]) -> Iterator[tuple[Any, ...]]:
        """What could come next: (forward | None, backward | None, its kind, ticks)."""
        ready = [
            i for i, e in enumerate(ends) if e < 0 and all(ends[j] >= 0 for j, _ in self.before[i])
        ]
        kinds = "BI" if self.spec.split_backward else "B"
        for i in waiting:
            yield None, i, "W", self.listed[i].ticks[2]
        for i in ready:
            if self.listed[i].forward:
                yield i, None, "F", self.listed[i].ticks[0]
            else:
                for kind in kinds:
                    yield None, i, kind, self.listed[i].ticks["BI".index(kind)]
        for i, j, kind in product(ready, ready, kinds):
            f, b = self.listed[i], self.listed[j]
            ticks = self.pairs.get((f.place[:2], kind, b.place[:2]))
            if f.forward and not b.forward and f.rank == b.rank and ticks is not None:
                yield i, j, kind, ticks

    def append(
        self,
        unit: tuple[Any, ...],
        ends: tuple[int, ...],
        waiting: frozenset[int],
        free: tuple[int, ...],
    ) -> None:
        forward, backward, kind, ticks = unit
        task = self.listed[backward if forward is None else forward]
        held = sum(
            t.kept if i in waiting else t.activation
            for i, t in enumerate(self.listed)
            if t.rank == task.rank
            and not t.forward
            and (i in waiting or (ends[i] < 0 and ends[self.before[i][0][0]] >= 0))
        )
        limit = self.limit[task.rank]
        if forward is not None and limit is not None and held + task.activation > limit:
            return
        members = [i for i in (forward, backward) if i is not None]
        start = free[task.rank]
        for i in members:
            if kind == "W":
                start = max(start, ends[i])
            else:
                start = max([start, *(ends[j] + lag for j, lag in self.before[i])])
        end = start + ticks
        now = list(ends)
        for i in members:
            now[i] = max(now[i], end) if kind != "W" else now[i]
        left = waiting
        if kind == "I":
            left = waiting | {backward}
        elif kind == "W":
            left = waiting - {backward}
        there = list(free)
        there[task.rank] = end
        self.step(tuple(now), left, tuple(there))


# ---------------------------------------------------------------------------- CP-SAT


def solved(spec: Spec, seconds: float, least: int = 0) -> tuple[int | None, bool]:
    """The best value found of what the Spec minimizes, at least `least`, and whether it is proven
    that none is better. None where there is none, or none was found."""
    from ortools.sat.python import cp_model

    cp = cp_model.CpModel()
    listed = tasks(spec)
    horizon = sum(sum(t.ticks) for t in listed) + sum(
        lag for t in listed for _, _, lag in needs(spec, t)
    )
    built = _Built(cp, spec, listed, horizon)
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = seconds
    solver.parameters.num_workers = 1
    value = built.objective(least)
    status = solver.solve(cp)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return None, status == cp_model.INFEASIBLE
    return solver.value(value), status == cp_model.OPTIMAL


class _Built:
    """The model: a start and an end for each task, whether a backward runs whole, who overlaps
    with whom."""

    def __init__(self, cp: Any, spec: Spec, listed: list[Task], horizon: int):
        self.cp, self.spec, self.listed, self.horizon = cp, spec, listed, horizon
        new = cp.new_int_var
        self.start = {(t.place, t.forward): new(0, horizon, "") for t in listed}
        self.end = {(t.place, t.forward): new(0, horizon, "") for t in listed}
        self.ends: list[list[Any]] = [[] for _ in range(spec.ranks)]
        self.whole = {
            t.place: cp.new_bool_var("") if spec.split_backward else cp.new_constant(1)
            for t in listed
            if not t.forward
        }
        self.rows: list[list[Any]] = [[] for _ in range(spec.ranks)]
        self.held: list[list[tuple[Any, int]]] = [[] for _ in range(spec.ranks)]
        self.paired: dict[tuple[Place, bool], list[tuple[Any, int]]] = {}
        self.weight: dict[Place, tuple[Any, Any]] = {}
        self.units()
        for task in listed:
            self.task(task)
        self.demands()
        for rank, row in enumerate(self.rows):
            cp.add_no_overlap(row)
            limit = spec.limits[rank] if spec.limits else None
            if limit is not None and self.held[rank]:
                stays, grains = zip(*self.held[rank], strict=True)
                cp.add_cumulative(stays, grains, limit.grains)

    def units(self) -> None:
        """A boolean for each unit that may overlap."""
        ticks = pair_ticks(self.spec)
        for f in self.listed:
            for b in self.listed:
                for kind in "BI":
                    joint = ticks.get((f.place[:2], kind, b.place[:2]))
                    if joint is None or not f.forward or b.forward or f.rank != b.rank:
                        continue
                    if kind == "I" and not self.spec.split_backward:
                        continue
                    x = self.cp.new_bool_var("")
                    a, c = (f.place, True), (b.place, False)
                    self.cp.add(self.start[a] == self.start[c]).only_enforce_if(x)
                    self.cp.add(self.end[a] == self.end[c]).only_enforce_if(x)
                    self.cp.add(self.whole[b.place] == (kind == "B")).only_enforce_if(x)
                    self.paired.setdefault(a, []).append((x, joint))
                    self.paired.setdefault(c, []).append((x, joint))

    def task(self, t: Task) -> None:
        cp, key = self.cp, (t.place, t.forward)
        pairs = self.paired.get(key, [])
        alone = cp.new_bool_var("")
        cp.add(sum(x for x, _ in pairs) + alone == 1)
        size = cp.new_int_var(0, self.horizon, "")
        for x, joint in pairs:
            cp.add(size == joint).only_enforce_if(x)
        start, end = self.start[key], self.end[key]
        for place, forward, lag in needs(self.spec, t):
            cp.add(start >= self.end[place, forward] + lag)
        self.ends[t.rank].append((start, end))
        if t.forward:
            cp.add(size == t.ticks[0]).only_enforce_if(alone)
            cp.add(end == start + size)
            self.rows[t.rank].append(cp.new_optional_interval_var(start, size, end, alone, ""))
            if self.spec.pipelines[t.place[0]].forward_only:
                self.stay(t.rank, start, end, t.activation)
            return
        whole = self.whole[t.place]
        cp.add(size == t.ticks[0]).only_enforce_if(alone, whole)
        cp.add(size == t.ticks[1]).only_enforce_if(alone, ~whole)
        self.rows[t.rank].append(cp.new_interval_var(start, size, end, ""))
        done = end
        if self.spec.split_backward:
            w, done = (cp.new_int_var(0, self.horizon, "") for _ in range(2))
            last = cp.new_int_var(0, max(t.ticks), "")
            cp.add(last == t.ticks[2]).only_enforce_if(~whole)
            cp.add(last == 0).only_enforce_if(whole)
            self.rows[t.rank].append(cp.new_optional_interval_var(w, last, done, ~whole, ""))
            cp.add(done == w + last)
            cp.add(w >= end)
            cp.add(w == end).only_enforce_if(whole)
            self.ends[t.rank].append((w, done))
            self.weight[t.place] = w, done
        self.stay(t.rank, self.start[t.place, True], end, t.activation - t.kept)
        self.stay(t.rank, self.start[t.place, True], done, t.kept)

    def demands(self) -> None:
        """Rules, and the part of an order that was written (without pairs)."""
        for later, earlier, _ in self.spec.rules:
            self.cp.add(self.times(later)[0] >= self.times(earlier)[1])
        for units in self.spec.written:
            for (operation,), _ in units:
                if operation.kind != "F":
                    self.cp.add(self.whole[operation[1:5]] == (operation.kind == "B"))
            for before, after in pairwise(units):
                end = self.times(before.operations[0])[1]
                self.cp.add(self.times(after.operations[0])[0] >= end)

    def times(self, operation: Operation) -> tuple[Any, Any]:
        """Start and end; of a backward that is split, of both its halves together."""
        kind, place = operation.kind, operation[1:5]
        if kind == "W":
            return self.weight[place]
        start, end = self.start[place, kind == "F"], self.end[place, kind == "F"]
        return start, self.weight[place][1] if kind == "B" and place in self.weight else end

    def stay(self, rank: int, start: Any, end: Any, grains: int) -> None:
        """Memory held on a rank from `start` to `end`."""
        size = self.cp.new_int_var(0, self.horizon, "")
        self.held[rank].append((self.cp.new_interval_var(start, size, end, ""), grains))

    def objective(self, least: int) -> Any:
        cp, value = self.cp, self.cp.new_int_var(least, self.horizon, "")
        for ends in self.ends:
            first = cp.new_int_var(0, self.horizon, "") if self.spec.minimize == "span" else 0
            for start, end in ends:
                cp.add(first <= start)
                cp.add(value >= end - first)
        cp.minimize(value)
        return value
