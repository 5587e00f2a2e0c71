"""Certificates of stages that are cut into parts: what is so is confirmed, and what is proven is
true."""

import json
from pathlib import Path
from random import Random

import pytest
from msgspec.structs import replace

from stretto.compiler.bounds.bound import bound
from stretto.compiler.certificate.checker.check import certify
from stretto.compiler.certificate.checker.instance import Refuted
from stretto.compiler.certificate.checker.parts_bound import PartsBoundCheck
from stretto.compiler.certificate.checker.parts_instance import ChainInstance
from stretto.compiler.certificate.parts import parts_evidence, parts_instance
from stretto.compiler.cli import main
from stretto.compiler.problem.expand import expand
from stretto.compiler.problem.spec import CostOverride, Operation, PartFigures, Spec
from stretto.compiler.program.claims import claims
from stretto.compiler.program.communicate import communicate
from tests.support.parts import chain, parts_spec
from tests.support.parts_certificates import certificate_of, random_certificate, spec_of, truth
from tests.support.parts_orders import limited, order_of, random_order
from tests.support.parts_targets import target_spec, targets
from tests.support.paths import ROOT


def test_what_is_so_is_confirmed() -> None:
    """Of anything that a Spec with parts can have, with limits that the order just keeps."""
    random, tried = Random("certificates of parts"), 0
    while tried < 60:
        order = random_order(random)
        found = claims(communicate(order))
        if order.problem.spec.unshard_weights or order.problem.spec.reduce_gradients:
            continue
        tried += 1
        data = certificate_of(limited(order, found.activations))
        proven = certify(json.dumps(data))
        assert proven["makespan"] == found.makespan and proven["span"] == found.span
        assert proven["peaks"] == list(found.activations)
        assert spec_of(data["instance"]).parts


def test_no_bound_is_above_what_a_solver_finds() -> None:
    random = Random("bounds of certificates of parts")
    for _ in range(40):
        data = random_certificate(random, 16)
        found = certify(json.dumps(data))
        problem = expand(spec_of(data["instance"]))
        least = truth(problem)
        assert least is None or found["bound"] <= least <= found[found["minimize"]]


def proven(spec: Spec) -> int:
    """The bound that the evidence of a Spec proves."""
    checker = PartsBoundCheck(ChainInstance(json.loads(json.dumps(parts_instance(spec)))))
    return checker.value(json.loads(json.dumps(parts_evidence(checker))))


@pytest.mark.parametrize("row", targets(), ids=lambda row: row["id"])
def test_evidence_proves_all_of_what_the_plan_says(row: dict[str, str]) -> None:
    spec = target_spec(row["id"])
    stated = bound(expand(spec)).ticks
    assert proven(spec) == stated


@pytest.mark.parametrize("name", ["moe_1f1b", "deepseek_v3", "deepseek_v3_v"])
def test_a_certificate_is_of_its_plan(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, file = str(tmp_path / "a.plan"), str(tmp_path / "a.json")
    source = str(ROOT / "schedules" / f"{name}.pipe")
    assert main(["compile", source, "-o", plan, "--certificate", file]) == 0
    assert main(["certify", file, "--plan", plan]) == 0
    assert "lower bound" in capsys.readouterr().out
    data = json.loads(Path(file).read_text())
    data["instance"]["pipelines"][0]["name"] += "x"
    Path(file).write_text(json.dumps(data))
    assert main(["certify", file]) == 0
    assert main(["certify", file, "--plan", plan]) == 1
    assert "it was forged" in capsys.readouterr().err


def test_an_evaluation_has_a_certificate(tmp_path: Path) -> None:
    plan, file = str(tmp_path / "a.plan"), str(tmp_path / "a.json")
    source = str(ROOT / "schedules" / "moe_1f1b.pipe")
    words = ["compile", source, "--forward-only", "-o", plan, "--certificate", file]
    assert main(words) == 0
    assert main(["certify", file, "--plan", plan]) == 0


def test_each_thing_that_a_schedule_must_keep_to_is_seen() -> None:
    """One fault at a time, with the sentence that names it."""
    data = random_certificate(Random(3), 14)
    rank = max(range(len(data["schedule"])), key=lambda r: len(data["schedule"][r]))
    faults = {
        "does not run": lambda d: d["schedule"][rank].pop(),
        "twice": lambda d: d["schedule"][rank].append(
            [end := 99, end + (row := d["schedule"][rank][0])[1] - row[0], row[2]]
        ),
        "ticks, and runs from": lambda d: d["schedule"][rank][0].__setitem__(1, 77),
        "no operation of the instance": lambda d: d["schedule"][rank][0][2].__setitem__(3, 9),
        "claims": lambda d: d["claims"].__setitem__("bound", d["claims"]["bound"] + 1),
    }
    for sentence, spoil in faults.items():
        wrong = json.loads(json.dumps(data))
        spoil(wrong)
        with pytest.raises(Refuted, match=sentence):
            certify(json.dumps(wrong))


def test_a_step_whose_microbatches_differ_may_run_them_out_of_turn() -> None:
    """Two of 5 + 1 and 1 + 5 ticks on two ranks: in turn they take 11, else 7."""
    base = parts_spec(2, 2)
    rows = [
        replace(stage, activation=0, kept=0, parts=(PartFigures(ticks, 0, 0, 0, 0),))
        for stage, ticks in zip(base.pipelines[0].stages, (5, 1), strict=True)
    ]
    line = replace(base.pipelines[0], stages=tuple(rows), forward_only=True)
    costs = tuple(
        CostOverride(Operation("F", 0, s, 1, part=0), ticks) for s, ticks in enumerate((1, 5))
    )
    own = (chain(1)[:1],) * 2
    problem = expand(replace(base, pipelines=(line,), parts=(own,), exceptions=costs))
    data = certificate_of(order_of(problem, [1, 3, 0, 2]))
    found = certify(json.dumps(data))
    assert found["makespan"] == 7 and found["bound"] <= 7
