"""Orders of stages that are cut into parts, against what does not share the search's code: a clock
of the tests, the best of all orders of a few operations, optima and published values found by
others."""

from itertools import pairwise
from random import Random
from typing import Any

import pytest
from msgspec.structs import replace

from stretto.compiler.diagnostics.diagnostic import Rejected
from stretto.compiler.order import Order
from stretto.compiler.order.arrange import arrange
from stretto.compiler.order.budget import Budget
from stretto.compiler.order.check import check
from stretto.compiler.order.engines.parts.anneal import PartsRun, annealed, part_arrays
from stretto.compiler.order.engines.parts.instance import clock, parts_instance
from stretto.compiler.order.engines.parts.mirror import mirror_of
from stretto.compiler.order.engines.parts.starts import PAIRED, starts
from stretto.compiler.order.kernels import jit
from stretto.compiler.order.search import improve
from stretto.compiler.problem.expand import expand
from stretto.compiler.problem.problem import Problem
from stretto.compiler.problem.spec import Operation, Rule, Spec, Unit
from tests.support.lane_orders import (
    TooManyOrders,
    lanes_of,
    least_makespan,
    makespan,
    most_held,
    planned,
)
from tests.support.parts import COSTS, parts_spec
from tests.support.parts_targets import random_parts, target_spec, targets

OPTIMA = [row for row in targets() if "status" in row]
OPEN = [row for row in targets() if "status" not in row]


def found(spec: Spec, effort: int, **chosen: Any) -> tuple[Problem, Order]:
    """The order that so much effort finds, checked by the clock of the tests."""
    problem = expand(spec)
    order = arrange(problem, Budget(effort=effort, **chosen))
    value = makespan(problem, lanes_of(order))
    assert check(order).makespan == value
    return problem, order


@pytest.mark.parametrize("row", OPTIMA, ids=lambda row: row["id"])
def test_optima_of_others_are_reached_and_proved(row: dict[str, Any]) -> None:
    problem, order = found(target_spec(row["id"]), 400)
    assert makespan(problem, lanes_of(order)) == row["best"]
    assert order.bound is not None
    assert max(order.proven, order.bound.ticks) == row["best"]


@pytest.mark.parametrize("row", OPEN, ids=lambda row: row["id"])
def test_nothing_found_is_worse_than_what_was_published(row: dict[str, Any]) -> None:
    problem, order = found(target_spec(row["id"]), 0)
    assert makespan(problem, lanes_of(order)) <= row.get("streams", 1 << 60)


def test_published_orders_are_among_the_starts() -> None:
    """DeepSeek's two orders have the values that others simulated."""
    rows = [row for row in OPEN if "streams" in row]
    assert len(rows) > 10
    for row in rows:
        problem = expand(target_spec(row["id"]))
        name = "deepseek_v3_v" if row["id"].startswith("v-") else "deepseek_v3"
        values = {makespan(problem, lanes) for n, lanes in starts(problem) if n == name}
        assert row["streams"] in values, row["id"]


@pytest.mark.parametrize(
    ("name", "goal"),
    [("dual-p4-m8-1to1-k5-c0", 151), ("lin-p4-m8-1to1-k5-c0", 192), ("v-p4-m8-1to1-k9-c0", 326)],
)
def test_annealing_is_as_good_as_the_best_of_others(name: str, goal: int) -> None:
    problem, order = found(target_spec(name), 90, engine="anneal")
    assert makespan(problem, lanes_of(order)) <= goal


@pytest.mark.full
@pytest.mark.parametrize("row", OPEN, ids=lambda row: row["id"])
def test_no_instance_stays_behind_the_best_of_others(row: dict[str, Any]) -> None:
    problem, order = found(target_spec(row["id"]), 1500, engine="anneal")
    assert makespan(problem, lanes_of(order)) <= row["best"]


@pytest.mark.parametrize("costs", COSTS)
def test_one_rank_takes_the_larger_load_per_microbatch(costs: str) -> None:
    """F, then F | B M − 1 times, then B: the makespan grows by exactly the larger load."""
    rows = COSTS[costs]
    loads = [sum(sum(kind[k::2]) for kind in rows) for k in (0, 1)]
    values = []
    for many in range(3, 8):
        problem = expand(parts_spec(1, many, costs=costs))
        paired = [lanes for name, lanes in starts(problem) if name == PAIRED]
        values.append(min(makespan(problem, lanes) for lanes in paired))
    assert {b - a for a, b in pairwise(values)} == {max(loads)}


# ---------------------------------------------------------------------------- of all kinds


def judged(seed: int) -> int | None:
    """The ticks above the optimum of all orders, for a random instance; None where none exists, or
    there are too many to try."""
    problem = expand(random_parts(Random(seed), 15))
    try:
        least = least_makespan(problem)
    except TooManyOrders:
        return None
    try:
        order = arrange(problem, Budget(effort=40, seed=seed))
    except Rejected:
        assert least is None, f"seed {seed}: there is an order of {least}"
        return None
    lanes = lanes_of(order)
    start = planned(problem, lanes)
    assert start is not None
    for rank, limit in enumerate(problem.spec.limits):
        if limit is not None and all(problem.duration):
            assert most_held(problem, start, rank) <= limit.grains, f"seed {seed}"
    assert least is not None, f"seed {seed}: an order where there is none"
    return makespan(problem, lanes) - least


def test_random_instances_of_all_kinds_are_solved() -> None:
    above = [judged(seed) for seed in range(30)]
    assert [ticks for ticks in above if ticks] == []


@pytest.mark.full
def test_many_random_instances_of_all_kinds_are_solved() -> None:
    above = [judged(seed) for seed in range(1000, 1200)]
    assert sum(1 for ticks in above if ticks) <= 3


def written(spec: Spec, *rows: tuple[Operation, ...]) -> Spec:
    """The Spec with a part of an order for each rank."""
    return replace(spec, written=tuple(tuple(Unit((o,), 0) for o in row) for row in rows))


def test_what_is_written_keeps_its_sequence_and_rules_hold() -> None:
    spec = parts_spec(2, 3, costs="1to1", limit=3)
    part = Operation("F", 0, 0, 0, -1, 2)
    first, second = (part._replace(microbatch=m) for m in (1, 0))
    weight = Operation("W", 0, 0, 0, -1, 0)
    last = Operation("I", 0, 0, 2, -1, 0)
    rule = Rule(later=Operation("F", 0, 1, 1, -1, 1), earlier=Operation("I", 0, 1, 0, -1, 3), at=0)
    spec = replace(written(spec, (first, second, last, weight), ()), rules=(rule,))
    problem, order = found(spec, 4)
    start = planned(problem, lanes_of(order))
    assert start is not None
    at = {operation: start[i] for i, operation in enumerate(problem.operations)}
    assert at[first] < at[second] < at[last] < at[weight]
    assert at[rule.later] >= at[rule.earlier] + COSTS["1to1"][1][3]


def test_limits_that_cannot_be_met_are_refused_by_name() -> None:
    spec = target_spec("v-p2-m4-1to1-k1-c0")
    with pytest.raises(Rejected) as refused:
        arrange(expand(spec), Budget(effort=0))
    assert [one.code for one in refused.value.diagnostics] == ["limit-too-small"]
    assert "rank 0 must hold 2 of activations at once" in refused.value.diagnostics[0].message


def test_an_engine_that_does_not_know_parts_is_refused_by_name() -> None:
    with pytest.raises(Rejected, match="offsets"):
        arrange(expand(parts_spec(2, 4)), Budget(effort=1, engine="offsets"))


# ---------------------------------------------------------------------------- the loops


def test_a_seed_and_an_effort_mean_the_same_twice() -> None:
    spec = target_spec("dual-p4-m8-dsv3-k5-c0")
    one, other = (found(spec, 8, seed=3, engine="anneal")[1] for _ in range(2))
    assert one.lanes == other.lanes


def test_plain_python_finds_the_same() -> None:
    pytest.importorskip("numba")
    problem = expand(target_spec("dual-p4-m8-1to1-k5-c0"))
    instance = parts_instance(problem)
    *_, (_, lanes) = starts(problem)  # the longest, which annealing shortens
    run, found = PartsRun(3000, 4.0, 0.2, seed=5), []
    before = jit.fast()
    for form in (jit.engage, jit.disengage):
        form()
        found.append(annealed(instance, part_arrays(instance), lanes, run))
    if before:
        jit.engage()
    assert found[0] == found[1] != lanes


def test_a_mirror_folds_and_unfolds() -> None:
    problem = expand(target_spec("dual-p4-m8-dsv3-k5-c0"))
    instance = parts_instance(problem)
    mirror = mirror_of(problem, instance)
    assert mirror is not None
    assert mirror.half.size == instance.size / 2
    for name, lanes in starts(problem):
        half, whole = clock(mirror.half, mirror.fold(lanes)), clock(instance, lanes)
        if name == "deepseek_v3":
            assert half is not None
            assert whole is not None
            assert mirror.unfold(mirror.fold(lanes)) == lanes
            assert (half.makespan, half.fits) == (whole.makespan, whole.fits)
    for spec in (target_spec("lin-p4-m8-1to1-k4-c0"), uneven()):
        assert mirror_of(expand(spec), parts_instance(expand(spec))) is None


def uneven() -> Spec:
    """DualPipe's placement, one stage of one direction longer than its copy."""
    spec = target_spec("dual-p4-m8-1to1-k5-c0")
    line = spec.pipelines[1]
    longer = replace(
        line.stages[0], parts=(line.stages[0].parts[0]._replace(F=9), *line.stages[0].parts[1:])
    )
    lines = (spec.pipelines[0], replace(line, stages=(longer, *line.stages[1:])))
    return replace(spec, pipelines=lines)


def test_a_given_order_is_improved() -> None:
    problem = expand(target_spec("dual-p4-m8-1to1-k5-c0"))
    instance = parts_instance(problem)
    lanes = next(lanes for name, lanes in starts(problem) if name == "deepseek_v3")
    timed = clock(instance, lanes)
    assert timed is not None
    rows = [
        [(problem.operations[i],) for i in timed.sequence if problem.rank[i] == rank]
        for rank in range(4)
    ]
    better = improve(problem, rows, Budget(effort=20))
    assert better is not None
    assert check(better).makespan < timed.makespan
