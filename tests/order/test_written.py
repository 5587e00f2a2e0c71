"""What is written beside `order auto`, with weight gradients out of turn and backwards in any
sequence: it was taken from an order that can finish, so there is one, and one is found."""

from random import Random

import msgspec
import pytest

from stretto.compiler.order.arrange import arrange
from stretto.compiler.order.budget import Budget
from stretto.compiler.order.check import check
from stretto.compiler.order.earliest_start import earliest
from stretto.compiler.order.written import order_like, written
from stretto.compiler.problem.expand import expand
from stretto.compiler.problem.spec import Spec
from tests.support import specs
from tests.support.evaluated import spec
from tests.support.specs import linear, random_order, vee


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
    part = specs.written(msgspec.structs.replace(spec, spans=spec.spans[:1]), rows)
    return msgspec.structs.replace(part, order=("",) * spec.ranks)


@pytest.mark.parametrize("seed", range(24))
def test_an_order_that_keeps_to_it_is_found(seed: int) -> None:
    problem = expand(partly(seed))
    check(arrange(problem, Budget(effort=0, seed=seed)))


CUT = """
schedule cut ranks 1 microbatches 4
pipeline main { }
split F into 2 * (attention, dispatch on comm, mlp, combine on comm)
split B into I, W
cost F.attention = 2 cost F.dispatch = 3 cost F.mlp = 2 cost F.combine = 3
order rank r { F; repeat microbatches - 1 { F | B }; B }
"""


def test_every_stream_has_its_own_of_the_list() -> None:
    """And nothing else binds them: a pair more costs the larger load, 24, two layers of 12."""
    problem = expand(spec(CUT))
    order = written(problem)
    assert [(lane.rank, lane.stream) for lane in order.lanes] == [(0, 0), (0, 1)]
    listed = [problem.operations[i] for i in order.lists[0]]
    assert listed == [unit.operations[0] for unit in problem.spec.written[0]]
    for lane in order.lanes:
        own = [i for i in order.lists[0] if problem.stream[i] == lane.stream]
        assert [i for (i,) in lane.units] == own
    spans = [
        max(max(row) for row in earliest(written(expand(spec(CUT, microbatches=many)))).end)
        for many in (1, 2, 3, 4, 5)
    ]
    assert spans == [42, 66, 90, 114, 138]
    again = order_like(problem, [[u.operations for u in problem.spec.written[0]]], "again")
    assert (again.lanes, again.lists) == (order.lanes, order.lists)
