"""What the search promises whoever asks it: what was written stays, the same without numba, nothing
searched twice, a mean that holds on durations it has not seen."""

import os
import signal
import subprocess
import sys
import threading
import time
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from stretto.compiler.diagnostics.diagnostic import Rejected
from stretto.compiler.order.arrange import arrange
from stretto.compiler.order.budget import Budget, SearchProgress
from stretto.compiler.order.check import check
from stretto.compiler.order.engines.cpsat.solver import solved
from stretto.compiler.order.kernels import evaluator
from stretto.compiler.order.kernels.arrays import arrays_of
from stretto.compiler.order.kernels.instance import class_of, instance_of
from stretto.compiler.order.kernels.jit import ints
from stretto.compiler.order.kernels.sequences import pack
from stretto.compiler.order.search_state import jittered
from stretto.compiler.problem.expand import expand
from stretto.compiler.problem.spec import Limit, Rule, Spec, Unit, digest
from tests.support.paths import ROOT
from tests.support.specs import linear, one_f_one_b, ordered, vee

WITHOUT = """
import sys
import msgspec
sys.path.insert(0, {root!r})
for name in {absent!r}:
    sys.modules[name] = None
from tests.order.test_budget import limited, linear, vee
from stretto.compiler.problem.expand import expand
from stretto.compiler.order.arrange import arrange
from stretto.compiler.order.budget import Budget
for spec in (vee(2, 4, (2, 3, 1), transfer=1), linear(3, 4, (7, 9, 4), transfer=1)):
    order = arrange(expand(limited(spec, 6)), Budget(effort=1, seed=3))
    print(order.engine, order.lanes)
for engine, spec in (("periodic", vee(2, 3)), ("alternating", linear(3, 4, (7, 9, 4)))):
    budget = Budget(effort=1, seed=3, engine=engine)
    spec = msgspec.structs.replace(limited(spec, 5), overlap=(), pairs=())
    order = arrange(expand(spec), budget)
    print(order.engine, order.lanes)
"""


def limited(spec: Spec, grains: int) -> Spec:
    limits = tuple(Limit(grains, 0) for _ in range(spec.ranks))
    return msgspec.structs.replace(spec, limits=limits, split_backward=True)


@cache
def printed_without(absent: tuple[str, ...]) -> str:
    """What is printed where these packages are missing."""
    return subprocess.run(
        [sys.executable, "-c", WITHOUT.format(root=str(ROOT), absent=("ortools", *absent))],
        capture_output=True,
        text=True,
        check=True,
        timeout=110,
    ).stdout


@pytest.mark.xdist_group("loops")  # one process: the loops are compiled once
@pytest.mark.parametrize("absent", [("numba",), ("numba", "numpy", "torch")], ids=len)
def test_the_loops_give_the_same_compiled_or_not(absent: tuple[str, ...]) -> None:
    """And nothing but the base installation is needed."""
    assert printed_without(absent) == printed_without(())


def test_what_was_written_keeps_its_sequence() -> None:
    """1F1B's forwards and input gradients, with the weight gradients left to the compiler: as good
    as ZB-H1, which has the same ones."""
    spec = linear(4, 8, (10, 16, 6), transfer=1)
    whole = ordered(spec, one_f_one_b)
    rows = []
    for units in whole.written:
        operations = [
            o._replace(kind="I") if o.kind == "B" else o for o, *_ in (u[0] for u in units)
        ]
        rows.append(tuple(Unit((o,), 0) for o in operations))
    partial = msgspec.structs.replace(
        limited(spec, 8),
        written=tuple(rows),
        order=tuple(digest(unit.operations for unit in row) for row in rows),
    )
    problem = expand(partial)
    order = arrange(problem, Budget(effort=2))
    assert check(order).makespan == 328  # proven: optimizer_targets.json, fix-p4m8-1f1b-Wfree-k4
    for lane, row in zip(order.lanes, rows, strict=True):
        kept = [order.problem.operations[i] for (i,) in lane.units]
        assert [o for o in kept if o.kind != "W"] == [unit.operations[0] for unit in row]


def test_a_rule_is_kept() -> None:
    spec = linear(2, 4)
    first, last = expand(spec).operations[0], expand(spec).operations[3]
    backward = next(o for o in expand(spec).operations if o.kind != "F" and o.stage == 0)
    ruled = msgspec.structs.replace(spec, rules=(Rule(last, backward, 0),))
    order = arrange(expand(ruled), Budget(effort=1))
    sequence = [order.problem.operations[i] for unit in order.lanes[0].units for i in unit]
    assert sequence.index(backward) < sequence.index(last)
    assert sequence[0] == first


def test_a_limit_that_cannot_be_met_is_an_error_of_the_file() -> None:
    with pytest.raises(Rejected) as caught:
        arrange(expand(limited(vee(2, 2), 1)), Budget(effort=0))
    assert [d.code for d in caught.value.diagnostics] == ["limit-too-small"]


def test_an_order_found_before_is_found_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    problem = expand(limited(vee(3, 6, (2, 3, 1), transfer=1), 8))
    told: list[SearchProgress] = []
    budget = Budget(effort=1, cache=True, progress=told.append)
    first = arrange(problem, budget)
    files = list((tmp_path / "stretto" / "orders").iterdir())
    assert len(files) == 1
    told.clear()
    again = arrange(problem, budget)
    assert again.lanes == first.lanes
    assert len(told) <= 1  # nothing was searched
    files[0].write_text('{"sequence": [0, 0], "engine": "x", "proven": 0, "seconds": 99}')
    assert check(arrange(problem, budget)).makespan == check(first).makespan  # not trusted


class Slow:
    """A solver that only `stop_search` ends, interrupted while it is at work."""

    parameters = SimpleNamespace()

    def __init__(self) -> None:
        self.stopped = threading.Event()

    def solve(self, _: object) -> str:
        time.sleep(0.3)  # until it is waited for
        os.kill(os.getpid(), signal.SIGINT)
        return "stopped" if self.stopped.wait(20) else "went on"

    def stop_search(self) -> None:
        self.stopped.set()


def test_a_solver_that_is_interrupted_stops_and_tells_it() -> None:
    assert solved(Slow(), None) == ("stopped", True)


def test_under_jitter_the_mean_is_less() -> None:
    """Judged on samples that the search has not seen; all in all, as one nominal optimum may be
    robust by luck."""
    gains = []
    for costs in ((10, 16, 6), (10, 10, 10), (7, 9, 4), (5, 9, 5)):
        spec = limited(linear(4, 12, costs, transfer=1), 12)
        spec = msgspec.structs.replace(spec, overlap=())
        shaky = msgspec.structs.replace(spec, jitter=(1, 5))
        judge = instance_of(expand(shaky))
        t, samples = jittered(judge, arrays_of(judge), 100, 4711)
        state = evaluator.evaluator_of(t, samples, 1)
        at = {stage: g for g, stage in enumerate(judge.stages)}
        means = []
        for one in (spec, shaky):
            order = arrange(expand(one), Budget(effort=8))
            operations = order.problem.operations
            words = [
                [tuple(class_of(operations[i], at) for i in unit) for unit in lane.units]
                for lane in order.lanes
            ]
            word = pack(arrays_of(judge), words)
            assert word is not None
            means.append(evaluator.evaluate(state, ints(word), False))
        gains.append(1 - means[1] / means[0])
    assert sum(gains) / len(gains) > 0.003
