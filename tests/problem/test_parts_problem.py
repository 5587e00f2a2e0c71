"""`expand` of random Specs with parts, compared with what is made operation by operation."""

from collections import Counter
from random import Random

import pytest

from stretto.compiler.problem.expand import expand
from stretto.compiler.problem.problem import Problem
from tests.support.parts_orders import random_order
from tests.support.parts_problem import parts_problem

SEEDS = [*range(40), *(pytest.param(seed, marks=pytest.mark.full) for seed in range(40, 400))]


@pytest.mark.parametrize("seed", SEEDS)
def test_expand_makes_the_same(seed: int) -> None:
    spec = random_order(Random(seed)).problem.spec
    found, other = expand(spec), parts_problem(spec)
    for name in ("operations", "rank", "stream", "duration", "overlaps_with", "at"):
        assert getattr(found, name) == getattr(other, name), name
    assert _edges(found) == _edges(other)
    assert _holdings(found) == _holdings(other)


def _edges(problem: Problem) -> Counter[tuple[object, ...]]:
    edges = zip(problem.tail, problem.head, problem.lag, problem.why, strict=True)
    return Counter(edges)


def _holdings(problem: Problem) -> Counter[tuple[object, ...]]:
    """Grains by who takes and who frees them."""
    found: Counter[tuple[object, ...]] = Counter()
    for grains, taken, freed in problem.holdings:
        found[taken, tuple(sorted(freed))] += grains
    return found
