"""Limits that no order can meet are refused, and those that one can meet are not."""

from random import Random

import msgspec
import pytest

from stretto.compiler.bounds.feasible import feasible, memory_needs
from stretto.compiler.bounds.relaxation import relax
from stretto.compiler.diagnostics.diagnostic import Rejected
from stretto.compiler.problem.expand import expand
from stretto.compiler.problem.spec import Feed, Limit, Spec
from tests.support import bound_instances, bound_oracle, specs


def least(spec: Spec) -> list[int]:
    return [need.grains for need in memory_needs(relax(spec))]


def limited(spec: Spec, *grains: int) -> Spec:
    limits = tuple(Limit(one, 0) for one in grains) * (spec.ranks // len(grains))
    return msgspec.structs.replace(spec, limits=limits)


def test_one_micro_batch_at_a_time() -> None:
    assert least(specs.linear(3, 5)) == [2, 2, 2]  # two grains a stage
    assert least(specs.vee(3, 5)) == [4, 4, 4]
    assert least(specs.interleaved(2, 3, 4, split=True)) == [6, 6]
    assert least(specs.linear(2, 4, slices=3)) == [6, 6]


def test_pipelines_take_turns() -> None:
    assert least(specs.both_ways(4, 8)) == [2, 2, 2, 2]


def test_a_pipeline_that_is_fed_holds_with_its_feeder() -> None:
    for learns in (True, False):
        side = specs.pipeline("side", [1], 2, feeds=(Feed(0, 0),), forward_only=not learns)
        spec = specs.model(2, specs.pipeline("main", [0, 1], 2), side)
        assert least(spec) == [2, 4 if learns else 2]


def test_the_words() -> None:
    spec = limited(specs.vee(2, 4, split=True), 3)
    with pytest.raises(Rejected) as refused:
        feasible(expand(spec))
    (only,) = refused.value.diagnostics
    assert only.code == "limit-too-small"
    assert only.message == "rank 0 must hold 2 of activations at once and may hold 1.5"
    assert only.notes == (
        "of one micro-batch alone it holds what `F main[0, 0]` and `F main[3, 0]` leave, all at "
        "once",
        "so it is on rank 1",
    )
    assert only.help == "allow 2: one micro-batch at a time can keep to it"


def test_a_written_rank_needs_what_it_says() -> None:
    spec = limited(specs.ordered(specs.linear(2, 4), specs.gpipe), 6)
    feasible(expand(spec))  # complete: the proof judges it
    part = msgspec.structs.replace(spec, written=(spec.written[0], ()))
    with pytest.raises(Rejected) as refused:
        feasible(expand(part))
    (only,) = refused.value.diagnostics
    assert only.message == "rank 0 must hold 4 of activations at once and may hold 3"
    assert only.help == "allow at least 4"


@pytest.mark.parametrize("shape", bound_instances.SHAPES)
def test_exactly_what_the_search_finds(shape: str) -> None:
    """One grain less than the least on one rank, and no order is left; with it there is one."""
    random, tried = Random(shape), 0
    while tried < 4:
        spec = bound_instances.instance(shape, random, 8)
        spec = msgspec.structs.replace(spec, minimize="makespan")
        if len(bound_oracle.tasks(spec)) > 16:
            continue
        tried += 1
        needed = least(spec)
        assert bound_oracle.possible(limited(spec, *needed))
        rank = random.choice([r for r, grains in enumerate(needed) if grains])
        less = [grains - (r == rank) for r, grains in enumerate(needed)]
        assert not bound_oracle.possible(limited(spec, *less))
