"""Orders of parts with every operation whole: each stands where its last part stood, the plan is
proved, and is what its own text gives again."""

from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
from msgspec.structs import replace

from stretto.compiler.diagnostics.diagnostic import Rejected
from stretto.compiler.driver import compile_text
from stretto.compiler.evaluation import Settings
from stretto.compiler.order import Order
from stretto.compiler.plan.plan import read_plan, write_plan
from stretto.compiler.problem.expand import expand
from stretto.compiler.problem.spec import NONE, Operation, Rule
from stretto.compiler.program.claims import claims
from stretto.compiler.program.communicate import communicate, forwards
from stretto.compiler.program.program import Claims, Compute, Program, ProgramName
from stretto.compiler.program.whole import whole_order
from stretto.compiler.proof.prove import prove, prove_all
from stretto.compiler.verify import verify
from tests.support import library
from tests.support.parts_orders import limited, random_order
from tests.support.paths import DATA

SEEDS = [*range(40), *(pytest.param(seed, marks=pytest.mark.full) for seed in range(40, 300))]


def computed(program: Program, rank: int) -> list[Operation]:
    return [one.operation for one in program.ranks[rank] if isinstance(one, Compute)]


@pytest.mark.parametrize("seed", SEEDS)
def test_it_is_proved(seed: int) -> None:
    order = random_order(Random(seed))
    peaks = claims(communicate(order)).activations
    order = limited(order, peaks)
    order = _without_rules(order)
    spec, found = order.problem.spec, whole_order(order)
    assert not found.problem.spec.streams and not found.problem.spec.parts
    programs: dict[ProgramName, Program] = {"train": communicate(found), "eval": forwards(found)}
    claimed: dict[ProgramName, Claims] = {n: claims(one) for n, one in programs.items()}
    held = claimed["train"].activations
    if any(a > b for a, b in zip(held, peaks, strict=True)):  # what parts take on top stays longer
        stages = [stage for line in spec.pipelines for stage in line.stages]
        assert any(part.activation for stage in stages for part in stage.parts)
        with pytest.raises(Rejected) as rejected:
            prove_all(programs, claimed)
        assert {one.code for one in rejected.value.diagnostics} == {"over-limit"}
    else:
        prove_all(programs, claimed)
    parts = communicate(order)
    for rank in range(len(parts.ranks)):
        _stands_at_last_parts(computed(parts, rank), computed(programs["train"], rank))


def _stands_at_last_parts(parts: list[Operation], wholes: list[Operation]) -> None:
    last = {one._replace(part=NONE): place for place, one in enumerate(parts)}
    for one, place in [*last.items()]:
        if one.kind == "I":
            weight = one._replace(kind="W")
            last[weight] = max(last.get(weight, NONE), place)
    assert set(wholes) == set(last)
    places = [last[one] for one in wholes]
    assert places == sorted(places)
    for one in wholes:
        if one.kind == "W":
            assert wholes.index(one._replace(kind="I")) < wholes.index(one)


def test_what_parts_hold_the_stage_holds() -> None:
    """All that a stage's parts take on top is taken by its forward; what their W free is kept."""
    for seed in range(40):
        order = random_order(Random(seed))
        spec, found = order.problem.spec, whole_order(_without_rules(order)).problem.spec
        for row, old, new in zip(spec.parts, spec.pipelines, found.pipelines, strict=True):
            for chain, a, b in zip(row, old.stages, new.stages, strict=True):
                on_top = [one.activation for one in a.parts]
                assert b.activation == a.activation + sum(on_top)
                freed = [x for x, part in zip(on_top, chain, strict=True) if part.stream]
                if spec.split_backward:
                    assert b.activation - b.kept == a.activation - a.kept + sum(freed)


def _without_rules(order: Order) -> Order:
    problem = expand(replace(order.problem.spec, rules=()))
    return Order(problem, order.lanes, order.engine, lists=order.lists)


def test_a_rule_that_only_parts_can_keep_is_refused() -> None:
    """Of two operations that take turns each would have to come after the other."""
    tried = 0
    for seed in range(40):
        order = _without_rules(random_order(Random(seed)))
        for first, second in _interleaved(order):
            rules = (Rule(second[-1], first[0], 0), Rule(first[-1], second[0], 0))
            problem = expand(replace(order.problem.spec, rules=rules))
            crossed = Order(problem, order.lanes, order.engine, lists=order.lists)
            try:
                prove(communicate(crossed))
            except ValueError:  # other streams wait in a circle then
                continue
            with pytest.raises(Rejected) as rejected:
                whole_order(crossed)
            assert {one.code for one in rejected.value.diagnostics} == {"deadlock"}
            tried += 1
    assert tried > 10


def _interleaved(order: Order) -> list[tuple[list[Operation], list[Operation]]]:
    """Of each rank's list, two forwards of which each has parts behind parts of the other."""
    found = []
    for row in order.lists:
        operations = [order.problem.operations[i] for i in row]
        groups: dict[Operation, list[int]] = {}
        for place, one in enumerate(operations):
            if one.kind == "F":
                groups.setdefault(one._replace(part=NONE), []).append(place)
        for a, b in pairwise(groups.values()):
            if a[0] < b[-1] and b[0] < a[-1]:
                found.append(([operations[k] for k in a], [operations[k] for k in b]))
                break
    return found


@pytest.mark.parametrize("name", ["deepseek_v3", "deepseek_v3_v", "moe_1f1b", "parts_uneven"])
def test_it_is_a_plan_of_its_own(name: str, tmp_path: Path) -> None:
    folder = library.FOLDER if name in library.IN_PARTS else DATA / "parts"
    text = (folder / f"{name}.pipe").read_text()
    plan = compile_text(text, f"{name}.pipe", Settings(), whole=True)
    write_plan(plan, tmp_path / "plan")
    read = read_plan(tmp_path / "plan")
    assert read.hash == plan.hash
    again = verify(read)
    spec = again.programs["train"].spec
    assert not spec.parts and all(spec.order)
    least = again.verified
    assert least is not None and least.ticks <= again.claims["train"].makespan
