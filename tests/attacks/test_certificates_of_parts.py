"""Forged certificates of stages that are cut into parts: every wrong kind in every place, and
random forgeries whose truth a solver finds, from the compiler's own reading of the instance."""

import copy
import json
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import pytest
from msgspec.structs import replace

from stretto.compiler.certificate.checker.check import certify
from stretto.compiler.certificate.checker.instance import Refuted
from stretto.compiler.certificate.checker.parts_bound import PartsBoundCheck
from stretto.compiler.certificate.checker.parts_instance import ChainInstance
from stretto.compiler.certificate.checker.parts_schedule import PartsSchedule
from stretto.compiler.diagnostics.diagnostic import Rejected
from stretto.compiler.problem.expand import expand
from stretto.compiler.problem.problem import Problem
from stretto.compiler.problem.spec import CostOverride, Operation, Rule, Unit
from tests.attacks.conftest import Tally
from tests.attacks.test_certificates import limited, places, wrong_kinds
from tests.support.command_line import STRETTO
from tests.support.parts import parts_spec
from tests.support.parts_certificates import (
    certificate_of,
    keeps,
    random_certificate,
    spec_of,
    truth,
)
from tests.support.parts_orders import order_of, random_sequence


@cache
def everything() -> str:
    """A certificate with something in every table, as text."""

    def op(kind: str, stage: int, microbatch: int, part: int) -> Operation:
        return Operation(kind, 0, stage, microbatch, part=part)

    spec = parts_spec(2, 2, costs="unit", limit=4, transfer=1)
    line = spec.pipelines[0]
    stages = tuple(replace(stage, parts=stage.parts[:2]) for stage in line.stages)
    spec = replace(
        spec,
        pipelines=(replace(line, stages=stages),),
        parts=(tuple(chain[:2] for chain in spec.parts[0]),),
        rules=(Rule(op("F", 0, 1, 0), op("F", 0, 0, 1), 0),),
        exceptions=(CostOverride(op("I", 1, 0, 1), 3),),
        written=((Unit((op("F", 0, 0, 0),), 0), Unit((op("F", 0, 1, 0),), 0)), ()),
    )
    problem = expand(spec)
    data = certificate_of(order_of(problem, random_sequence(problem, Random(1))))
    data["stated"] = {"bound": data["claims"]["bound"], "reason": "because"}
    return json.dumps(data)


def test_every_field_refuses_every_wrong_kind(tally: Tally) -> None:
    data = json.loads(everything())
    certify(everything())
    tried, accepted = wrong_kinds(data)
    assert not accepted
    for gone in data.keys() - {"plan", "stated", "sizes_in"}:
        with pytest.raises(Refuted, match=f"`{gone}`"):
            certify(json.dumps({key: value for key, value in data.items() if key != gone}))
    tally(wrong_kinds_tried=tried, accepted=len(accepted))


def test_a_key_that_stands_twice_is_refuted() -> None:
    text = everything()
    for key in {path[-1] for path in places(json.loads(text)) if isinstance(path[-1], str)}:
        quoted = json.dumps(key)
        with pytest.raises(Refuted, match="stands twice"):
            certify(text.replace(f"{quoted}:", f"{quoted}: 0, {quoted}:", 1))


CLAIMS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "micro-batches": lambda of: of["pipelines"][0].update(microbatches=1_000_000),
    "ranks": lambda of: of.update(ranks=1_000_000),
    "parts": lambda of: of["pipelines"][0]["stages"][0].update(parts=[[0, 1, 1, 1, 1, 1]] * 99_999),
    "stages": lambda of: of["pipelines"][0].update(stages=of["pipelines"][0]["stages"] * 9_999),
    "stages for nobody": lambda of: of["pipelines"].append(
        {**of["pipelines"][0], "microbatches": 0, "stages": of["pipelines"][0]["stages"] * 9_999}
    ),
    "pipelines that feed": lambda of: of["pipelines"].extend(
        {**of["pipelines"][0], "stages": [], "feeds": [[0, 0]]} for _ in range(99_999)
    ),
}


@pytest.mark.parametrize("what", CLAIMS)
def test_a_small_file_that_claims_much_is_refused_in_little_memory(
    what: str, tmp_path: Path
) -> None:
    data = json.loads(everything())
    CLAIMS[what](data["instance"])
    file = tmp_path / "certificate.json"
    file.write_text(json.dumps(data))
    done = limited([*STRETTO, "certify", str(file)], None)
    assert done.returncode == 1 and b"refuted: " in done.stderr and b"bug" not in done.stderr
    assert done.stderr.count(b"\n") == 1


# ---------------------------------------------------------------------------- random forgeries


def forged(data: dict[str, Any], random: Random) -> dict[str, Any]:
    """Some values of it changed; then times and claims are made to fit, so that no easy comparison
    finds it out."""
    data = copy.deepcopy(data)
    for _ in range(random.choice([1, 1, 1, 2, 3])):
        part = random.choice(["instance", "instance", "schedule", "evidence"])
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
            case str() if path[-1] == "by":
                inside[path[-1]] = random.choice(THEOREMS)
            case str() if path[-1] == "minimize":
                inside[path[-1]] = random.choice(["makespan", "span"])
            case list() if old:
                i, j = random.randrange(len(old)), random.randrange(len(old))
                what = random.choice(["drop", "double", "swap"])
                if what == "drop":
                    del old[i]
                elif what == "double":
                    old.insert(j, copy.deepcopy(old[i]))
                else:
                    old[i], old[j] = old[j], old[i]
    with suppress(Exception):
        if random.random() < 0.7:
            shifted(data, random)
        if random.random() < 0.4:
            hurried(data, random)
    with suppress(Exception):
        plan = PartsSchedule(ChainInstance(data["instance"]), data["schedule"])
        peaks = plan.peaks()
        data["claims"] |= {"makespan": plan.makespan(), "span": plan.span(), "peaks": peaks}
    with suppress(Exception):
        check = PartsBoundCheck(ChainInstance(data["instance"]))
        data["claims"]["bound"] = check.value(data["evidence"])
    return data


THEOREMS = ("chain", "busy", "merged", "window")


def shifted(data: dict[str, Any], random: Random) -> None:
    """The schedule run anew, as early as it can with the changed figures, or a little later; what a
    rank's list has is what it runs, by start."""
    of = ChainInstance(data["instance"])
    rows: list[Any] = [[] for _ in data["schedule"]]
    end: dict[Any, int] = {}
    clock: dict[tuple[int, int], int] = {}
    waiting = [list(row) for row in data["schedule"]]
    while any(waiting):
        found = False
        for rank, row in enumerate(waiting):
            for listed in list(row):
                kind, p, s, m, part = listed[2]
                needs = of.needs((kind, p, s, part))
                ready = [((k, q, t, m, x), lag) for (k, q, t, x), lag in needs]
                if all(o in end for o, _ in ready):
                    lane = of.lane((kind, p, s, part))
                    late = random.choice([0, 0, 0, 0, 1])
                    late += max([clock.get(lane, 0), *(end[o] + lag for o, lag in ready)])
                    clock[lane] = end[kind, p, s, m, part] = late + of.ticks((kind, p, s, m, part))
                    rows[rank].append([late, clock[lane], listed[2]])
                    row.remove(listed)
                    found = True
        if not found:
            return
    data["schedule"] = [sorted(row, key=lambda one: (one[0], one[1])) for row in rows]


def hurried(data: dict[str, Any], random: Random) -> None:
    """Some operations run a little earlier, with whatever is theirs."""
    for row in data["schedule"]:
        for one in row:
            if random.random() < 0.15:
                less = min(one[0], random.choice([1, 1, 2, 3]))
                one[0], one[1] = one[0] - less, one[1] - less
        row.sort(key=lambda one: (one[0], one[1]))


@cache
def read(text: str) -> Problem | None:
    """What the compiler makes of an instance; None where it refuses the list in which a part of an
    order was written."""
    try:
        return expand(spec_of(json.loads(text)))
    except Rejected:
        return None


@cache
def least(text: str) -> int | None:
    """The optimum of an instance; None where the solver does not finish. Raises `ValueError` where
    nothing keeps to it."""
    problem = read(text)
    assert problem is not None
    return truth(problem)


def test_no_random_forgery_proves_what_is_false(
    attacks: Callable[[int, int], int], tally: Tally
) -> None:
    """What is accepted is true of the instance in the certificate: nothing is below its bound, and
    nothing that the schedule reaches is below what can be reached."""
    random, many = Random("forged certificates of parts"), attacks(500, 10_000)
    accepted = judged = optimal = 0
    data: dict[str, Any] = {}
    for tried in range(many):
        if tried % 10 == 0:
            data = random_certificate(random, random.choice([14, 24]))
        wrong = forged(data, random)
        try:
            found = certify(json.dumps(wrong))
        except Refuted:
            continue
        accepted += 1
        text = json.dumps(wrong["instance"], sort_keys=True)
        problem = read(text)
        if problem is None:
            continue
        keeps(problem, wrong)
        best = least(text)
        if best is None:
            continue
        judged += 1
        optimal += found["optimal"]
        assert found["bound"] <= best <= found[found["minimize"]], json.dumps(wrong)
    assert judged > many // 10
    tally(tried=many, accepted=accepted, judged_by_a_solver=judged, optimal=optimal, false=0)


def test_nothing_may_run_a_tick_earlier_than_planned() -> None:
    """Of a schedule that runs everything as early as it can: messages take a tick there."""
    data = json.loads(everything())
    of, tried = ChainInstance(data["instance"]), 0
    PartsSchedule(of, data["schedule"])
    for rank, row in enumerate(data["schedule"]):
        for k, (start, end, operation) in enumerate(row):
            rows = copy.deepcopy(data["schedule"])
            rows[rank][k] = [start - 1, end - 1, operation]
            rows[rank].sort(key=lambda one: (one[0], one[1]))
            tried += start > 0
            if start:
                with pytest.raises(Refuted):
                    PartsSchedule(of, rows)
    assert tried > 10
