"""The checker confirms what is so, and refutes what is not: whatever is changed in a certificate,
none proves a bound above what a schedule reaches."""

import ast
import copy
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from stretto.compiler.bounds.best import best, bound_context
from stretto.compiler.bounds.feasible import feasible
from stretto.compiler.certificate.checker.bound import BoundCheck
from stretto.compiler.certificate.checker.check import certify
from stretto.compiler.certificate.checker.instance import Instance, Refuted
from stretto.compiler.certificate.evidence import evidence
from stretto.compiler.certificate.write import certificate, instance
from stretto.compiler.cli import main
from stretto.compiler.diagnostics.diagnostic import Rejected
from stretto.compiler.order.written import written
from stretto.compiler.problem.expand import expand
from stretto.compiler.problem.spec import Limit, Operation, Rule, Spec
from stretto.compiler.program.claims import claims
from stretto.compiler.program.communicate import communicate
from tests.support import bound_instances, bound_oracle, specs, targets
from tests.support.paths import DATA, ROOT

TARGETS = json.loads((DATA / "optimizer_targets.json").read_text())


def made(spec: Spec) -> dict[str, Any]:
    """The certificate of a Spec whose order is written."""
    program = communicate(written(expand(spec)))
    return json.loads(certificate(program, claims(program)))


def proves(data: dict[str, Any]) -> dict[str, Any]:
    return certify(json.dumps(data))


def samples() -> Iterator[Spec]:
    yield specs.ordered(specs.linear(4, 8, (2, 3, 1), transfer=1), specs.one_f_one_b)
    yield specs.ordered(specs.linear(4, 6, split=True), specs.zb_h1)
    yield specs.ordered(specs.interleaved(2, 2, 4), specs.interleaved_1f1b)
    for seed in range(30):
        random = Random(seed)
        yield specs.random_order(specs.random_model(random), random, pairs=0.3)


def test_the_checker_imports_nothing_of_ours() -> None:
    for path in (ROOT / "compiler/certificate/checker").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            name = (node.module or "") if isinstance(node, ast.ImportFrom) else ""
            if name.startswith("stretto"):
                assert name.startswith("stretto.compiler.certificate.checker")


def test_what_is_so_is_confirmed() -> None:
    for spec in samples():
        data = made(spec)
        found = proves(data)
        assert found["bound"] <= best(bound_context(spec)).ticks
        assert found["peaks"] == data["claims"]["peaks"]


@pytest.mark.parametrize(
    "row",
    [r for r in TARGETS["instances"] if r["operations"] < 1200],
    ids=lambda row: row["id"],
)
def test_evidence_proves_what_others_proved(row: dict[str, Any]) -> None:
    """All that the plan's own bound says, here with B8, partial orders and overlapped units."""
    spec = targets.target(row)
    assert proven(spec) == best(bound_context(spec)).ticks


def proven(spec: Spec) -> int:
    """The bound that the evidence of a Spec proves."""
    of = Instance(json.loads(json.dumps(instance(spec))))
    return BoundCheck(of, json.loads(json.dumps(evidence(spec, of)))).value()


@pytest.mark.parametrize("shape", bound_instances.SHAPES)
def test_evidence_proves_what_the_plan_says(shape: str) -> None:
    """Of random instances, with rules and partial orders too; where micro-batches differ, it may be
    less."""
    random, tried = Random(f"certify and bound {shape}"), 0
    while tried < 12:
        spec = bound_instances.instance(shape, random, random.choice([12, 40, 70]))
        if tried % 2:
            spec = bound_instances.bent(spec, random)
            with suppress(Rejected):
                feasible(expand(spec))
                tried += 1
                if not spec.exceptions and not spec.rules and not spec.pairs:
                    assert proven(spec) >= best(bound_context(spec)).ticks
        else:
            tried += 1
            assert proven(spec) >= best(bound_context(spec)).ticks


@pytest.mark.parametrize("shape", ["linear", "vee", "both ways", "pairs"])
def test_rules_and_parts_of_an_order_are_part_of_it(shape: str) -> None:
    """What a solver finds is never below what the evidence proves."""
    random, tried = Random(f"certify bent {shape}"), 0
    while tried < 8:
        spec = bound_instances.bent(bound_instances.instance(shape, random, 14), random)
        if spec.minimize == "span" or not (spec.rules or spec.written):
            continue
        try:
            found = proven(spec)
        except Refuted:  # a limit that no order meets with this part of one
            assert not bound_oracle.possible(spec)
            continue
        tried += 1
        least, _ = bound_oracle.solved(spec, 5)
        assert least is None or found <= least


def places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all numbers and lists in a JSON value."""
    items = data.items() if isinstance(data, dict) else enumerate(data)
    for key, value in items:
        if isinstance(value, (dict, list)):
            if isinstance(value, list):
                yield (*path, key)
            yield from places(value, (*path, key))
        elif type(value) is int:
            yield (*path, key)


def spoiled(data: Any, random: Random) -> Any:
    """One number changed, or one list without one of its members."""
    data = copy.deepcopy(data)
    *path, key = random.choice(list(places(data)))
    inside = data
    for step in path:
        inside = inside[step]
    if isinstance(inside[key], list):
        if inside[key]:
            del inside[key][random.randrange(len(inside[key]))]
    else:
        inside[key] += random.choice([-2, -1, 1, 1, 2, 5])
    return data


def test_a_changed_schedule_is_refuted() -> None:
    """One start, end, operation or claim changed: never what it was, seldom a schedule at all."""
    random, refuted = Random(0), 0
    for spec in list(samples())[:6]:
        data = made(spec)
        for _ in range(60):
            part = random.choice(["schedule", "schedule", "claims"])
            wrong = {**data, part: spoiled(data[part], random)}
            if wrong == data:
                continue
            try:
                proves(wrong)
            except Refuted:
                refuted += 1
            else:  # a later start that disturbs nothing
                assert part == "schedule"
    assert refuted > 300


def test_an_instance_that_asks_for_more_refutes_the_schedule() -> None:
    data = made(specs.ordered(specs.linear(3, 4, split=True), specs.zb_h1))
    for wrong in (
        {"limits": [1, 1, 1]},
        {"transfers": [[0, 1, 3]]},
        {"rules": [[["F", 0, 0, 1, -1], ["W", 0, 2, 3, -1]]]},
        {"exceptions": [[["F", 0, 0, 0, -1], 2]]},
        {"fixed": [[[["F", 0, 0, 1, -1]], [["F", 0, 0, 0, -1]]], [], []]},
    ):
        with pytest.raises(Refuted):
            proves({**data, "instance": {**data["instance"], **wrong}})


@pytest.mark.parametrize("shape", bound_instances.SHAPES)
def test_no_evidence_proves_too_much(shape: str) -> None:
    """Evidence that was tampered with is refuted, or what it proves is still below the optimum."""
    random, tried = Random(f"certify {shape}"), 0
    while tried < 3:
        spec = bound_instances.instance(shape, random, 8)
        spec = msgspec.structs.replace(spec, minimize="makespan")
        if len(bound_oracle.tasks(spec)) > (10 if spec.split_backward else 16):
            continue
        tried += 1
        least = bound_oracle.brute(spec)
        given = Instance(json.loads(json.dumps(instance(spec))))
        honest = json.loads(json.dumps(evidence(spec, given)))
        assert BoundCheck(given, honest).value() <= least
        for _ in range(150):
            wrong = honest
            for _ in range(random.randint(1, 3)):
                wrong = spoiled(wrong, random)
            try:
                found = BoundCheck(given, wrong).value()
            except (Refuted, ArithmeticError, LookupError, TypeError, ValueError):
                continue
            assert found <= least, wrong


def fields(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in a JSON value."""
    if path:
        yield path
    items = (
        data.items()
        if isinstance(data, dict)
        else enumerate(data)
        if isinstance(data, list)
        else ()
    )
    for key, value in items:
        yield from fields(value, (*path, key))


# What the checker does not look at: names, units, and what the plan says beyond it.
UNCHECKED = {"format", "version", "schedule_name", "time_unit", "size_unit", "stated"}


def test_every_field_counts() -> None:
    """Each one left out, or with something of another kind in its place: never the same claims for
    something else, and never an error that is not a refutation."""
    spec = specs.ordered(specs.linear(2, 3, split=True, transfer=1, pair=3), specs.zb_h1)
    rule = Rule(Operation("F", 0, 0, 2), Operation("I", 0, 0, 0), 0)
    spec = msgspec.structs.replace(spec, rules=(rule,), limits=(Limit(6, 0), Limit(6, 0)))
    data = made(spec)
    proves(data)
    survivors = []
    for *path, key in fields(data):
        if (path or [key])[0] in UNCHECKED or key == "name":
            continue
        for wrong in (None, "gone", -1, 7):
            spoilt = copy.deepcopy(data)
            inside = spoilt
            for step in path:
                inside = inside[step]
            if inside[key] == wrong:
                continue
            if wrong == "gone":
                del inside[key]
            else:
                inside[key] = wrong
            try:
                proves(spoilt)
            except Refuted:
                continue
            survivors.append((*path, key, wrong))
    # An instance that has the same schedule and, with this evidence, the same bound: with another
    # limit that holds, or other ticks of what does not run.
    said = {next(key for key in one if key in EQUAL or key == one[-2]) for one in survivors}
    assert said <= EQUAL, survivors


EQUAL = {"B", "limits", "pairs", "rounds"}


def test_what_is_no_certificate_is_refuted() -> None:
    for text in ("", "[]", "{}", '{"claims": {}, "instance": []}', "null"):
        with pytest.raises(Refuted):
            certify(text)


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "certificate.json"
    assert main(["compile", "zb_h1", "--certificate", str(file)]) == 0
    capsys.readouterr()
    assert main(["certify", str(file)]) == 0
    assert "optimal      proven" in capsys.readouterr().out
    file.write_text(file.read_text().replace('"bound":27', '"bound":28'))
    assert main(["certify", str(file)]) == 1
    assert "refuted: the evidence proves a bound of 27" in capsys.readouterr().err


def test_forwards_alone_have_one_too(tmp_path: Path) -> None:
    file = tmp_path / "certificate.json"
    assert main(["compile", "dualpipe", "--forward-only", "--certificate", str(file)]) == 0
    assert certify(file.read_text())["optimal"]
