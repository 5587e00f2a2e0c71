"""The two engines that search steady states, against the replay of sequences, which they do not
share their clocks with, and against a published table."""

import csv
from random import Random

import msgspec
import pytest

from stretto.compiler.order.arrange import arrange
from stretto.compiler.order.budget import Budget
from stretto.compiler.order.check import check
from stretto.compiler.order.engines import modulo, one_f_one_b
from stretto.compiler.order.kernels import evaluator
from stretto.compiler.order.kernels.annealing import Cooling, Goal
from stretto.compiler.order.kernels.instance import instance_of
from stretto.compiler.order.kernels.jit import ints
from stretto.compiler.order.kernels.sequences import complete
from stretto.compiler.order.search_state import SearchState, start_search
from stretto.compiler.problem.expand import expand
from stretto.compiler.problem.spec import Limit, Spec
from tests.support.paths import DATA
from tests.support.specs import both_ways, linear, vee
from tests.support.targets import bubble, memory_case

TABLE = DATA / "zero_bubble_memory_sweep.csv"


def chain(random: Random) -> Spec:
    """One stage per rank; unequal stages, partial release, a limit, either objective."""
    costs = (random.randint(1, 9), random.randint(1, 9), random.randint(0, 9))
    spec = linear(random.randint(1, 5), random.randint(1, 9), costs, transfer=random.randint(0, 3))
    line = spec.pipelines[0]
    stages = []
    for stage in line.stages:
        size = random.randint(1, 4)
        more = {"F": stage.F + random.randint(0, 3), "activation": size}
        stages.append(msgspec.structs.replace(stage, **more, kept=random.randint(0, size)))
    line = msgspec.structs.replace(line, stages=tuple(stages))
    limits = tuple(Limit(4 + random.randint(0, 12), 0) for _ in range(spec.ranks))
    return msgspec.structs.replace(
        spec,
        pipelines=(line,),
        limits=limits,
        split_backward=random.random() < 0.8,
        minimize=random.choice(["makespan", "span"]),
    )


def alone(spec: Spec) -> Spec:
    """The Spec in which nothing overlaps."""
    return msgspec.structs.replace(spec, overlap=(), pairs=())


def looking(spec: Spec) -> SearchState:
    return start_search(instance_of(expand(spec)), Budget(), 0)


@pytest.mark.parametrize("seed", range(60))
def test_alternating_orders_take_as_long_as_their_sequences(seed: int) -> None:
    """And their sequences have every operation and keep to the limit."""
    found = looking(chain(Random(seed)))
    assert one_f_one_b.suits(found.instance)
    ran = 0
    for ahead, wait in one_f_one_b.starts(found.instance):
        for moves in (0, 30):
            search = one_f_one_b.prepare(found, ahead, wait, seed)
            value = one_f_one_b.anneal(search, Cooling(moves, 3.0, 0.1), Goal(found.span, 0.1, 0))
            if value >= 0:
                assert complete(found.t, [int(u) for u in search.best])
                assert evaluator.evaluate(found.evaluator, search.best, found.span) == value
                ran += 1
    assert ran


@pytest.mark.parametrize("seed", range(40))
def test_circles_take_as_long_as_their_sequences(seed: int) -> None:
    random = Random(seed)
    costs = (random.randint(1, 9), random.randint(1, 9), random.randint(1, 9))
    shape = vee if seed % 2 else both_ways
    spec = shape(random.randint(2, 4), 2 * random.randint(1, 5), costs, transfer=seed % 3)
    limits = tuple(Limit(4 + random.randint(0, 8), 0) for _ in range(spec.ranks))
    spec = msgspec.structs.replace(alone(spec), limits=limits, split_backward=seed % 3 > 0)
    found = looking(spec)
    assert modulo.suits(found.instance)
    circles = modulo.begin(found.instance, found.evaluator, seed)
    sequence = ints([-1] * found.instance.size)
    best = sequence.copy()
    goal = Goal(found.span, 0.1, 0)
    first, value = (
        modulo.anneal(
            found.evaluator,
            circles,
            modulo.copied(circles),
            sequence,
            best,
            Cooling(moves, 9.0, 0.1),
            goal,
        )
        for moves in (0, 400)
    )
    assert 0 <= value <= first
    assert complete(found.t, [int(u) for u in best])
    assert evaluator.evaluate(found.evaluator, best, found.span) == value


def test_a_circle_is_shifted_there_and_back() -> None:
    found = looking(alone(vee(3, 6)))
    circles = modulo.begin(found.instance, found.evaluator, 0)

    def sequences() -> list[int]:
        sequence = ints([-1] * found.instance.size)
        for r in range(found.instance.ranks):
            modulo.unroll(found.t, circles, r, sequence)
        return [int(u) for u in sequence]

    before, moved = sequences(), 0
    for by in (1, 2, 5, 7, 12):
        for x in found.t.op_class:
            modulo.shift(found.t, circles, x, by)
            moved += sequences() != before
            modulo.shift(found.t, circles, x, -by)
            assert sequences() == before
    assert moved > 10


def rows() -> list[dict[str, str]]:
    """Cases of the Zero Bubble paper on eight ranks whose optimum is proven, and is better than
    what the paper's own scheduler finds."""
    with TABLE.open() as file:
        table = [row for row in csv.DictReader(file) if row["ranks"] == "8"]
    proven = "proven_optimal_span_bubble"
    return [r for r in table if r[proven] and r[proven] < r["published_scheduler_span_bubble"]]


@pytest.mark.parametrize("row", rows(), ids=lambda r: f"m{r['microbatches']}-{r['limit_in_ranks']}")
def test_what_the_paper_left_is_found(row: dict[str, str]) -> None:
    """By this engine alone and within a second; the optimum where memory is tightest."""
    spec = memory_case(row)
    order = arrange(expand(spec), Budget(effort=100, engine="alternating"))
    found, least = bubble(spec, check(order).span), float(row["proven_optimal_span_bubble"])
    assert least <= found < float(row["published_scheduler_span_bubble"])
    assert found == least or row["limit_in_ranks"] not in ("1.125", "1.25")
