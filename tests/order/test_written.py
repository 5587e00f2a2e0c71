"""What is written beside `order auto`, with weight gradients out of turn and backwards in any
sequence: it was taken from an order that can finish, so there is one, and one is found."""

from random import Random

import msgspec
import pytest

from stretto.compiler.order.arrange import arrange
from stretto.compiler.order.budget import Budget
from stretto.compiler.order.check import check
from stretto.compiler.problem.expand import expand
from stretto.compiler.problem.spec import Spec
from tests.support.specs import linear, random_order, vee, written


def partly(seed: int) -> Spec:
    """A random order of which some operations are left out."""
    random = Random(seed)
    make = random.choice((linear, vee))
    spec = make(
        random.randint(2, 4), random.randint(3, 6), (2, 3, 1), transfer=random.randint(0, 2)
    )
    spec = msgspec.structs.replace(spec, split_backward=True, overlap=())
    whole = random_order(spec, random, pairs=0.0, split=0.7)
    rows = [[u.operations for u in row if random.random() < 0.4] for row in whole.written]
    part = written(msgspec.structs.replace(spec, spans=spec.spans[:1]), rows)
    return msgspec.structs.replace(part, order=("",) * spec.ranks)


@pytest.mark.parametrize("seed", range(24))
def test_an_order_that_keeps_to_it_is_found(seed: int) -> None:
    problem = expand(partly(seed))
    check(arrange(problem, Budget(effort=0, seed=seed)))
