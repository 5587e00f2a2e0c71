"""Bounds where stages are cut into parts: never above an optimum, never below what was listed."""

from random import Random

import pytest

from stretto.compiler.bounds.bound import bound
from stretto.compiler.bounds.feasible import feasible
from stretto.compiler.diagnostics.diagnostic import Rejected
from stretto.compiler.problem.expand import expand
from tests.support.lane_orders import TooManyOrders, least_makespan
from tests.support.parts_targets import random_parts, target_spec, targets

OPERATIONS = 15
"""Of random instances, all orders of which are tried."""


def never_above(seed: int) -> bool:
    """Whether the instance has an order at all; then the bound is no more than its optimum."""
    problem = expand(random_parts(Random(seed), OPERATIONS))
    try:
        least = least_makespan(problem)
    except TooManyOrders:
        return False
    try:
        feasible(problem)
    except Rejected:
        assert least is None, f"seed {seed}: refused, and there is an order"
        return False
    if least is None:
        return False
    found = bound(problem)
    assert found.ticks <= least, f"seed {seed}: {found} is above the optimum, {least}"
    return True


def test_no_bound_is_above_the_optimum_of_all_orders() -> None:
    assert sum(never_above(seed) for seed in range(40)) > 30


@pytest.mark.full
def test_no_bound_is_above_the_optimum_of_many_instances() -> None:
    assert sum(never_above(seed) for seed in range(100, 400)) > 220


@pytest.mark.parametrize("row", targets(), ids=lambda row: row["id"])
def test_bounds_lie_between_those_listed_and_the_best_known(row: dict) -> None:  # type: ignore[type-arg]
    found = bound(expand(target_spec(row["id"])))
    assert found.ticks <= row["best"]
    if "status" not in row:
        assert found.ticks >= row["bound"]
    assert found.reason


def test_several_layers_count_as_many_times() -> None:
    one = bound(expand(target_spec("dual-p4-m8-dsv3-k5-c0")))
    four = bound(expand(target_spec("dual-p4-m8-dsv3-k5-c0", layers=4)))
    assert four.ticks > 3 * one.ticks
