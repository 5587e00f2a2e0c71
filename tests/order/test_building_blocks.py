"""V-Half and V-Min against the figures of their authors' generator, and against the closed forms of
makespan and memory that its results have."""

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from stretto.compiler.diagnostics.source import Source
from stretto.compiler.evaluation import Settings, evaluate
from stretto.compiler.language.parse import parse
from stretto.compiler.order.check import check
from stretto.compiler.order.engines.published import building_blocks, published_schedules
from stretto.compiler.order.kernels.arrays import arrays_of
from stretto.compiler.order.kernels.instance import instance_of
from stretto.compiler.order.kernels.sequences import order_of, pack
from stretto.compiler.problem.expand import expand

FREE = """schedule free
ranks {ranks}
microbatches {many}
pipeline main {{ stages 2 * ranks place s -> min(s, 2 * ranks - 1 - s) }}
split B into I, W
cost F = {f}
cost I = {i}
cost W = {w}
transfer {lag}
"""


def outcome(
    name: str, ranks: int, many: int, costs: tuple[int, int, int, int] = (1, 1, 1, 0)
) -> tuple[int, int]:
    """Makespan (ticks) and peak (activations of a stage) of the published schedule."""
    f, i, w, lag = costs
    text = FREE.format(ranks=ranks, many=many, f=f, i=i, w=w, lag=lag)
    spec = evaluate(parse(Source("free.pipe", text)), Settings())
    instance = instance_of(expand(replace(spec, written=())))
    t = arrays_of(instance)
    (ranked,) = [units for other, units in published_schedules(instance) if other == name]
    sequence = pack(t, ranked)
    assert sequence is not None
    found = check(order_of(instance, t, sequence, name))
    return found.makespan, peak(ranked)


def peak(ranks: list[list[tuple[int, ...]]]) -> int:
    """The most activations that any rank holds: a forward takes one, a weight gradient gives one
    back. Counted here, from the words alone."""
    most = 0
    for units in ranks:
        held = 0
        for (x,) in units:
            held += {0: 1, 1: 0, 2: -1}[x % 3]
            most = max(most, held)
    return most


@pytest.mark.parametrize(
    ("name", "costs", "makespan", "held"),
    [
        ("v_half", (10, 10, 10, 0), 1610, 10),
        ("v_min", (10, 10, 10, 0), 1710, 8),
        ("v_half", (10, 16, 6, 1), 2054, 10),
        ("v_min", (10, 16, 6, 1), 2756, 8),
    ],
)
def test_the_authors_generator_gives_the_same(
    name: str, costs: tuple[int, int, int, int], makespan: int, held: int
) -> None:
    """8 ranks, 24 micro-batches: what `zbv_greedy.py` (sail-sg, 39f2c18) makes."""
    assert outcome(name, 8, 24, costs) == (makespan, held)


@pytest.mark.parametrize("ranks", range(3, 14))
def test_half_is_half_and_a_bubble_that_does_not_grow(ranks: int) -> None:
    """The closed forms of what the authors' generator makes, where F, I and W take one tick."""
    held = (ranks + 2) // 2
    for many in (2 * ranks, 3 * ranks + 1):
        makespan = 6 * many + 6 * ranks - 1 - 6 * held
        assert outcome("v_half", ranks, many) == (makespan, 2 * held)


@pytest.mark.parametrize("ranks", range(3, 14))
def test_min_is_a_third(ranks: int) -> None:
    """The same; a slot of a rank cannot be used where ranks leave 2 over thirds."""
    held = (ranks + 4) // 3
    for many in (2 * ranks, 3 * ranks + 1):
        makespan = 6 * many + 6 * ranks - 1 - 6 * held + (4 if ranks % 3 == 2 else 0)
        assert outcome("v_min", ranks, many) == (makespan, 2 * held)


@pytest.mark.parametrize("costs", [(2, 3, 2, 0), (3, 4, 2, 0)])
def test_the_bubble_of_half_is_independent_of_micro_batches(
    costs: tuple[int, int, int, int],
) -> None:
    """W + 2I at least 2F and W + 2F at least 2I: the paper's condition; and not where it fails."""
    idle = [outcome("v_half", 8, m, costs)[0] - 2 * m * sum(costs[:3]) for m in (16, 32, 64)]
    assert len(set(idle)) == 1
    grows = [outcome("v_half", 8, m, (2, 4, 2, 0))[0] - 16 * m for m in (16, 32, 64)]
    assert grows == sorted(set(grows))


@pytest.mark.parametrize("block", [building_blocks.v_half, building_blocks.v_min])
def test_every_size_has_every_operation_once(
    block: Callable[[int], building_blocks.BuildingBlock],
) -> None:
    for ranks in range(1, 8):
        for many in (1, 2, 5, 3 * ranks):
            for kinds in building_blocks.orders(block(ranks), many):
                assert sorted(kinds) == sorted(list(range(6)) * many)
