"""The checker confirms what is so, and refutes what is not: whatever is changed in a certificate,
none proves a bound above what a schedule reaches."""

import ast
import copy
import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import bound_instances
import bound_oracle
import msgspec
import pytest
import specs
import targets

from stretto.compiler.bounds.best import best, ground
from stretto.compiler.certificate import certificate, evidence, instance
from stretto.compiler.certify import Instance, Refuted, certify
from stretto.compiler.certify_bound import Bound
from stretto.compiler.claim import claims
from stretto.compiler.cli import main
from stretto.compiler.communicate import communicate
from stretto.compiler.expand import expand
from stretto.compiler.order.written import written
from stretto.compiler.spec import Spec

ROOT = Path(__file__).parent.parent
LOWER = {"v-p3m6-fused-k4": 524, "lin-p3m6-release-k2.5": 288}  # only B8 says more
TARGETS = json.loads((Path(__file__).parent / "data/optimizer_targets.json").read_text())


def made(spec: Spec) -> dict[str, Any]:
    """The certificate of a Spec whose order is written."""
    program = communicate(written(expand(spec)))
    return json.loads(certificate(program, claims(program)))  # type: ignore[no-any-return]


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
    for name in ("certify.py", "certify_bound.py"):
        for node in ast.walk(ast.parse((ROOT / "compiler" / name).read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("stretto"):
                assert node.module.startswith("stretto.compiler.certify")


def test_what_is_so_is_confirmed() -> None:
    for spec in samples():
        data = made(spec)
        found = proves(data)
        assert found["bound"] <= best(ground(spec)).ticks
        assert found["peaks"] == data["claims"]["peaks"]


@pytest.mark.parametrize(
    "row",
    [r for r in TARGETS["instances"] if r["operations"] < 1200 and not r.get("fixed")],
    ids=lambda row: row["id"],
)
def test_evidence_proves_what_others_proved(row: dict[str, Any]) -> None:
    """All but what counts over several stages of a rank (B8), of which there is no evidence."""
    spec = targets.target(row)
    given = json.loads(json.dumps([instance(spec), evidence(spec)]))
    found, most = Bound(Instance(given[0]), given[1]).value(), best(ground(spec))
    listed = row["bound"] if row["bound_from"] != "cpsat" else 0
    assert LOWER.get(row["id"], min(listed, most.ticks)) <= found <= most.ticks


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
        honest = json.loads(json.dumps(evidence(spec)))
        assert Bound(given, honest).value() <= least
        for _ in range(150):
            wrong = honest
            for _ in range(random.randint(1, 3)):
                wrong = spoiled(wrong, random)
            try:
                found = Bound(given, wrong).value()
            except (Refuted, KeyError, IndexError, TypeError, ValueError):
                continue
            assert found <= least, wrong


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
