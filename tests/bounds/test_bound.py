"""Bounds are never above an optimum, by whoever found it, and not below what others proved."""

import csv
import json
from fractions import Fraction
from random import Random
from typing import Any

import msgspec
import pytest

from stretto.compiler.bounds.best import best, bound_context
from stretto.compiler.bounds.bound import bound
from stretto.compiler.problem.expand import expand
from stretto.compiler.problem.spec import CostOverride, Limit, Operation, Rule, Spec
from tests.support import bound_instances, bound_oracle, specs, targets
from tests.support.paths import DATA

TARGETS = json.loads((DATA / "optimizer_targets.json").read_text())["instances"]
SMALL = json.loads((DATA / "proven_optima_small.json").read_text())
SWEEP = list(csv.DictReader((DATA / "zero_bubble_memory_sweep.csv").read_text().splitlines()))

# Where the optimum was proven by a solver alone, and no theorem reaches it.
SOLVED: dict[str, int] = {
    "lin-p4m8-real-k2": 500,
    "v-p3m6-real-k4": 482,
    "v-p3m6-fused-k4": 532,
    "lin-p3m6-release-k2.5": 290,
}


def ticks(spec: Spec) -> int:
    return best(bound_context(spec)).ticks


def limited(spec: Spec, grains: int) -> Spec:
    return msgspec.structs.replace(spec, limits=(Limit(grains, 0),) * spec.ranks)


# ---------------------------------------------------------------------------- others' figures


@pytest.mark.parametrize(
    "row", [r for r in TARGETS if r["operations"] < 13_000], ids=lambda row: row["id"]
)
def test_targets(row: dict[str, Any]) -> None:
    """No lower than the bound that is listed, no higher than the best that anybody found."""
    found, listed = ticks(targets.target(row)), int(row["bound"])
    assert SOLVED.get(row["id"], listed) <= found <= row["best"]


@pytest.mark.full
@pytest.mark.parametrize(
    "row", [r for r in TARGETS if r["operations"] >= 13_000], ids=lambda row: row["id"]
)
def test_large_targets(row: dict[str, Any]) -> None:
    assert row["bound"] <= ticks(targets.target(row)) <= row["best"]


def test_small_proven_optima() -> None:
    reached = 0
    for row in SMALL:
        found = ticks(targets.small(row))
        assert found <= row["obj"], row
        reached += found == row["obj"]
    assert reached >= 31  # of 34


HIDDEN = {"1.5B": 2304, "14.6B": 5120, "28.3B": 6144}
HEADS = {"1.5B": 24, "14.6B": 40, "28.3B": 48}


def sweep(row: dict[str, str]) -> Spec:
    """The Spec of one row: partial release, limits as multiples of ranks × one forward."""
    h, a, ranks = HIDDEN[row["model"]], HEADS[row["model"]], int(row["ranks"])
    f, i, w = (int(row[kind]) for kind in "FIW")
    limit = Fraction(row["limit_in_ranks"]) * ranks * (34 * h + 5 * a * 1024)
    unit = limit.denominator
    line = specs.pipeline(
        "main",
        range(ranks),
        int(row["microbatches"]),
        (f, i, w),
        activation=(34 * h + 5 * a * 1024) * unit,
        kept=32 * h * unit,
    )
    spec = specs.model(ranks, line, transfer=int(row["transfer"]), split=True, minimize="span")
    return limited(spec, int(limit * unit))


@pytest.mark.parametrize(
    "row",
    [r for r in SWEEP if r["ranks"] == "8" and r["limit_in_ranks"] < "2.3"],
    ids=lambda row: f"{row['microbatches']}-{row['limit_in_ranks']}",
)
def test_zero_bubble_sweep(row: dict[str, str]) -> None:
    compare(row)


@pytest.mark.full
@pytest.mark.parametrize("row", SWEEP, ids=lambda row: f"{row['model']}-{row['limit_in_ranks']}")
def test_whole_zero_bubble_sweep(row: dict[str, str]) -> None:
    compare(row)


def compare(row: dict[str, str]) -> None:
    """Span bubbles, printed to four places."""
    spec = sweep(row)
    work = int(row["microbatches"]) * sum(int(row[kind]) for kind in "FIW")
    bubble = 1 - work / ticks(spec)
    assert float(row["lower_bound_span_bubble"]) - 6e-5 < bubble
    assert bubble < float(row["best_known_span_bubble"]) + 6e-5


# ---------------------------------------------------------------------------- searched optima


@pytest.mark.parametrize("shape", bound_instances.SHAPES)
def test_never_above_what_an_exhaustive_search_finds(shape: str) -> None:
    random, tried = Random(f"brute {shape}"), 0
    while tried < 4:
        spec = bound_instances.instance(shape, random, 8)
        spec = msgspec.structs.replace(spec, minimize="makespan")
        if len(bound_oracle.tasks(spec)) > (10 if spec.split_backward else 16):
            continue
        tried += 1
        assert ticks(spec) <= bound_oracle.brute(spec)


def never_above(shape: str, seeds: range, operations: int, seconds: float) -> None:
    """Also where time ran out: a value that was found is no lower than the optimum."""
    for seed in seeds:
        spec = bound_instances.instance(shape, Random(f"{shape} {seed}"), operations)
        value, _ = bound_oracle.solved(spec, seconds)
        assert value is None or ticks(spec) <= value, seed


@pytest.mark.parametrize("shape", bound_instances.SHAPES)
def test_never_above_what_a_solver_finds(shape: str) -> None:
    pytest.importorskip("ortools")
    never_above(shape, range(5), 30, 1)


@pytest.mark.full
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("shape", bound_instances.SHAPES)
def test_never_above_on_hundreds(shape: str) -> None:
    pytest.importorskip("ortools")
    never_above(shape, range(5, 45), 40, 4)


@pytest.mark.parametrize("shape", bound_instances.SHAPES)
@pytest.mark.parametrize("seeds", [range(4), pytest.param(range(4, 40), marks=pytest.mark.full)])
@pytest.mark.timeout(600)
def test_never_above_where_micro_batches_differ(shape: str, seeds: range) -> None:
    """With exceptions, rules, and parts of orders that a solver keeps too."""
    pytest.importorskip("ortools")
    for seed in seeds:
        random = Random(f"bent {shape} {seed}")
        spec = bound_instances.bent(bound_instances.instance(shape, random, 30), random)
        value, _ = bound_oracle.solved(spec, 1)
        assert value is None or ticks(spec) <= value, seed


def test_a_place_among_others_is_not_counted_where_these_need_not_run_in_turn() -> None:
    """Found by the test before this one: heads were raised as if they did."""
    random = Random("bent vee 118")
    spec = bound_instances.bent(bound_instances.instance("vee", random, 24), random)
    assert ticks(spec) <= 129  # CP-SAT's optimum


# ---------------------------------------------------------------------------- properties


@pytest.mark.parametrize("shape", bound_instances.SHAPES)
def test_more_memory_and_faster_operations_never_raise_it(shape: str) -> None:
    for seed in range(6):
        random = Random(f"{shape} {seed}")
        spec = bound_instances.instance(shape, random, 40)
        found = ticks(spec)
        roomier = tuple(limit and Limit(limit.grains + 1, 0) for limit in spec.limits)
        assert ticks(msgspec.structs.replace(spec, limits=roomier)) <= found
        p = random.randrange(len(spec.pipelines))
        stages = list(spec.pipelines[p].stages)
        s = random.randrange(len(stages))
        kind = random.choice("FIWB")
        faster = {kind: getattr(stages[s], kind) - 1}
        stages[s] = msgspec.structs.replace(stages[s], **faster)
        lines = list(spec.pipelines)
        lines[p] = msgspec.structs.replace(lines[p], stages=tuple(stages))
        assert ticks(msgspec.structs.replace(spec, pipelines=tuple(lines))) <= found


def test_a_whole_written_order_changes_nothing() -> None:
    for seed in range(20):
        random = Random(seed)
        spec = specs.random_model(random)
        done = specs.random_order(spec, random)
        split = any(op.kind == "I" for units in done.written for unit in units for op in unit[0])
        free = msgspec.structs.replace(spec, split_backward=split)
        assert bound(expand(done)).ticks == bound(expand(free)).ticks


def test_a_part_of_an_order_can_raise_it() -> None:
    """One micro-batch after another on rank 0: F, F and I of rank 1, B, four times."""
    free = specs.linear(2, 4, (2, 2, 2), split=True)
    one_by_one = specs.ordered(free, lambda spec, rank: ["F", "B"] * 4)
    part = msgspec.structs.replace(one_by_one, written=(one_by_one.written[0], ()))
    assert ticks(free) == 2 + 4 * 6
    assert ticks(part) == 4 * (2 + 2 + 2 + 4)


def test_a_whole_backward_may_be_quicker_than_its_halves() -> None:
    spec = specs.linear(1, 5, (1, 4, 4), split=True)
    stage = msgspec.structs.replace(spec.pipelines[0].stages[0], B=3)
    line = msgspec.structs.replace(spec.pipelines[0], stages=(stage,))
    assert ticks(msgspec.structs.replace(spec, pipelines=(line,))) == 5 * 4


def test_micro_batches_that_differ_are_not_put_in_turn() -> None:
    """A long micro-batch 0 may run last on a rank whose memory takes one at a time."""
    spec = limited(specs.linear(2, 3, (1, 1, 1), transfer=2), 2)
    slow = CostOverride(Operation("F", 0, 1, 0), 9)
    spec = msgspec.structs.replace(spec, exceptions=(slow,))
    assert ticks(spec) <= bound_oracle.brute(spec)
    # each micro-batch alone: F, way, F, B, way, B
    assert bound_oracle.brute(spec) == 3 * (1 + 2 + 1 + 2 + 2 + 2) + 8


def test_rules_at_one_distance_keep_micro_batches_alike() -> None:
    """F of m after B of m − 1: one at a time."""
    rules = tuple(
        Rule(Operation("F", 0, 0, m), Operation("B", 0, 0, m - 1), 0) for m in range(1, 6)
    )
    spec = specs.linear(3, 6, (1, 1, 1), rules=rules)
    assert ticks(spec) == 6 * 9
    backwards = tuple(Rule(later, earlier, 0) for earlier, later, _ in rules[2:3])
    assert ticks(specs.linear(3, 6, (1, 1, 1), rules=backwards)) < 6 * 9


# ---------------------------------------------------------------------------- words


def test_reasons() -> None:
    assert bound(expand(limited(specs.linear(4, 2), 2))).reason == (
        "the longest chain, from `F main[0, 0]` to `B main[0, 1]`"
    )
    busy = bound(expand(msgspec.structs.replace(specs.linear(4, 8, split=True), time_unit=2)))
    assert busy.ticks == 3 + 24
    assert busy.reason == (
        "rank 3: 12 of work (8 micro-batches) after a head of 1.5 and before a tail of 0"
    )
    vee = bound(expand(limited(specs.vee(4, 8, split=True), 10)))
    assert "it can do only" in vee.reason
