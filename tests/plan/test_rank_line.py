"""The line of a rank: a table, lists of numbers, columns. What it holds is what the lists hold,
there is one line for them, and what does not fit is refused with what and where, in memory that its
own length bounds."""

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from stretto.compiler.bounds.bound import Bound
from stretto.compiler.diagnostics.diagnostic import Rejected
from stretto.compiler.driver import compile_file, compile_text
from stretto.compiler.plan.plan import Plan, assemble, read_plan, write_plan
from stretto.compiler.plan.rank_line import IssuedList, fold, unfold
from stretto.compiler.program.claims import claims
from stretto.compiler.program.communicate import communicate, forwards
from stretto.compiler.program.program import (
    Compute,
    Free,
    Instruction,
    Program,
    ProgramName,
    Wait,
)
from tests.support.parts_orders import random_order
from tests.support.plan_files import at, edited, unfolded

ROOT = Path(__file__).parent.parent.parent
UNLIKE = """\
schedule unlike ranks 1 microbatches 5
pipeline a { microbatches 2 model "a" }
pipeline b { microbatches 3 model "b" }
order rank r { repeat 2 { F a; B a } repeat 3 { F b; B b } }
"""


def with_parts(seed: int) -> Plan:
    order = random_order(Random(seed))
    programs: dict[ProgramName, Program] = {"train": communicate(order), "eval": forwards(order)}
    return assemble(programs, {n: claims(one) for n, one in programs.items()}, Bound(0, ""), "?")


@pytest.fixture(scope="module")
def plans() -> dict[str, Plan]:
    """With pairs and sums; with slices; with parts; with pipelines that have unlike many
    micro-batches; of forwards alone."""
    return {
        "pairs": compile_file("dualpipe", ranks=4, microbatches=8),
        "slices": compile_file(ROOT / "examples/seq1f1b.pipe", ranks=2, microbatches=3),
        "parts": with_parts(0),
        "unlike": compile_text(UNLIKE, "unlike.pipe"),
        "forwards": compile_file("inference", ranks=2, microbatches=2, forward_only=True),
    }


PLANS = ("pairs", "slices", "parts", "unlike", "forwards")


def written(plan: Plan, folder: Path) -> Path:
    write_plan(plan, folder / "plan.json")
    return folder / "plan.json"


def own(plan: Plan, rank: int) -> dict[ProgramName, IssuedList]:
    """The lists of a rank."""
    streamed = any(program.streams for program in plan.programs.values())
    return {
        name: IssuedList(program.ranks[rank], program.streams[rank] if streamed else ())
        for name, program in plan.programs.items()
    }


# ---------------------------------------------------------------------------- what it holds


@pytest.mark.parametrize("name", PLANS)
def test_other_programs_read_the_same_lists(
    plans: dict[str, Plan], name: str, tmp_path: Path
) -> None:
    """By the words of `docs/json.md`, with `json` alone."""
    plan = plans[name]
    _, *lines = map(json.loads, written(plan, tmp_path).read_bytes().splitlines())
    for rank, line in enumerate(lines):
        assert list(line["programs"]) == sorted(plan.programs)
        for key, program in plan.programs.items():
            wanted = json.loads(msgspec.json.encode(program.ranks[rank]))
            assert unfolded(line, key) == wanted
            if program.streams:
                found = [line["streams"][k] for k in line["programs"][key]["list"]]
                assert found == list(program.streams[rank])


@pytest.mark.parametrize("name", PLANS)
def test_what_is_folded_is_unfolded(plans: dict[str, Plan], name: str) -> None:
    plan = plans[name]
    for rank in range(len(plan.programs["eval"].ranks)):
        assert unfold(fold(rank, own(plan, rank))) == own(plan, rank)


def test_what_makes_no_sense_is_held_too() -> None:
    """Nothing is lost of a list that no plan would have: it is refused by whoever reads it."""
    program = with_parts(0).programs["train"]
    first = next(one for one in program.ranks[0] if isinstance(one, Compute))
    others: list[Instruction] = [
        replace(first, unit=-7), replace(first, at=10**30), replace(first, reads=(-1, 4)),
        replace(first, operation=first.operation._replace(microbatch=-1)),
        replace(first, operation=first.operation._replace(kind="?", slice=5)),
        Wait(-3), Free(1 << 70),
    ]  # fmt: skip
    lists_of: list[list[Instruction]] = [[], [first], others, [*others, first, *others]]
    for some in lists_of:
        streams = tuple(one.stream if isinstance(one, Compute) else 0 for one in some)
        lists: dict[ProgramName, IssuedList] = {"train": IssuedList(tuple(some), streams)}
        assert unfold(fold(0, lists)) == lists


def test_streams_that_contradict_each_other_are_not_written() -> None:
    program = with_parts(STREAMED).programs["train"]
    for streams in (program.streams[0][1:], tuple(1 - k for k in program.streams[0])):
        with pytest.raises(ValueError, match=r"rank 0: a computation says|argument"):
            fold(0, {"train": IssuedList(program.ranks[0], streams)})


def test_a_plan_that_was_changed_is_written_as_it_is_now(
    plans: dict[str, Plan], tmp_path: Path
) -> None:
    """Lines are made once for `assemble` and `write_plan`: of these Programs, and no others."""
    plan = plans["forwards"]
    good = written(plan, tmp_path).read_bytes()
    program = plan.programs["eval"]
    shorter = replace(program, ranks=(program.ranks[0][:-1], program.ranks[1]))
    other = written(replace(plan, programs={"eval": shorter}), tmp_path).read_bytes()
    assert (
        other != good
        and read_plan(tmp_path / "plan.json").programs["eval"].ranks[0] == (shorter.ranks[0])
    )
    assert written(plan, tmp_path).read_bytes() == good


# ---------------------------------------------------------------------------- what is refused

TRAIN = ("programs", "train")
Edit = Callable[[Any], object]


def with_list(change: Callable[[list[Any]], object]) -> Edit:
    return lambda line: change(line["programs"]["train"]["list"])


def last(key: str, to: Any) -> Edit:
    """The last value of a column becomes another."""
    return at(*TRAIN, key, -1, to=to)


def renumbered(line: Any) -> None:
    """The same lists, over a table in another order."""
    table = line["instructions"]
    table[0], table[1] = table[1], table[0]
    for one in line["programs"].values():
        one["list"] = [{0: 1, 1: 0}.get(k, k) for k in one["list"]]


def computed_again(line: Any) -> None:
    """The list ends with a computation for which nothing stands in the columns."""
    kinds = [one[0] for one in line["instructions"]]
    line["programs"]["train"]["list"].append(kinds.index("compute"))


def without_places(line: Any) -> None:
    own = line["programs"]["train"]
    own["at"] = [-1] * len(own["at"])


EDITS: list[tuple[Edit, str, str]] = [
    (at("rank", to=0), "plan-reference", "of rank 1"),
    (at("extra", to=0), "plan-field", "unknown field `extra`"),
    (lambda line: line["programs"].pop("eval"), "plan-reference", "`eval` and `train` of rank 1"),
    (at("programs", "test", to={"list": []}), "plan-field", "does not know 'test'"),
    (at(*TRAIN, "extra", to=[]), "plan-field", "unknown field `extra`"),
    (lambda line: line["programs"]["train"].pop("list"), "plan-field", "required field `list`"),
    (lambda line: line.pop("instructions"), "plan-field", "required field `instructions`"),
    (at("instructions", 0, 0, to="loop"), "plan-field", "$.instructions[0][0]: this version does"),
    (at("instructions", 0, 1, to=10**6), "plan-reference", "[0][1]: there are only slots 0 to"),
    (at("instructions", 0, 1, to=10**30), "plan-reference", "[0][1]: there are only slots"),
    (at("instructions", 0, 1, to=-1), "plan-reference", "[0][1]: there are only slots"),
    (at("instructions", 0, 2, to=99), "plan-reference", "[0][2]: there are only channels"),
    (at("instructions", 0, 3, to=["F", 9, 0]), "plan-reference", "[0][3][1]: there are only pipe"),
    (at("instructions", 0, 3, to=["F", 0, 9]), "plan-reference", "[0][3][2]: there are only stag"),
    (at("instructions", 0, 3, to=["Q", 0, 0]), "plan-reference", "[0][3][0]: this version does"),
    (at("instructions", 0, 3, to=["F", 0, 0, 0]), "plan-reference", "[0][3][3]: no stage is cut"),
    (at("instructions", 0, 3, to=["F", 0, 0, -1]), "damaged-plan", "not written in the one way"),
    (at("instructions", 0, 3, to=["F", 0]), "plan-field", "$.instructions[0][3]"),
    (at("instructions", 0, 3, to=["F", 0, 0, -1, 0]), "plan-field", "$.instructions[0][3]"),
    (lambda line: line["instructions"][0].append(0), "damaged-plan", "see byte"),
    (lambda line: line["instructions"].append(["wait", 0]), "plan-reference", "no list names it"),
    (renumbered, "plan-reference", "$.instructions[0]: the lists name 1 first"),
    (at("streams", to=[0]), "plan-reference", "$.streams: there are"),
    (at("streams", to=[]), "damaged-plan", "see byte"),
    (with_list(lambda own: own.append(10**30)), "plan-reference", "there are only instructions"),
    (with_list(lambda own: own.append(-1)), "plan-reference", "there are only instructions"),
    (with_list(lambda own: own.append(True)), "plan-field", "expected `int`, got `bool`"),
    (with_list(lambda own: own.append([3, 10**9])), "plan-field", "expected `int`, got `array`"),
    (with_list(lambda own: own.pop(0)), "plan-reference", "$.instructions[0]: the lists name"),
    (computed_again, "plan-reference", "$.programs.train.microbatches: there is use for"),
    (with_list(list.clear), "plan-reference", "]: the lists name"),
    *(
        (
            lambda line, key=key: line["programs"]["train"][key].append(0),
            "plan-reference",
            f"$.programs.train.{key}: there is use for",
        )
        for key in ("microbatches", "units", "at")
    ),
    (lambda line: line["programs"]["train"].pop("microbatches"), "plan-reference", "are 0"),
    (at(*TRAIN, "slices", to=[0]), "plan-reference", "$.programs.train.slices: there is use for 0"),
    (at(*TRAIN, "slices", to=[]), "damaged-plan", "see byte"),
    (last("microbatches", 4), "plan-reference", "there are only micro-batches 0 to 3, not 4"),
    (last("microbatches", -1), "plan-reference", "micro-batches 0 to 3, not -1"),
    (last("microbatches", 10**30), "plan-reference", "there are only micro-batches"),
    (last("microbatches", "0"), "plan-field", "expected `int`, got `str`"),
    (last("microbatches", 1.0), "plan-field", "expected `int`, got `float`"),
    (last("units", 10**6), "plan-reference", "there are only units 0 to"),
    (last("units", -2), "plan-reference", "there are only units 0 to"),
    (last("at", 10**6), "plan-reference", "there are only spans 0 to"),
    (last("at", -2), "plan-reference", "there are only spans 0 to"),
    (without_places, "plan-reference", "$.programs.train.at: nothing stands in it"),
]


@pytest.mark.parametrize("number", range(len(EDITS)))
def test_a_line_that_does_not_fit_is_refused(
    plans: dict[str, Plan], number: int, tmp_path: Path
) -> None:
    edit, code, words = EDITS[number]
    with pytest.raises(Rejected) as rejected:
        read_plan(edited(written(plans["pairs"], tmp_path), edit, 2))
    found = rejected.value.diagnostics
    assert found[0].code == code and any(words in one.message for one in found), found
    assert "line 3 (rank 1): " in found[0].message
    assert len(found) <= 10


def test_an_instruction_stands_in_the_table_once(plans: dict[str, Plan], tmp_path: Path) -> None:
    path = written(plans["forwards"], tmp_path)

    def edit(line: Any) -> None:
        table = line["instructions"]
        table.append(next(one for one in table if one[0] == "free"))
        line["programs"]["eval"]["list"].append(len(table) - 1)

    with pytest.raises(Rejected, match="it stands there twice: see"):
        read_plan(edited(path, edit, 1))


def test_micro_batches_are_those_of_the_pipeline(plans: dict[str, Plan], tmp_path: Path) -> None:
    """The second of the first pipeline is its last; the other one has a third."""
    path = written(plans["unlike"], tmp_path)
    with pytest.raises(Rejected, match=r"\[0\]: there are only micro-batches 0 to 1, not 2"):
        read_plan(edited(path, at(*TRAIN, "microbatches", 0, to=2), 1))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [("slices", 4, "only slices 0 to 3"), ("slices", -1, "only slices 0 to 3")],
)
def test_slices_are_there(
    plans: dict[str, Plan], key: str, value: int, words: str, tmp_path: Path
) -> None:
    path = written(plans["slices"], tmp_path)
    with pytest.raises(Rejected, match=words):
        read_plan(edited(path, last(key, value), 1))


def replaced_by(line: Any) -> Edit:
    return lambda old: (old.clear(), old.update(line))


@pytest.mark.parametrize("name", PLANS)
def test_there_is_one_line_for_a_list(plans: dict[str, Plan], name: str, tmp_path: Path) -> None:
    """Numbers of a line changed, doubled, dropped, moved, at random: what is still read is written
    again as the same bytes, and nothing else is raised."""
    plan, random, read = plans[name], Random(name), 0
    good = written(plan, tmp_path).read_bytes().splitlines()
    for _ in range(100):
        line = json.loads(good[1])
        lists = [line["instructions"], *(x for p in line["programs"].values() for x in p.values())]
        lists += [line["streams"]] if "streams" in line else []
        for _ in range(random.choice((1, 1, 2))):
            some = random.choice([one for one in lists if one])
            k, j = random.randrange(len(some)), random.randrange(len(some))
            match random.randrange(4):
                case 0 if isinstance(some[k], int):
                    some[k] = random.choice((-1, 0, some[j], some[k] + 1))
                case 1:
                    some.insert(j, some[k])
                case 2:
                    del some[k]
                case _:
                    some[k], some[j] = some[j], some[k]
        path = tmp_path / "plan.json"
        path.write_bytes(b"".join(one + b"\n" for one in good))
        edited(path, replaced_by(line), 1)
        raw = path.read_bytes()
        try:
            found = read_plan(path)
        except Rejected:
            continue
        assert written(found, tmp_path).read_bytes() == raw
        read += 1
    assert read > 5


def test_a_long_line_takes_memory_for_what_stands_in_it(tmp_path: Path) -> None:
    """Numbers of computations, all of them in the table, for which nothing stands in the columns:
    refused before any instruction is made of them."""
    plan = compile_file("one_f_one_b", ranks=1, microbatches=500)
    path = written(plan, tmp_path)

    def longer(line: Any) -> None:
        own = line["programs"]["train"]
        own["list"] += [own["list"][0]] * 200_000

    edited(path, longer, 1)
    tracemalloc.start()
    with pytest.raises(Rejected, match="there is use for 201000, and there are 1000"):
        read_plan(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20 * path.stat().st_size, peak


def _streamed() -> int:
    """A seed whose plan has a computation on another stream than the first."""
    for seed in range(100):
        program = with_parts(seed).programs["train"]
        if program.streams and 1 in program.streams[0] and len(program.spec.streams) == 2:
            return seed
    raise AssertionError("none")


STREAMED = _streamed()
