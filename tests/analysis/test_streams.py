"""Why streams are idle and what makes the makespan, where stages are cut into parts: against a slow
oracle that looks at every tick by itself, on random schedules."""

from collections import Counter
from itertools import pairwise
from random import Random

import pytest
from msgspec.structs import replace

from stretto.compiler.analysis.explanation import explain
from stretto.compiler.analysis.hidden import exposed, hidden
from stretto.compiler.analysis.idle import Idle
from stretto.compiler.analysis.stream_idle import rank_stretches
from stretto.compiler.analysis.timed_program import timed_program
from stretto.compiler.problem.expand import expand
from stretto.compiler.problem.problem import Holding
from stretto.compiler.problem.spec import Limit, Operation
from stretto.compiler.program.claims import claims
from stretto.compiler.program.communicate import communicate, forwards
from stretto.compiler.program.program import Program
from stretto.compiler.program.timeline import Timed, time
from tests.support.part_programs import as_order, lists_at_random, own_needs, results
from tests.support.part_specs import random_parts


def random_program(seed: int, *, tight: bool = False) -> Program:
    """A random order of a random Spec; `tight`: limits as high as its peaks. Every third is what an
    evaluation runs of it."""
    random = Random(seed)
    spec = random_parts(random, ranks=random.randint(1, 3), microbatches=random.randint(1, 3))
    lists = lists_at_random(spec, random)
    if tight:
        peaks = claims(communicate(as_order(spec, lists))).activations
        spec = replace(spec, limits=tuple(Limit(peak, 0) for peak in peaks))
        return communicate(as_order(spec, lists))
    if seed % 3 == 0:
        return forwards(as_order(spec, lists))
    return communicate(as_order(spec, lists))


class Oracle:
    """All that is there at a tick, worked out one operation at a time."""

    def __init__(self, program: Program):
        self.spec = program.spec
        self.bars = {t.operation: t for row in time(program).ranks for t in row}
        self.ways = {(t.source, t.target): t.ticks for t in self.spec.transfers}
        problem = expand(self.spec)
        self.holdings: list[tuple[int, Holding]] = []
        self.known = problem.operations
        for one in problem.holdings:
            self.holdings.append((problem.rank[one.taken_by], one))

    def rank(self, one: Operation) -> int:
        return self.spec.pipelines[one.pipeline].stages[one.stage].rank

    def made(self, one: Operation) -> int:
        return max((self.bars[need].end for need in self.needs(one)), default=0)

    def there(self, one: Operation) -> int:
        return max(
            (self.bars[need].end + self.way(need, one) for need in self.needs(one)), default=0
        )

    def way(self, need: Operation, one: Operation) -> int:
        return self.ways.get((self.rank(need), self.rank(one)), 0)

    def needs(self, one: Operation) -> list[Operation]:
        return [*own_needs(self.spec, one), *results(self.spec, one)]

    def held(self, rank: int, tick: int, moved: Operation | None = None, start: int = 0) -> int:
        """Grains that the rank holds right after a tick, with one operation at another time."""

        def bar(number: int) -> tuple[int, int]:
            one = self.bars[self.known[number]]
            if one.operation == moved:
                return start, start + one.end - one.start
            return one.start, one.end

        return sum(
            one.grains
            for r, one in self.holdings
            if r == rank
            and bar(one.taken_by)[0] <= tick < max(bar(number)[1] for number in one.freed_by)
        )

    def fits(self, one: Operation, tick: int) -> bool:
        """Whether memory suffices if this one operation runs at the tick already."""
        rank = self.rank(one)
        limit = self.spec.limits[rank] if self.spec.limits else None
        if limit is None:
            return True
        last = self.bars[one].start
        return all(self.held(rank, t, one, tick) <= limit.grains for t in range(tick, last))

    def cause(self, lane: list[Timed], tick: int) -> str:
        """Why a stream is idle during the tick."""
        behind = [bar for bar in lane if bar.start > tick]
        if not behind:
            return "done"
        first, *others = [bar.operation for bar in behind]
        assert self.there(first) > tick
        ready = [one for one in others if self.there(one) <= tick]
        if ready:
            return "order" if any(self.fits(one, tick) for one in ready) else "memory"
        return "data" if self.made(first) > tick else "channel"


def lanes_of(program: Program) -> dict[tuple[int, int], list[Timed]]:
    found: dict[tuple[int, int], list[Timed]] = {}
    for rank, row in enumerate(time(program).ranks):
        for bar in row:
            found.setdefault((rank, bar.stream), []).append(bar)
    return found


def idle_of(program: Program) -> dict[tuple[int, int], list[Idle]]:
    timed = timed_program(program, time(program))
    found: dict[tuple[int, int], list[Idle]] = {}
    for rank in range(program.spec.ranks):
        for one in rank_stretches(timed, rank):
            found.setdefault((one.rank, one.stream), []).append(one)
    return found


@pytest.mark.parametrize("tight", [False, True])
def test_every_idle_tick_of_a_stream_has_its_cause(tight: bool) -> None:
    seen: Counter[str] = Counter()
    for seed in (*range(150), 881):
        program = random_program(seed, tight=tight)
        oracle, told = Oracle(program), idle_of(program)
        makespan = time(program).makespan
        for lane, bars in lanes_of(program).items():
            causes = {
                tick: one.cause for one in told.get(lane, []) for tick in range(one.start, one.end)
            }
            busy = {tick for bar in bars for tick in range(bar.start, bar.end)}
            assert not busy & causes.keys()
            assert busy | causes.keys() == set(range(makespan))
            for tick, cause in causes.items():
                assert cause == oracle.cause(bars, tick), (seed, lane, tick)
            seen.update(causes.values())
    wanted = {"data", "order", "channel", "done", *(["memory"] if tight else [])}
    assert seen.keys() == wanted and min(seen.values()) > 30, seen


def test_what_is_not_hidden_has_its_reasons() -> None:
    """The reasons for which `compute` does nothing while other streams work add up to what is not
    hidden, tick by tick."""
    seen: Counter[str] = Counter()
    for seed in range(150):
        program = random_program(seed, tight=seed % 2 == 0)
        timeline, told, lanes = time(program), idle_of(program), lanes_of(program)
        for rank, row in enumerate(timeline.ranks):
            found = exposed(row, told.get((rank, 0), []))
            bars = [bar for s in (1, 2) for bar in lanes.get((rank, s), [])]
            ticks = Counter(tick for bar in bars for tick in range(bar.start, bar.end))
            for bar in lanes.get((rank, 0), []):
                for tick in range(bar.start, bar.end):
                    del ticks[tick]
            assert sum(found.values()) == sum(ticks.values())
            known = hidden(timeline)[rank]
            assert sum(found.values()) == (known.all.time - known.all.hidden if known else 0)
            seen.update(found)
    assert {"own", "away", "order", "memory", "done"} <= seen.keys()


def test_the_chain_is_as_long_as_the_makespan() -> None:
    """Each link is held up by the one before, over all streams; of a span it covers all of that."""
    crossed = 0
    for seed in range(150):
        program = random_program(seed)
        spec = replace(program.spec, minimize="makespan")
        found = explain(replace(program, spec=spec))
        if not found.makespan:
            continue
        ways = {0, *(t.ticks for t in spec.transfers)}
        assert found.chain[0].start == 0 and found.chain[-1].end == found.makespan
        assert all(b.start - a.end in ways for a, b in pairwise(found.chain))
        crossed += sum(a.rank == b.rank and a.stream != b.stream for a, b in pairwise(found.chain))
        span = explain(replace(program, spec=replace(spec, minimize="span")))
        assert span.last - span.first == time(program).span
        assert span.chain[0].start - max(ways) <= span.first and span.chain[-1].end == span.last
    assert crossed > 100
