"""Plan files of schedules with streams: what was written is read again, and what does not fit is
refused with what and where."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from stretto.compiler.bounds.bound import Bound
from stretto.compiler.diagnostics.diagnostic import Rejected
from stretto.compiler.plan.plan import Plan, assemble, read_plan, read_rank, write_plan
from stretto.compiler.program.claims import claims
from stretto.compiler.program.communicate import communicate, forwards
from stretto.compiler.program.program import Program, ProgramName
from tests.support.parts_orders import random_order
from tests.support.plan_files import canonical


def plan_of(seed: int) -> Plan:
    order = random_order(Random(seed))
    programs: dict[ProgramName, Program] = {"train": communicate(order), "eval": forwards(order)}
    return assemble(programs, {n: claims(one) for n, one in programs.items()}, Bound(0, ""), "?")


@pytest.mark.parametrize("name", ["plan.json", "plan.json.gz"])
@pytest.mark.parametrize("seed", range(12))
def test_what_was_written_is_read(seed: int, name: str, tmp_path: Path) -> None:
    plan, path = plan_of(seed), tmp_path / name
    write_plan(plan, path)
    found = read_plan(path)
    assert found == plan
    for rank in range(len(plan.programs["train"].ranks)):
        _, lists = read_rank(path, rank)
        assert lists == {n: (p.ranks[rank], p.streams[rank]) for n, p in plan.programs.items()}


def test_a_channel_has_its_streams() -> None:
    """Of two streams of the same two ranks the messages are on channels of their own."""
    found = {one[3:] for seed in range(60) for one in plan_of(seed).programs["train"].channels}
    assert found >= {(0, 0), (0, 1), (1, 0), (1, 1)}


Edit = Callable[[dict[str, Any], dict[str, Any]], object]

JOINED = [0, ["F", 0, 0], ["I", 0, 0], 5, 6, [3, 4], [[0, "F", 0], [1, "I", 0]]]


def joined(place: int, value: object) -> Edit:
    """A pair that was written, with one thing changed."""
    return lambda h, r: h["spec"].update(joined=[[*JOINED[:place], value, *JOINED[place + 1 :]]])


def without_a_chain(header: dict[str, Any], line: dict[str, Any]) -> None:
    """The last stage has no chain, and a cost is that of a part of it."""
    chains = header["spec"]["parts"][0]
    chains.pop()
    header["spec"]["exceptions"] = [[["F", 0, len(chains), 0, -1, 0], 1]]


EDITS: list[tuple[Edit, str]] = [
    (joined(0, 99), "$.spec.joined[0][0]: there are only ranks 0 to"),
    (joined(1, ["Q", 0, 0]), "$.spec.joined[0][1][0]: this version does not know 'Q'"),
    (joined(2, ["I", 9, 0]), "$.spec.joined[0][2][1]: there are only pipelines"),
    (joined(2, ["I", 0, 9]), "$.spec.joined[0][2][2]: there are only stages"),
    (joined(3, -1), "$.spec.joined[0][3]: -1 is not between"),
    (joined(4, 1 << 60), "$.spec.joined[0][4]"),
    (joined(5, [3]), "$.spec.joined[0][5]: there are 2 streams"),
    (joined(5, [3, -1]), "$.spec.joined[0][5][1]: -1 is not between"),
    (joined(6, [[2, "F", 0]]), "$.spec.joined[0][6][0][0]: there are only operations 0 to 1"),
    (joined(6, [[0, "F", 99]]), "$.spec.joined[0][6][0][2]: there are only parts"),
    (joined(6, [[0, "Q", 0]]), "$.spec.joined[0][6][0][1]: this version does not know 'Q'"),
    (lambda h, r: h["spec"].update(streams=["comm", "compute"]), "$.spec.streams[0]: 'comm'"),
    (lambda h, r: h["spec"].update(streams=["compute", "a b"]), "$.spec.streams[1]: 'a b' is no"),
    (lambda h, r: h["spec"].update(streams=["compute", "compute"]), "$.spec.streams[1]"),
    (lambda h, r: h["spec"].update(streams=["compute"]), "there are only streams 0 to 0, not 1"),
    (lambda h, r: h["spec"].pop("streams"), "$.spec.parts: there are no streams"),
    (lambda h, r: h["spec"].pop("parts"), "$.spec.parts: the stages of the pipelines have one"),
    (lambda h, r: h["spec"]["parts"][0].pop(), "$.spec.parts: the stages of the pipelines have"),
    (without_a_chain, "$.spec.parts: the stages of the pipelines have"),
    (lambda h, r: h["spec"]["parts"][0][0].pop(), "$.spec.pipelines[0].stages[0].parts: its chain"),
    (lambda h, r: h["spec"]["parts"][0][0].clear(), "$.spec.parts[0][0]: a stage has at least one"),
    (lambda h, r: h["spec"]["parts"][0][0].__setitem__(0, ["", -1, 0]), "[0][0][0][0]: '' is no"),
    (lambda h, r: h["spec"]["parts"][0][0].__setitem__(0, ["x", -2, 0]), "[0][0][0][1]: -2 is not"),
    (lambda h, r: h["spec"]["parts"][0][0].__setitem__(0, ["x", -1, 7]), "[0][0][0][2]: there are"),
    (
        lambda h, r: h["spec"]["parts"][0][0].__setitem__(1, h["spec"]["parts"][0][0][0]),
        "$.spec.parts[0][0]: a part of it stands there twice",
    ),
    (
        lambda h, r: h["spec"]["pipelines"][0]["stages"][0]["parts"][0].__setitem__(0, -1),
        "$.spec.pipelines[0].stages[0].parts[0][0]: -1 is not between",
    ),
    (
        lambda h, r: h["spec"]["pipelines"][0]["stages"][0].update(F=10**6),
        "$.spec.pipelines[0].stages[0].parts: their F is not that of the stage in sum",
    ),
    (lambda h, r: h["channels"].__setitem__(0, [0, 1, "activation", 0, 5]), "$.channels[0][4]"),
    (lambda h, r: h["channels"].__setitem__(0, [0, 1, "activation", -1, 0]), "$.channels[0][3]"),
    (lambda h, r: r.pop("streams"), "$.streams: there are"),
    (lambda h, r: r["streams"].pop(), "$.streams: there are"),
    (lambda h, r: r["streams"].append(0), "$.streams: there are"),
    (
        lambda h, r: r["streams"].__setitem__(0, 9),
        "$.streams[0]: there are only streams 0 to 1, not 9",
    ),
    (lambda h, r: r["streams"].__setitem__(0, "0"), "$.streams[0]: expected"),
    (lambda h, r: r["streams"].__setitem__(0, -1), "$.streams[0]: there are only streams"),
    (lambda h, r: _first(r, "compute")[1].__setitem__(3, 99), "[1][3]: there are only parts 0 to"),
    (lambda h, r: _first(r, "compute")[1].pop(), "[1][3]: there are only parts 0 to"),
    (lambda h, r: _first(r, "await")[1].__setitem__(3, 99), "[1][3]: there are only parts 0 to"),
    (lambda h, r: _first(r, "await")[1].__setitem__(1, 99), "[1][1]: there are only pipelines"),
    (lambda h, r: _first(r, "await").append(1), "it is not written in the one way"),
    (
        lambda h, r: r["programs"]["train"]["microbatches"].__setitem__(0, 99),
        "$.programs.train.microbatches[0]: there are only micro-batches",
    ),
]
"""An edit of the header and of what stands in rank 0's line, and what is said of it."""


def _first(line: dict[str, Any], kind: str) -> Any:
    """The first instruction of this kind in the table."""
    return next(one for one in line["instructions"] if one[0] == kind)


@pytest.mark.parametrize("number", range(len(EDITS)))
def test_what_does_not_fit_is_refused(number: int, tmp_path: Path) -> None:
    edit, words = EDITS[number]
    path = tmp_path / "plan.json"
    write_plan(plan_of(STREAMED), path)
    header, line, *others = path.read_bytes().splitlines(keepends=True)
    top, own = json.loads(header), json.loads(line)
    edit(top, own)
    line = canonical(own)
    top["ranks"][0] = {"bytes": len(line), "sha256": hashlib.sha256(line).hexdigest()}
    path.write_bytes(b"".join([canonical(top), line, *others]))
    with pytest.raises(Rejected) as rejected:
        read_plan(path)
    assert any(words in one.message for one in rejected.value.diagnostics), rejected.value


def _streamed() -> int:
    """A seed whose plan has two streams, two ranks, and whatever the edits change."""
    for seed in range(100):
        program = plan_of(seed).programs["train"]
        spec = program.spec
        if len(spec.streams) == 2 and spec.ranks > 1 and len(spec.parts[0][0]) > 2:
            here = {type(one).__name__ for one in program.ranks[0]}
            if {"Await", "Receive"} <= here and program.channels and 0 in program.streams[0][:1]:
                return seed
    raise AssertionError("none")


STREAMED = _streamed()
