"""Programs whose ranks have several streams: what the proof asks of them beside all that it asks of
others. The Programs are those of an emitter of the tests' own."""

from random import Random

import pytest

from stretto.compiler.problem.spec import Spec
from stretto.compiler.proof.prove import STREAM_ASSUMPTIONS, prove
from tests.support.part_programs import emitted, lists_at_random, operations
from tests.support.parts import parts_spec


def linear(microbatches: int = 2, *, layers: int = 1, limit: int | None = None) -> Spec:
    return parts_spec(2, microbatches, layers=layers, limit=limit)


def both_ways(layers: int = 1) -> Spec:
    return parts_spec(2, 4, (lambda s: s, lambda s: 1 - s), layers=layers)


@pytest.mark.parametrize(
    "spec", [linear(), linear(3, layers=2), both_ways(), both_ways(2)], ids="abcd"
)
def test_random_orders_of_parts_are_proved(spec: Spec) -> None:
    """Whatever the sequences, as long as all ranks can finish."""
    for seed in range(5):
        program = emitted(spec, lists_at_random(spec, Random(seed)))
        proof = prove(program)
        assert proof.operations == len(list(operations(spec)))
        assert proof.assumptions == STREAM_ASSUMPTIONS
        evaluation = emitted(spec, lists_at_random(spec, Random(seed), "eval"), "eval")
        assert prove(evaluation).operations == len(list(operations(spec, "eval")))
