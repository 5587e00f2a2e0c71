"""Seconds: what a search does with a clock that runs fast, as on a machine that is busy; when it
ends, and what it runs on where loops are not compiled yet. No test looks at a real clock."""

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import sleep
from typing import Any

import pytest
from msgspec.structs import replace

from stretto.compiler.order import kept, open_search
from stretto.compiler.order import search as searching
from stretto.compiler.order.arrange import arrange
from stretto.compiler.order.budget import Budget, SearchProgress
from stretto.compiler.order.check import check
from stretto.compiler.order.engines.parts import search as searching_parts
from stretto.compiler.order.engines.parts.state import PartsSearch
from stretto.compiler.order.kept import LoopsToCome
from stretto.compiler.order.kernels import jit
from stretto.compiler.order.kernels.instance import instance_of
from stretto.compiler.order.loops import loops_for
from stretto.compiler.order.open_search import LoopsAreThere, OpenSearch, SearchDone
from stretto.compiler.order.search_state import SearchState, start_search
from stretto.compiler.order.warm import LOOPS
from stretto.compiler.problem.expand import expand
from stretto.compiler.problem.problem import Problem
from tests.order.test_budget import limited
from tests.support.parts import parts_spec
from tests.support.specs import linear, vee


class FastClock:
    """A clock that is so many seconds later whenever somebody looks at it."""

    def __init__(self, step: float) -> None:
        self.step, self.now = step, 0.0

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def v() -> Problem:
    """A V with little memory, where list schedules lose much."""
    return expand(replace(limited(vee(4, 8), 6), overlap=(), pairs=()))


@pytest.fixture(autouse=True)
def _no_solver(monkeypatch: pytest.MonkeyPatch) -> None:
    """CP-SAT has a clock of its own."""
    for module in ("cpsat", "parts.exact"):
        monkeypatch.setattr(f"stretto.compiler.order.engines.{module}.available", lambda: False)


def engines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The engines that ran, each with an order of its own to show for it."""
    ran: list[str] = []
    real = SearchState.submit

    def submit(state: SearchState, sequence: Any, engine: str, start: int = 0) -> int:
        ran.append(engine)
        return real(state, sequence, engine, start)

    monkeypatch.setattr(SearchState, "submit", submit)
    return ran


@pytest.mark.parametrize("step", [0.1, 0.25])
def test_every_engine_gets_a_turn_however_fast_the_clock_runs(
    monkeypatch: pytest.MonkeyPatch, step: float
) -> None:
    """And the slower the machine, the less is found, but never less than without an effort."""
    monkeypatch.setattr(searching, "loops_for", lambda *_: None)
    ran = engines(monkeypatch)
    problem = v()
    order = arrange(problem, Budget(seconds=20, clock=FastClock(step)))
    nothing = arrange(problem, Budget(effort=0))
    assert check(order).makespan <= check(nothing).makespan
    assert {"list", "offsets", "periodic", "anneal"} <= set(ran)


def test_time_that_is_over_still_leaves_an_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "loops_for", lambda *_: None)
    ran = engines(monkeypatch)
    clock = FastClock(100.0)
    order = arrange(v(), Budget(seconds=1, clock=clock))
    published = {"gpipe", "zb_v", "dualpipe_v", "v_half", "v_min"}
    assert check(order).makespan and set(ran) <= {*published, "periodic"}
    assert clock.now < 100 * 40  # it was looked at a few times, not once for every rule


def test_a_second_of_its_clock_ends_a_search_and_not_seconds_of_its_own() -> None:
    clock = FastClock(1.0)
    budget = Budget(seconds=50, until=7.5, clock=clock)
    assert budget.deadline() == 7.5
    state = start_search(instance_of(v()), budget, 1)
    assert [state.over() for _ in range(9)] == [False] * 7 + [True] * 2
    assert Budget(effort=3, until=7.5).deadline() == float("inf")


def test_loops_return_when_they_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of any length ends at once, with what it has: whole stages and parts."""
    from stretto.compiler.order.engines import local_search
    from stretto.compiler.order.engines.parts.anneal import PartsRun, annealed
    from stretto.compiler.order.engines.parts.starts import starts
    from stretto.compiler.order.engines.parts.state import parts_search
    from stretto.compiler.order.engines.priority_rules import ListScheduler, rules
    from stretto.compiler.order.kernels.annealing import Cooling, Goal

    endless = 10**15
    state = start_search(instance_of(v()), Budget(), 1)
    sequence = ListScheduler(state.t).run(next(rules(state.instance)))
    assert sequence is not None
    state.stop[0] = 1
    best, goal = sequence.copy(), Goal(False, 0.1, 0)
    value = local_search.anneal(
        state.evaluator, sequence, best, Cooling(endless, 5.0, 1.0), goal, False
    )
    assert value > 0 and list(best) == list(sequence)
    assert ListScheduler(state.t, state.stop).run(next(rules(state.instance))) is None
    problem = expand(parts_spec(2, 4))
    parts = parts_search(problem, Budget(), 1)
    _, lanes = next(iter(starts(problem)))
    run = PartsRun(endless, 5.0, 1.0, stop=state.stop)
    assert annealed(parts.instance, parts.arrays, lanes, run) == lanes


# ---------------------------------------------------------------------------- loops to come


class Coming:
    """Loops that another process compiles, which is done when it was asked so many times."""

    def __init__(self, after: int) -> None:
        self.after, self.asked = after, 0

    def there(self) -> bool:
        """Whether they have come."""
        self.asked += 1
        return self.asked > self.after

    def worth(self, seconds: float) -> bool:
        """Whether they have come, and pay."""
        return seconds > 0 and self.there()


@pytest.mark.parametrize("parts", [False, True])
def test_a_search_goes_on_with_compiled_loops_when_they_come(
    monkeypatch: pytest.MonkeyPatch, parts: bool
) -> None:
    """Until then with plain ones; what these found is not lost."""
    before = jit.fast()
    phases: list[Any] = []
    module, kind = (searching_parts, PartsSearch) if parts else (searching, SearchState)
    real: Callable[..., None] = kind.on_present_loops

    def switched(state: Any) -> None:
        found = state.least_value()
        real(state)
        phases.append((found, state.least_value(), state.coming))

    def come(*_: object) -> Any:
        jit.disengage()
        return Coming(3)

    monkeypatch.setattr(module, "loops_for", come)
    monkeypatch.setattr(kind, "on_present_loops", switched)
    monkeypatch.setattr(open_search, "engage", lambda: phases.append(("engaged",)))
    problem = expand(parts_spec(2, 4)) if parts else v()
    order = arrange(problem, Budget(seconds=1, clock=FastClock(0.03)))
    if before:
        jit.engage()
    assert phases[0] == ("engaged",) and len(phases) == 2
    found, kept_value, coming = phases[1]
    assert found == kept_value >= check(order).makespan and coming is None


@pytest.mark.parametrize("parts", [False, True])
def test_published_orders_are_there_before_compiled_loops_are_read(
    monkeypatch: pytest.MonkeyPatch, parts: bool
) -> None:
    """To read them takes longer, on a machine that is busy as long as a short limit."""
    before = jit.fast()
    ran: list[str] = []
    module: Any = searching_parts if parts else searching
    kind: Any = PartsSearch if parts else SearchState
    real = kind.submit

    def submit(state: Any, sequence: Any, engine: str, start: int = 0) -> int:
        ran.append(engine)
        return int(real(state, sequence, engine, start))

    def come(*_: object) -> Any:
        jit.disengage()
        return Coming(0)

    monkeypatch.setattr(kind, "submit", submit)
    monkeypatch.setattr(module, "loops_for", come)
    monkeypatch.setattr(open_search, "engage", lambda: ran.append("engaged"))
    arrange(expand(parts_spec(2, 4)) if parts else v(), Budget(seconds=1, clock=FastClock(0.03)))
    if before:
        jit.engage()
    published, searched = ran[: ran.index("engaged")], ran[ran.index("engaged") + 1 :]
    assert (
        published and not set(published) & {"list", "anneal"} and not set(published) & set(searched)
    )
    assert ran.count("engaged") == 1


class Told(list[SearchProgress]):
    """What a search said."""

    def words(self) -> list[str]:
        """Without figures."""
        return [one.engine for one in self]


def test_what_a_search_runs_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds never wait for a compiler; an effort does where plain loops would take longer."""
    if not jit.available():
        pytest.skip("numba is not here")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    jit.loops_folder.cache_clear()
    began: list[str] = []
    compiled: list[tuple[str, bool]] = []
    module = "stretto.compiler.order.loops"
    engaged: list[int] = []
    monkeypatch.setattr(f"{module}.engage", lambda: engaged.append(1))
    monkeypatch.setattr(f"{module}.disengage", lambda: None)
    monkeypatch.setattr(f"{module}.fast", lambda: False)
    monkeypatch.setattr(f"{module}._compile", lambda *words: compiled.append(words))

    def start(name: str) -> LoopsToCome:
        began.append(name)
        return LoopsToCome(name)

    try:
        told = Told()
        coming = loops_for("whole", 100, Budget(progress=told.append), start)
        assert coming is not None and coming == LoopsToCome("whole")
        assert began == ["whole"] and not engaged
        assert told.words()[0].startswith("compiling the search's loops, once per machine")
        assert not coming.there()
        assert loops_for("whole", 500, Budget(effort=0), start) is None and not compiled
        assert loops_for("whole", 10**6, Budget(effort=0), start) is None
        assert loops_for("parts", 500, Budget(effort=1000), start) is None
        assert compiled == [("whole", False), ("parts", True)]
        kept.keep("whole")
        assert coming.there() and kept.kept("whole") and not kept.kept("parts")
        assert loops_for("whole", 10, Budget(effort=0), start) is None and not engaged  # too small
        assert loops_for("whole", 10, Budget(), start) == coming and not engaged
        assert loops_for("whole", 10**6, Budget(), start) is None and len(engaged) == 1
        assert loops_for("whole", 10, Budget(), start, published=False) is None
        assert len(engaged) == 2 and len(began) == 1
        assert coming.worth(10) and not coming.worth(0.5)  # no time to read them
    finally:
        jit.loops_folder.cache_clear()


def test_what_is_kept_is_what_is_called() -> None:
    """Else a search that has so many seconds would compile in the middle of them."""
    if not (kept.kept("whole") and kept.kept("parts")):
        pytest.skip("loops are not compiled here yet (`stretto warm`)")
    before = jit.fast()
    jit.engage()
    chain = replace(limited(linear(4, 8, (10, 16, 6), transfer=1), 6), overlap=(), pairs=())
    problems = [v(), expand(chain), expand(replace(chain, jitter=(1, 5)))]
    for problem in (*problems, expand(parts_spec(2, 4))):
        arrange(problem, Budget(effort=1))
    for rows in LOOPS.values():
        for module, name, _ in rows:
            loop = getattr(module, name)
            assert len(loop.signatures) == 1, name
            assert not loop.stats.cache_misses, name
    if not before:
        jit.disengage()


def test_only_one_process_compiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And one that was killed holds nobody up."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    jit.loops_folder.cache_clear()
    holds = (
        "import sys\nfrom stretto.compiler.order.kept import alone\n"
        "with alone() as free:\n    print(free, flush=True)\n    sys.stdin.read()\n"
    )
    try:
        with subprocess.Popen(
            [sys.executable, "-c", holds], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as other:
            assert other.stdout is not None and other.stdout.readline() == "True\n"
            with kept.alone() as free:
                assert not free
            other.kill()
            other.wait()
            with kept.alone() as free:
                assert free
    finally:
        jit.loops_folder.cache_clear()


def test_an_interrupted_run_gives_what_it_has() -> None:
    """Results of the same moment are taken in before the search ends."""

    class Found(OpenSearch):
        """With values of its own."""

        values: tuple[Any, ...] = ()

        def results(self) -> list[Any]:
            """Whatever stands there."""
            return list(self.values)

    class Value:
        """One of them."""

        value = 5

    state = Found(budget=Budget(), bound=1, deadline=1e18)
    state.asked = True
    state.values = (Value(),)
    with pytest.raises(KeyboardInterrupt), state.together("x"):
        state.went_on("x")
        state.values = (Value(), Value())
    assert len(state.values) == 2
    state.asked, state.deadline = False, -1.0
    with pytest.raises(SearchDone):
        state.went_on("x")
    state.deadline, state.coming = 1e18, Coming(0)  # type: ignore[assignment]
    with pytest.raises(LoopsAreThere):
        state.went_on("x")


def test_searches_in_threads_run_one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process has one form of its loops, so nobody else may exchange them meanwhile."""
    inside: list[int] = []
    most: list[int] = []
    run = searching.run_engines

    def watched(state: SearchState) -> None:
        inside.append(1)
        most.append(len(inside))
        sleep(0.02)  # a thread that could come in would
        try:
            run(state)
        finally:
            inside.pop()

    monkeypatch.setattr(searching, "run_engines", watched)
    with ThreadPoolExecutor(4) as threads:
        orders = list(threads.map(lambda _: searching.search(v(), Budget(effort=0)), range(4)))
    assert most == [1] * 4
    assert len({order.engine for order in orders}) == 1
