"""Slack against the clock itself: an operation that takes as much longer leaves the step as long as
it is, and one tick more makes it one tick longer."""

from collections.abc import Iterator
from random import Random

import msgspec
import pytest

from stretto.compiler.analysis.slack import slack
from stretto.compiler.order.arrange import arrange
from stretto.compiler.order.budget import Budget
from stretto.compiler.problem.expand import expand
from stretto.compiler.problem.spec import NONE, CostOverride, PairCostOverride, Spec
from stretto.compiler.program.communicate import communicate
from stretto.compiler.program.program import Program
from stretto.compiler.program.timeline import Timed, time
from tests.support import parts_orders, specs


def longer(program: Program, bars: list[Timed], ticks: int) -> Program:
    """The Program where what the one bar, or the two of a pair, do takes so much longer."""
    spec = program.spec
    took = bars[0].end - bars[0].start + ticks
    if len(bars) == 2:
        pair = PairCostOverride(bars[0].operation, bars[1].operation, took)
        old = [p for p in spec.exceptional_pairs if p[:2] != pair[:2]]
        spec = msgspec.structs.replace(spec, exceptional_pairs=(*old, pair))
    else:
        one = CostOverride(bars[0].operation, took)
        old_costs = [c for c in spec.exceptions if c.operation != one.operation]
        spec = msgspec.structs.replace(spec, exceptions=(*old_costs, one))
    return msgspec.structs.replace(program, spec=spec)


def some() -> list[Spec]:
    random = Random(11)
    beside = specs.ordered(specs.linear(3, 4, (3, 4, 2), split=True), specs.zb_h1)
    places = [(0, s, 5 + s) for s in range(3)]
    return [
        specs.ordered(specs.interleaved(3, 2, 6, transfer=1), specs.interleaved_1f1b),
        specs.ordered(specs.linear(4, 8, (3, 4, 2), split=True), specs.zb_h1),
        specs.random_order(specs.both_ways(4, 6, pair=3), random, pairs=0.7),
        msgspec.structs.replace(
            beside, reduce_gradients=tuple(places), unshard_weights=tuple(places)
        ),
        *(specs.random_order(specs.random_model(random), random, 0.3) for _ in range(12)),
    ]


def programs(slots: int | None) -> Iterator[Program]:
    """Of these, and of stages that are cut into parts, on several streams."""
    for spec in some():
        yield communicate(arrange(expand(spec), Budget()), slots)
    for seed in range(12):
        yield communicate(parts_orders.random_order(Random(seed)), slots)


@pytest.mark.parametrize("slots", [None, 1])
def test_an_operation_may_take_its_slack_longer_and_no_tick_more(slots: int | None) -> None:
    """Also where few receive slots hold messages back."""
    random, tried = Random(3), 0
    for program in programs(slots):
        timeline = time(program)
        found = slack(program, timeline)
        for row, slacks in zip(timeline.ranks, found, strict=True):
            for bar, ticks in random.sample(list(zip(row, slacks, strict=True)), min(12, len(row))):
                unit = [b for b in row if b.unit == bar.unit != NONE] or [bar]
                assert ticks >= 0
                assert time(longer(program, unit, ticks)).makespan == timeline.makespan
                assert time(longer(program, unit, ticks + 1)).makespan == timeline.makespan + 1
                tried += 1
    assert tried > 300
