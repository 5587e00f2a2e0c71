"""What was planned of an order is what the clock finds in the Program's lists: so a plan may claim
the one where the other would have to walk them."""

from random import Random

import pytest

from stretto.compiler.order.written import written
from stretto.compiler.problem.expand import expand
from stretto.compiler.problem.spec import Spec
from stretto.compiler.program.claims import claims
from stretto.compiler.program.communicate import Communicated, communicated
from tests.support import library, specs


def made(spec: Spec, slots: int | None = None) -> list[Communicated]:
    return [*communicated(written(expand(spec)), ("train", "eval"), slots).programs.values()]


def test_random_orders_run_at_their_planned_times() -> None:
    paired = 0
    for seed in range(150):
        random = Random(seed)
        spec = specs.random_model(random)
        spec = specs.random_order(spec, random, pairs=random.choice([0, 0.5]))
        paired += any(len(unit.operations) > 1 for row in spec.written for unit in row)
        for program, planned in made(spec):
            assert planned is not None
            assert claims(program, planned) == claims(program)
    assert paired > 25


@pytest.mark.parametrize("name", library.WHOLE)
def test_the_library_runs_at_its_planned_times(name: str) -> None:
    costs = "transfer if a < b then 1/3 else 5/2 for rank a -> b"
    for text in ("", costs):
        for program, planned in made(library.spec(name, text, ranks=4, microbatches=12)):
            assert claims(program, planned) == claims(program)


def test_what_holds_operations_up_is_left_to_the_clock() -> None:
    spec = library.spec("one_f_one_b", "transfer 1", ranks=4, microbatches=8)
    free, held = made(spec)[0], made(spec, slots=1)[0]
    assert free.planned is not None and held.planned is None
    assert claims(*held).makespan > claims(*free).makespan
    assert all(one.planned is None for one in made(library.spec("moe_1f1b")))
