"""A rule that the step keeps and its forwards alone do not: the plan trains, says that it has no
evaluation and why, and refuses by that reason wherever one is asked for."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from stretto.compiler.commands.load import from_plan
from stretto.compiler.diagnostics.diagnostic import Rejected
from stretto.compiler.driver import compile_text
from stretto.compiler.evaluation import Settings
from stretto.compiler.evaluation.settings import SeldomMeant
from stretto.compiler.order import Order
from stretto.compiler.order.budget import Budget
from stretto.compiler.order.earliest_start import earliest
from stretto.compiler.order.written import written
from stretto.compiler.plan.plan import Plan, write_plan
from stretto.compiler.problem.expand import expand
from stretto.compiler.problem.spec import Operation, Rule
from stretto.compiler.program.communicate import communicated
from stretto.compiler.proof.prove import prove
from tests.commands.conftest import folder, stretto
from tests.support import specs
from tests.support.command_line import Run
from tests.support.parts_orders import random_order
from tests.support.plan_files import edited

__all__ = ["folder", "stretto"]

HEAD = "schedule ruled ranks 2 microbatches 4\npipeline main { }\n"
TURNS = "order rank r { repeat microbatches { F; B } }\n"
BACK = "rule F[0, m] after F[1, m - 1] for m in 1 .. microbatches\n"
WHY = "in an evaluation nothing makes `F main[0, 1]` on rank 0 wait for `F main[1, 0]` on rank 1"
PARTS = "split F into a, d on comm\nsplit B into I, W\n"


def compiled(text: str, **values: int) -> tuple[Plan, list[SeldomMeant]]:
    doubts: list[SeldomMeant] = []
    set_to = {name: Fraction(value) for name, value in values.items()}
    return compile_text(
        text, "ruled.pipe", Settings(set_to, doubt=doubts.append), Budget(effort=0)
    ), doubts


@pytest.mark.parametrize(
    ("more", "kept"),
    [
        (BACK + TURNS, False),
        (BACK + "split B into I, W\norder rank r { repeat microbatches { F; I; W } }\n", False),
        (PARTS + BACK + "order rank r { repeat microbatches { F; I; W } }\n", False),
        (PARTS + BACK + "order auto\nlimit activations <= 1\n", False),
        ("limit activations <= 1\n" + BACK + "order auto\n", False),
        (
            BACK + "order rank r { queue q = F[r, m] for m in 0 .. 4; repeat 4 { next q; B } }",
            False,
        ),
        ("rule F[1, m] after F[0, m] for m in 0 .. microbatches\n" + TURNS, True),
        ("rule F[0, m] after F[0, m - 1] for m in 1 .. microbatches\n" + TURNS, True),
        ("rule F[0, m] after B[1, m - 1] for m in 1 .. microbatches\n" + TURNS, True),
        ("rule B[0, m] after F[1, m] for m in 0 .. microbatches\n" + TURNS, True),
        ("limit activations <= 1\n" + TURNS, True),
    ],
)
def test_the_step_is_there_and_the_evaluation_where_it_keeps_the_rule(
    more: str, kept: bool
) -> None:
    plan, doubts = compiled(HEAD + more)
    assert list(plan.programs) == (["train", "eval"] if kept else ["train"])
    assert [one.code for one in doubts if one.code != "unstated-cost"] == (
        [] if kept else ["no-evaluation"]
    )
    if not kept:
        assert "in an evaluation nothing makes `F" in plan.no_evaluation
        assert plan.no_evaluation in doubts[-1].words
        assert HEAD + more == plan.sources[0].text
        line = (HEAD + more).splitlines()[doubts[-1].at.line - 1]
        assert line.startswith("rule F[0, m]")


def ruled(order: Order, random: Random) -> Order | None:
    """The order with a rule between forwards of two ranks that its times keep."""
    problem, times = order.problem, earliest(order)
    numbers = [i for i, one in enumerate(problem.operations) if one.kind == "F"]

    def at(i: int, rows: Any) -> int:
        return int(rows[times.lane[i]][times.index[i]])

    pairs = [
        (a, b)
        for a in numbers
        for b in numbers
        if problem.rank[a] != problem.rank[b] and at(a, times.end) < at(b, times.start)
    ]
    if random.random() < 0.6:  # what a gradient may have told
        pairs = [
            (a, b) for a, b in pairs if problem.operations[b].stage < problem.operations[a].stage
        ]
    if not pairs:
        return None
    a, b = random.choice(pairs)
    rules = [Rule(problem.operations[b], problem.operations[a], 0)]
    again = expand(replace(problem.spec, rules=(*problem.spec.rules, *rules)))
    return Order(again, order.lanes, order.engine, lists=order.lists)


def test_there_is_an_evaluation_exactly_where_the_proof_allows_it() -> None:
    """The proof, which is asked about the forwards of an order without the rules, decides."""
    found = {True: 0, False: 0}
    for seed in range(250):
        random = Random(seed)
        if seed % 4 == 0:
            bare = random_order(random)
            if bare.problem.spec.rules or any(bare.problem.spec.limits):
                continue
        else:
            spec = specs.random_model(random)
            if seed % 4 == 1:
                spec = specs.ordered(specs.linear(3, 4), specs.one_f_one_b)
            else:
                spec = specs.random_order(spec, random, pairs=0.3)
            bare = written(expand(spec))
        order = ruled(bare, random)
        if order is None:
            continue
        try:
            made = communicated(order, ("train", "eval"))
        except Rejected:
            continue  # the step does not keep them either
        without = communicated(bare, ("eval",)).programs["eval"].program
        kept = "eval" in made.programs
        assert kept == (made.no_evaluation is None)
        found[kept] += 1
        if kept:
            prove(made.programs["eval"].program)
            prove(replace(without, spec=order.problem.spec))
        else:
            with pytest.raises(Rejected) as caught:
                prove(replace(without, spec=order.problem.spec))
            assert {one.code for one in caught.value.diagnostics} == {"rule-between-ranks"}
    assert min(found.values()) > 5, found


def test_it_is_said_and_refused_where_an_evaluation_is_asked_for(
    stretto: Run, folder: Path
) -> None:
    (folder / "ruled.pipe").write_text(HEAD + BACK + TURNS)
    code, out, err = stretto("compile", "ruled.pipe", "-o", "ruled.plan")
    assert code == 0 and f"none: {WHY}" in out and "ruled.pipe:3: there is no evaluation" in err
    code, out, err = stretto("check", "ruled.plan")
    assert code == 0 and f"no evaluation: {WHY}" in out
    code, out, _ = stretto("compile", "ruled.pipe", "--json")
    assert code == 0 and msgspec.json.decode(out)["no_evaluation"] == WHY
    assert stretto("show", "ruled.plan")[0] == stretto("explain", "ruled.plan")[0] == 0
    code, out, err = stretto("show", "ruled.plan", "--eval")
    assert (code, out) == (1, "") and WHY in err
    code, _, err = stretto("compile", "ruled.pipe", "--forward-only", "-o", "none.plan")
    assert code == 1 and WHY in err and "the forwards alone" in err
    assert not (folder / "none.plan").exists()
    code, _, err = stretto(
        "run", "ruled.plan", "--model", "a:b", "--data", "c:d", "--eval-every", "1"
    )
    assert code == 2 and f"`ruled.plan` has no evaluation: {WHY}" in err


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda header: header.update(no_evaluation=WHY + "!"), "another reason"),
        (lambda header: header.pop("no_evaluation"), "`eval` alone"),
        (lambda header: header.update(no_evaluation="\n"), "cannot be printed"),
    ],
)
def test_the_reason_is_worked_out_anew(
    edit: Callable[[Any], object], said: str, tmp_path: Path
) -> None:
    write_plan(compiled(HEAD + BACK + TURNS)[0], tmp_path / "ruled.plan")
    assert from_plan(str(tmp_path / "ruled.plan")).no_evaluation == WHY
    with pytest.raises(Rejected) as caught:
        from_plan(str(edited(tmp_path / "ruled.plan", edit)))
    assert said in str(caught.value.diagnostics)


def test_an_evaluation_is_not_left_out_for_nothing(tmp_path: Path) -> None:
    plan = compiled(HEAD + TURNS)[0]
    forged = replace(
        plan,
        programs={"train": plan.programs["train"]},
        claims={"train": plan.claims["train"]},
        no_evaluation=WHY,
    )
    write_plan(forged, tmp_path / "forged.plan")
    with pytest.raises(Rejected) as caught:
        from_plan(str(tmp_path / "forged.plan"))
    assert "they keep all" in caught.value.diagnostics[0].message


def test_a_rule_of_the_text_stays_one_of_the_step(tmp_path: Path) -> None:
    """What the step does not keep is refused as it was."""
    rule = "rule F[0, m] after F[1, m] for m in 0 .. microbatches\n"
    with pytest.raises(Rejected):
        compiled(HEAD + rule + TURNS)
    last = Operation("F", 0, 1, 3)
    assert last in {
        rule.earlier
        for rule in compiled(
            HEAD + "rule B[0, 0] after F[1, 3]\norder rank r { repeat 4 { F } repeat 4 { B } }"
        )[0]
        .programs["train"]
        .spec.rules
    }
