"""Forged certificates: whatever is put in the place of a field, whatever is thrown at the checker,
and random forgeries of instances so small that brute force knows the truth."""

import copy
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from stretto.compiler.certificate.checker.bound import BoundCheck
from stretto.compiler.certificate.checker.check import certify, schedule
from stretto.compiler.certificate.checker.instance import Instance, Refuted
from stretto.compiler.certificate.write import certificate
from stretto.compiler.order.written import written
from stretto.compiler.problem.expand import expand
from stretto.compiler.problem.spec import (
    CostOverride,
    Feed,
    Limit,
    Operation,
    Pair,
    PairCostOverride,
    Pipeline,
    Rule,
    Spec,
    Stage,
    Transfer,
)
from stretto.compiler.program.claims import claims
from stretto.compiler.program.communicate import communicate
from tests.attacks.conftest import Tally
from tests.support import bound_instances, bound_oracle, specs
from tests.support.command_line import STRETTO


def made(spec: Spec) -> dict[str, Any]:
    """The certificate of a Spec whose order is written."""
    program = communicate(written(expand(spec)))
    text = certificate(program, claims(program), plan="0" * 64)
    return dict(json.loads(text))


def full() -> dict[str, Any]:
    """A certificate with something in every table."""
    spec = specs.ordered(specs.linear(2, 3, split=True, transfer=1, pair=3), specs.zb_h1)
    rule = Rule(Operation("F", 0, 0, 2), Operation("I", 0, 0, 0), 0)
    f, i = Operation("F", 0, 0, 0), Operation("I", 0, 1, 0)
    spec = msgspec.structs.replace(
        spec,
        rules=(rule,),
        limits=(Limit(6, 0), Limit(6, 0)),
        exceptions=(CostOverride(f, 1),),
        exceptional_pairs=(PairCostOverride(Operation("F", 0, 1, 2), i, 2),),
    )
    data = made(spec)
    data["stated"] = {"bound": data["claims"]["bound"], "reason": "because"}
    data["instance"]["pipelines"][0]["feeds"] = []
    return data


def places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in a JSON value."""
    if path:
        yield path
    if isinstance(data, (dict, list)):
        items: Any = data.items() if isinstance(data, dict) else enumerate(data)
        for key, value in items:
            yield from places(value, (*path, key))


def changed(data: Any, path: tuple[Any, ...], value: Any) -> Any:
    """The JSON value with another one at a path."""
    data = copy.deepcopy(data)
    inside = data
    for step in path[:-1]:
        inside = inside[step]
    inside[path[-1]] = value
    return data


class Raw(float):
    """A number that JSON does not have in Python: written as this text."""

    def __new__(cls, text: str) -> "Raw":
        made = super().__new__(cls, 0.5)
        made.text = text
        return made

    text: str

    def __repr__(self) -> str:
        return self.text


def dumped(data: Any) -> str:
    """JSON in which `Raw` numbers stand as they are."""
    held: list[str] = []

    def hold(value: Any) -> Any:
        if isinstance(value, Raw):
            held.append(value.text)
            return f"@@{len(held) - 1}@@"
        if isinstance(value, dict):
            return {key: hold(one) for key, one in value.items()}
        return [hold(one) for one in value] if isinstance(value, list) else value

    text = json.dumps(hold(data))
    for k, raw in enumerate(held):
        text = text.replace(f'"@@{k}@@"', raw)
    return text


WRONG_KINDS: dict[str, list[Any]] = {
    "number": [
        None, True, False, "1", "", [], {}, [1], 1.0, 1.5, -1, -(1 << 60), (1 << 53) + 1, 1 << 64,
        *map(Raw, ("NaN", "Infinity", "-Infinity", "1e0", "1e400", "-0.0", "1" + "0" * 5000)),
    ],
    "text": [None, True, 1, 0, [], {}, 1.5, "\x1b[31m", "a\nb", "\u202e", "\ud800", "x" * 3000],
    "flag": [None, 0, 1, "true", [], {}, 0.0],
    "list": [None, True, 1, "FBIW", {}, 0.5, [None], [[]], [{}], ["x"], [0.5], [True]],
    "object": [None, True, 1, "{}", [], [1], {"x": 1}, {}],
}  # fmt: skip


def kind_of(value: Any) -> str:
    match value:
        case bool():
            return "flag"
        case int():
            return "number"
        case str():
            return "text"
        case list():
            return "list"
    return "object"


def wrong_kinds(data: Any) -> tuple[int, list[tuple[str, Any]]]:
    """Over the whole tree: each value replaced by each of another kind, left out, doubled under a
    key of its own, or with a key more. How many were tried, and what was accepted, of what must
    not be."""
    tried, accepted = 0, []
    for path in places(data):
        value = data
        for step in path:
            value = value[step]
        where = [step for step in path if isinstance(step, str)][-1]
        wrong = [one for one in WRONG_KINDS[kind_of(value)] if one != value or type(one) is bool]
        if isinstance(value, dict):
            wrong += [{**value, "more": 1}, {**value, "": None}]
            wrong += [{k: v for k, v in value.items() if k != gone} for gone in value]
        for one in wrong:
            tried += 1
            with suppress(Refuted):
                certify(dumped(changed(data, path, one)))
                accepted.append((where, one))
    # null is no limit, and units of time and size may be larger than figures.
    units = [(name, (1 << 53) + 1) for name in ("time_unit", "size_unit")]
    return tried, [one for one in accepted if one not in [("limits", None), *units]]


def test_every_field_refuses_every_wrong_kind(tally: Tally) -> None:
    data = full()
    certify(json.dumps(data))
    tried, accepted = wrong_kinds(data)
    assert not accepted
    for gone in data.keys() - {"plan", "stated", "sizes_in"}:
        with pytest.raises(Refuted, match=f"`{gone}`"):
            certify(json.dumps({key: value for key, value in data.items() if key != gone}))
    tally(wrong_kinds_tried=tried, accepted=len(accepted))


def test_a_key_that_stands_twice_is_refuted(tally: Tally) -> None:
    text = json.dumps(full())
    tried = 0
    for path in places(full()):
        if isinstance(path[-1], str):
            key = json.dumps(path[-1])
            tried += 1
            with pytest.raises(Refuted, match="stands twice"):
                certify(text.replace(f"{key}:", f"{key}: 0, {key}:", 1))
    tally(doubled_keys_tried=tried)


def test_times_that_round_away_are_refuted() -> None:
    """Start times as floats: at 2^56 a duration of 1 is lost, and everything fits into nothing."""
    data = full()
    late = float(1 << 56)
    data["schedule"] = [[[late, late, unit[2]] for unit in units] for units in data["schedule"]]
    data["claims"] |= {"makespan": late, "span": 0.0}
    with pytest.raises(Refuted, match="whole number"):
        certify(json.dumps(data))
    data = full()
    data["schedule"][0][0][:2] = [1 << 56, 1 << 56]
    with pytest.raises(Refuted, match="whole number from 0 to 2"):
        certify(json.dumps(data))


ABSURD = {
    "empty": b"",
    "nothing": b"null",
    "no UTF-8": b'{"format": "\xff"}',
    "UTF-16": json.dumps({"format": 1}).encode("utf-16"),
    "nested": b"[" * 500_000,
    "nested objects": b'{"a":' * 300_000,
    "a number of 10 000 digits": b'{"format": 1' + b"0" * 10_000 + b"}",
    "cut off": b'{"format": "stretto-certificate"',
    "a long text": b'{"format": "' + b"\x41" * 1_000_000 + b'"}',
    "an escape": b'{"format": "\x1b[2J", "\x1b[31m": 1}',
}


@pytest.mark.parametrize("what", ABSURD)
def test_absurd_texts_end_in_a_sentence(what: str) -> None:
    with pytest.raises(Refuted) as refuted:
        certify(ABSURD[what])
    assert len(str(refuted.value)) < 300 and str(refuted.value).isprintable()


def claiming(**figures: int) -> bytes:
    """A small file that claims a large step."""
    data = full()
    line = data["instance"]["pipelines"][0]
    stages = figures.pop("stages", 0)
    if stages:
        line["stages"] *= stages
    if "microbatches" in figures:
        line["microbatches"] = figures.pop("microbatches")
    for key, value in figures.items():
        data["instance"][key] = value
    return json.dumps(data).encode()


@pytest.mark.parametrize(
    "text",
    [
        claiming(microbatches=10**9),
        claiming(microbatches=1_000_000),
        claiming(slices=10**9),
        claiming(slices=1_000_000),
        claiming(ranks=10**9),
        claiming(ranks=1_000_000),
        claiming(stages=30_000),
        claiming(stages=20_000, microbatches=0),
        claiming(slices=1_000_000, microbatches=0),
    ],
    ids=lambda text: f"{len(text)} bytes",
)
def test_a_small_file_that_claims_much_is_refused_in_little_memory(
    text: bytes, tmp_path: Path
) -> None:
    """In 512 MiB of address space, and in a sentence."""
    file = tmp_path / "certificate.json"
    file.write_bytes(text)
    done = limited([*STRETTO, "certify", str(file)], None)
    assert done.returncode == 1 and b"refuted: " in done.stderr and b"bug" not in done.stderr
    assert done.stderr.count(b"\n") == 1


def limited(words: list[str], stdin: Any) -> "subprocess.CompletedProcess[bytes]":
    """The command with little memory to have."""

    def few() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (512 << 20, 512 << 20))

    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.run(
        words, stdin=stdin, capture_output=True, preexec_fn=few, timeout=300, env=environment
    )


@pytest.mark.skipif(sys.platform != "linux", reason="an endless file: /dev/zero")
def test_endless_input_is_refused_in_little_memory() -> None:
    done = limited([*STRETTO, "certify", "/dev/zero"], None)
    assert done.returncode == 2 and b"is larger than 64 MiB" in done.stderr


# ---------------------------------------------------------------------------- random forgeries


def honest(random: Random) -> dict[str, Any] | None:
    """The certificate of a tiny instance with some order of it."""
    shape = random.choice(list(bound_instances.SHAPES))
    spec = bound_instances.instance(shape, random, 8)
    if len(bound_oracle.tasks(spec)) > (6 if spec.split_backward else 10):
        return None
    spec = msgspec.structs.replace(spec, minimize="makespan", limits=())
    try:
        return made(specs.random_order(spec, random, split=0.5 if spec.split_backward else 0))
    except (KeyError, ValueError):
        return None


def forged(data: dict[str, Any], random: Random) -> dict[str, Any]:
    """Some values of it changed, often to a neighbour's; then the claims are made to fit, so that
    no easy comparison finds it out."""
    data = copy.deepcopy(data)
    parts = ["instance", "schedule", "evidence"]
    for _ in range(random.choice([1, 1, 1, 2, 3])):
        part = random.choice(parts)
        path = random.choice(list(places(data[part])))
        inside: Any = data[part]
        for step in path[:-1]:
            inside = inside[step]
        old = inside[path[-1]]
        match old:
            case bool():
                inside[path[-1]] = not old
            case int():
                inside[path[-1]] = max(0, old + random.choice([-3, -2, -1, 1, 1, 2, 3]))
            case str() if old in "FBIW":
                inside[path[-1]] = random.choice("FBIW")
            case str() if path[-1] == "by":
                inside[path[-1]] = random.choice(["chain", "busy", "merged", "window", "little"])
                inside |= {"on": 0, "share": 0, "head": 0, "tail": 0}
            case list() if old:
                what = random.choice(["drop", "double", "swap"])
                i, j = random.randrange(len(old)), random.randrange(len(old))
                if what == "drop":
                    del old[i]
                elif what == "double":
                    old.insert(j, copy.deepcopy(old[i]))
                else:
                    old[i], old[j] = old[j], old[i]
    with suppress(Exception):
        shifted(data, random)
    with suppress(Exception):
        instance = Instance(data["instance"])
        makespan, span, peaks = schedule(instance, data["schedule"])
        data["claims"] |= {"makespan": makespan, "span": span, "peaks": peaks}
    with suppress(Exception):
        instance = Instance(data["instance"])
        data["claims"]["bound"] = BoundCheck(instance, data["evidence"]).value()
    return data


def shifted(data: dict[str, Any], random: Random) -> None:
    """Ends made to fit the durations, and sometimes starts moved together."""
    instance = Instance(data["instance"])
    for units in data["schedule"]:
        clock = 0
        for unit in units:
            if random.random() < 0.3:
                unit[0] = max(clock, unit[0] + random.choice([-2, -1, 0, 1, 4]))
            unit[1] = unit[0] + instance.unit([tuple(o) for o in unit[2]])
            clock = unit[1]


def spec_of(instance: dict[str, Any]) -> Spec:
    """The Spec that a certificate's instance describes."""
    first: dict[int, int] = {}
    lines: list[Pipeline] = []
    for line in instance["pipelines"]:
        stages = tuple(Stage(**stage) for stage in line["stages"])
        feeds = tuple(Feed(*feed) for feed in line["feeds"])
        lines.append(
            Pipeline(
                str(len(lines)),
                stages,
                line["microbatches"],
                first.get(0, 0),
                0,
                feeds=feeds,
                forward_only=line["forward_only"],
            )
        )
    base = specs.linear(1, 1)
    return msgspec.structs.replace(
        base,
        ranks=instance["ranks"],
        pipelines=tuple(lines),
        slices=instance["slices"],
        split_backward=instance["split"],
        overlap=("B", "I"),
        transfers=tuple(Transfer(*one) for one in instance["transfers"]),
        limits=tuple(None if n is None else Limit(n, 0) for n in instance["limits"]),
        pairs=tuple(
            Pair(0, (f[0], f[1]), kind, (b[0], b[1]), t) for f, kind, b, t in instance["pairs"]
        ),
        order=("",) * instance["ranks"],
    )


@cache
def optimum(text: str) -> int | None:
    """The least makespan of an instance, by brute force; None where it says what the search does
    not know, or is too large for it."""
    instance = json.loads(text)
    beside = ("exceptions", "exceptional_pairs", "rules", "fixed")
    if any(instance[key] for key in beside) or instance["minimize"] != "makespan":
        return None
    spec = spec_of(instance)
    tasks = bound_oracle.tasks(spec)
    if len(tasks) > (6 if spec.split_backward else 10):
        return None
    return bound_oracle.brute(spec)


def test_no_random_forgery_proves_what_is_false(
    attacks: Callable[[int, int], int], tally: Tally
) -> None:
    """What is accepted is true of the instance in the certificate: no schedule is shorter than its
    bound, and the makespan is reached."""
    random, many = Random("forged certificates"), attacks(400, 10_000)
    tried = accepted = judged = optimal = 0
    data: dict[str, Any] | None = None
    while tried < many:
        if data is None or tried % 20 == 0:
            data = None
            while data is None:
                data = honest(random)
        wrong = forged(data, random)
        tried += 1
        try:
            found = certify(json.dumps(wrong))
        except Refuted:
            continue
        accepted += 1
        least = optimum(json.dumps(wrong["instance"], sort_keys=True))
        if least is None:
            continue
        judged += 1
        optimal += found["optimal"]
        assert found["bound"] <= least <= found["makespan"], json.dumps(wrong)
        assert not found["optimal"] or found["makespan"] == least, json.dumps(wrong)
    assert judged > tried // 20
    tally(tried=tried, accepted=accepted, judged_by_brute_force=judged, optimal=optimal, false=0)
