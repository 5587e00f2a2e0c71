"""Forged plans: every field of header and lines dropped, of another kind, of another value, the
file sealed again so that no digest tells; texts that are not the instructions'; bounds that are
none. What is accepted must print what the honest plan prints."""

import copy
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import pytest
from msgspec.structs import replace

from stretto.compiler.commands.check import proved
from stretto.compiler.commands.load import from_plan
from stretto.compiler.diagnostics.diagnostic import Rejected
from stretto.compiler.diagnostics.source import Source
from stretto.compiler.driver import compile_text
from stretto.compiler.evaluation import Settings
from stretto.compiler.language.parse import parse_costs
from stretto.compiler.order.budget import Budget
from stretto.compiler.plan.plan import Plan, write_plan
from stretto.compiler.show import draw
from stretto.compiler.show.summary import of_plan, step_of
from tests.attacks.conftest import Tally
from tests.attacks.test_certificates import places
from tests.support.command_line import Run

EVERYTHING = """\
schedule everything
ranks 2
microbatches 4
param memory = 4
split B into I, W
pipeline down { stages 2  microbatches 2  place s -> s }
pipeline up { replicates down  microbatches 2  place s -> 1 - s }
overlap F | B
cost F = 2
cost I = 2
cost W = 1
cost F[0, 1] = 3
cost F | B = 3
transfer 1
limit activations <= memory
rule F down[0, 1] after F up[1, 0]
"""
COSTS = "cost F = 5\n"


PARTS = """\
schedule parts
ranks 2
microbatches 4
param memory = 8
split F into 2 * (att, disp on comm, mlp, comb on comm)
split B into I, W
pipeline down { stages 2  microbatches 2  place s -> s }
pipeline up { replicates down  microbatches 2  place s -> 1 - s }
cost F.att = 2
cost F.disp[0] = 3
cost I.mlp = 2
transfer 1
activation F.mlp = 1 / 2
limit activations <= memory
rule F.att up[0, 1, layer 0] after F.att down[1, 0, layer 0]
order rank r {
  for m in 0 .. 2 { F down[r, m]; F up[1 - r, m] }
  for m in 0 .. 2 { I down[r, m]; I up[1 - r, m]; W down[r, m]; W up[1 - r, m] }
}
"""


def plan_of_parts(name: str) -> Plan:
    """A plan with streams, and the one with the same operations whole."""
    return compile_text(PARTS, "parts.pipe", whole=name == "whole")


def plans() -> dict[str, Plan]:
    """Plans with something in every table."""
    costs = parse_costs(Source("my.costs", COSTS))
    one_f_one_b = """\
schedule ones ranks 2 microbatches 3
param ahead = 1
pipeline main {}
limit activations <= 3
order rank r {
  let warmup = min(microbatches, ranks - 1 - r + ahead)
  repeat warmup { F }  repeat microbatches - warmup { B; F }  repeat warmup { B }
}
"""
    return {
        "found": compile_text(EVERYTHING, "everything.pipe", budget=Budget(effort=0)),
        "written": compile_text(one_f_one_b, "ones.pipe", Settings(costs=costs)),
        "forwards": compile_text(one_f_one_b, "ones.pipe", forward_only=True),
    }


def lines_of(plan: Plan, folder: Path) -> list[Any]:
    """The file's lines as JSON values."""
    write_plan(plan, folder / "honest.plan")
    return [json.loads(line) for line in (folder / "honest.plan").read_text().splitlines()]


def sealed(lines: list[Any], path: Path) -> Path:
    """The lines as a file in which lengths and digests are right."""
    header, *ranks = lines
    raw = [canonical(line) for line in ranks]
    own = header.get("ranks")
    if isinstance(own, list) and len(own) == len(raw):
        seals = [{"bytes": len(line), "sha256": sha256(line).hexdigest()} for line in raw]
        header = {
            **header,
            "ranks": [
                seal if entry == {"bytes": 0, "sha256": ""} else entry
                for entry, seal in zip(own, seals, strict=True)
            ],
        }
    path.write_bytes(b"".join([canonical(header), *raw]))
    return path


def canonical(value: Any) -> bytes:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode("utf-8", "surrogatepass") + b"\n"


def open_seals(lines: list[Any]) -> list[Any]:
    """Lengths and digests are filled in when the file is `sealed`."""
    for entry in lines[0]["ranks"]:
        entry |= {"bytes": 0, "sha256": ""}
    return lines


def printed(path: Path) -> str:
    """All that commands print of a plan, but for its hash and its name."""
    plan = from_plan(str(path))
    texts = [*proved("plan", plan), repr(replace(of_plan(plan), engine=""))]
    for name in plan.programs:
        texts += [draw(plan, "json", name), draw(plan, "text", name)]
    return "\n".join(texts).replace(plan.hash, "HASH")


def verdict(path: Path, honest: str) -> str:
    """`refused`, `unused` (nothing that is printed differs), or `believed`."""
    try:
        found = printed(path)
    except Rejected as rejected:
        assert all(d.message for d in rejected.diagnostics)
        return "refused"
    return "unused" if found == honest else "believed"


OTHERS: list[Any] = [None, True, -1, 0, 1, 2, 1.5, "", "x", "7/2", [], [0], {}, 1 << 53, 10**30]


def mutants(line: Any, path: tuple[Any, ...]) -> Iterator[Any]:
    """The line with the value at a path dropped, of other kinds, of other values."""
    value = line
    for step in path:
        value = value[step]
    for other in OTHERS:
        if other != value or type(other) is not type(value):
            yield with_value(line, path, other)
    if isinstance(value, int) and not isinstance(value, bool):
        yield with_value(line, path, value + 1)
        yield with_value(line, path, value - 1)
    yield with_value(line, path, GONE)


GONE = object()


def with_value(data: Any, path: tuple[Any, ...], value: Any) -> Any:
    """The data with another value there, or with none (`GONE`). The rest is shared, not copied: a
    plan is attacked thousands of times."""
    step, *rest = path
    changed = data.copy()
    if rest:
        changed[step] = with_value(data[step], tuple(rest), value)
    elif value is GONE:
        del changed[step]
    else:
        changed[step] = value
    return changed


def field(line: Any, path: tuple[Any, ...]) -> str:
    """What stands there: the path without its indices; of an instruction its kind and member."""
    words, value = [], line
    for step in path:
        if isinstance(value, list) and value and isinstance(value[0], str):
            words.append(f"{value[0] if len(value[0]) > 1 else 'operation'} {step}")
        elif isinstance(step, str):
            words.append(step)
        value = value[step]  # pyright: ignore[reportArgumentType, reportCallIssue]
    return ".".join(words)


# Fields of which some other value is accepted, since nothing that is printed depends on it; every
# other change of every other field is refused.
UNUSED = {
    "bound.ticks",  # a lower one; what is printed is worked out anew
    "bound.reason",  # as long as the bound is not above that
    "sources.my.costs 0",  # the name of a file of which no line is cited
    "channels",  # one on which nothing is sent: an evaluation has those of the step's gradients
    "engine",  # as long as it is an engine: only `compile` says who found an order
}


@pytest.mark.parametrize("name", ["found", "written", "forwards", "parts", "whole"])
def test_every_field_is_checked_or_unused(
    name: str, tmp_path: Path, attacks: Callable[[int, int], int], tally: Tally
) -> None:
    """Over the whole header and every rank's line: of each field every mutant's outcome."""
    plan = plan_of_parts(name) if name in ("parts", "whole") else plans()[name]
    outcomes, table = swept(plan, tmp_path, Random(name), attacks(250, 8000), attacks(2, 8))
    accepted = {key for key, found in table.items() if found != {"refused"}}
    assert accepted <= UNUSED, {key: table[key] for key in accepted - UNUSED}
    assert not outcomes["believed"], table
    tally(**outcomes)


def swept(
    plan: Plan, folder: Path, random: Random, many: int, each: int
) -> tuple[Counter[str], dict[str, set[str]]]:
    """About so many mutants of the plan, `each` of a place of every field in turn, and what became
    of them: how many of each outcome, and of every field its outcomes."""
    lines = open_seals(lines_of(plan, folder))
    honest = printed(sealed(lines, folder / "sealed.plan"))
    outcomes, table = Counter[str](), dict[str, set[str]]()
    found: dict[str, list[tuple[int, tuple[Any, ...]]]] = {}
    for number, line in enumerate(lines):
        for path in places(line):
            if path[-1] not in ("bytes", "sha256"):  # below
                found.setdefault(field(line, path), []).append((number, path))
    for some in found.values():
        random.shuffle(some)
    while sum(outcomes.values()) < many and any(found.values()):
        for what in [key for key, some in found.items() if some]:
            number, path = found[what].pop()
            wrong = list(mutants(lines[number], path))
            for mutant in random.sample(wrong, min(each, len(wrong))):
                changed = [*lines[:number], mutant, *lines[number + 1 :]]
                if plan.sources and number == 0 and mutant.get("sources") == []:
                    continue  # a plan that says it was made otherwise: below
                outcome = verdict(sealed(changed, folder / "mutant.plan"), honest)
                outcomes[outcome] += 1
                table.setdefault(what, set()).add(outcome)
    return outcomes, table


def test_lengths_and_digests_are_checked(tmp_path: Path) -> None:
    lines = lines_of(plans()["written"], tmp_path)
    for key, others in (("bytes", (0, 1, 10**9, -1)), ("sha256", ("", "0" * 64))):
        for rank in range(2):
            for other in others:
                wrong = copy.deepcopy(lines)
                wrong[0]["ranks"][rank][key] = other
                with pytest.raises(Rejected):
                    printed(sealed(wrong, tmp_path / "mutant.plan"))


# ---------------------------------------------------------------------------- texts


def text_of(lines: list[Any], change: Callable[[str], str]) -> list[Any]:
    """The plan with another text."""
    lines = copy.deepcopy(lines)
    lines[0]["sources"][0][1] = change(lines[0]["sources"][0][1])
    return lines


def test_a_text_that_is_not_the_instructions_is_refused(tmp_path: Path, tally: Tally) -> None:
    """The limit removed, rules dropped, costs changed, another schedule's text, in the text or in
    the Spec."""
    whole = plans()
    lines = open_seals(lines_of(whole["found"], tmp_path))
    others = open_seals(lines_of(whole["written"], tmp_path))
    honest = printed(sealed(lines, tmp_path / "honest.plan"))
    wrong, outcomes = list[list[Any]](), Counter[str]()
    for words in re.findall(r"[^\n]+\n", EVERYTHING):
        wrong.append(text_of(lines, lambda text, words=words: text.replace(words, "")))  # type: ignore[misc]
    for number in re.findall(r"\d+", EVERYTHING):
        wrong.append(text_of(lines, lambda text, n=number: text.replace(n, str(int(n) + 1))))  # type: ignore[misc]
    wrong.append(text_of(lines, lambda _: others[0]["sources"][0][1]))
    wrong.append(text_of(lines, lambda text: "\n" + text))
    wrong.append(text_of(lines, lambda text: text + "limit activations <= 3\n"))
    wrong.append(text_of(lines, lambda _: "this is no schedule"))
    wrong.append(text_of(others, lambda text: text.replace("B; F", "F; B")))
    specs: tuple[dict[str, Any], ...] = (
        {"limits": None}, {"rules": None}, {"transfers": None}, {"parameters": {"memory": "5"}},
        {"parameters": {}}, {"microbatches": 4000}, {"minimize": "span"}, {"jitter": [1, 2]},
    )  # fmt: skip
    for spec in specs:
        changed = copy.deepcopy(lines)
        for key, value in spec.items():
            if value is None:
                del changed[0]["spec"][key]
            else:
                changed[0]["spec"][key] = value
        wrong.append(changed)
    for key in ("costs gone", "costs changed", "a third text"):
        changed = copy.deepcopy(others)
        sources = changed[0]["sources"]
        if key == "costs gone":
            del sources[1]
        elif key == "costs changed":
            sources[1][1] = "cost F = 6\n"
        else:
            sources.append(["more.costs", "cost F = 5\n"])
        wrong.append(changed)
    for k, changed in enumerate(wrong):
        assert changed not in (lines, others), k
        outcomes[verdict(sealed(changed, tmp_path / "mutant.plan"), honest)] += 1
    # Another default of what `--set` has replaced is the only change that may be: the plan is what
    # this text gives with its parameters.
    assert outcomes["believed"] == 0 and outcomes["unused"] == 2, outcomes
    tally(texts_tried=len(wrong), **outcomes)


@pytest.mark.parametrize(
    "value", ["x", "1/0", "1e999999999", "0x10", "٣", "1_0", " 1", "", "9" * 5000, "nan", "1.5"]
)
def test_a_parameter_is_an_exact_number(value: str, tmp_path: Path) -> None:
    lines = open_seals(lines_of(plans()["written"], tmp_path))
    lines[0]["spec"]["parameters"]["ahead"] = value
    with pytest.raises(Rejected):
        printed(sealed(lines, tmp_path / "mutant.plan"))


def test_a_plan_without_a_text_cites_no_lines(tmp_path: Path, stretto: Run) -> None:
    lines = open_seals(lines_of(plans()["written"], tmp_path))
    lines[0]["sources"] = []
    path = str(sealed(lines, tmp_path / "made.plan"))
    for words in (("check", path), ("explain", path, "--time-limit", "1"), ("show", path)):
        code, out, err = stretto(*words)
        assert code == 0 and out and "line " not in out + err
    _, out, _ = stretto("show", path, "--format", "json")
    assert '"line":null' in out and not re.search(r'"line":\d', out)
    lines[0]["spec"]["limits"] = [[1, 0], [1, 0]]
    code, out, err = stretto("check", str(sealed(lines, tmp_path / "made.plan")))
    assert code == 1 and "limit" in err and "-->" not in err
    lines[0]["spec"]["microbatches"] = 4000
    del lines[0]["spec"]["limits"]
    code, out, err = stretto("check", str(sealed(lines, tmp_path / "made.plan")))
    assert code == 1 and "4000 micro-batches" in err


# ---------------------------------------------------------------------------- bounds

WAYS = [10**30, 1 << 53, -1, 0, 10**6, 7.5, "7/2", "7", None, True, [], 1 << 64]


@pytest.mark.parametrize("ticks", WAYS, ids=str)
@pytest.mark.parametrize("reason", ["because", "exhaustive"])
def test_a_bound_that_is_none_is_refused(ticks: Any, reason: str, tmp_path: Path) -> None:
    lines = open_seals(lines_of(plans()["found"], tmp_path))
    if reason == "exhaustive":
        lines[0]["bound"]["reason"] = (
            "an exhaustive search (CP-SAT) has shown that no order is better"
        )
    lines[0]["bound"]["ticks"] = ticks
    with pytest.raises(Rejected):
        printed(sealed(lines, tmp_path / "mutant.plan"))


def test_what_a_search_is_said_to_have_shown_is_stated_and_counts_for_nothing(
    tmp_path: Path, stretto: Run
) -> None:
    lines = open_seals(lines_of(plans()["found"], tmp_path))
    honest = from_plan(str(sealed(lines, tmp_path / "honest.plan")))
    assert not of_plan(honest).optimal
    lines[0]["bound"] = {
        "reason": "an exhaustive search (CP-SAT) has shown that no order is better",
        "ticks": honest.claims["train"].makespan,
    }
    forged = str(sealed(lines, tmp_path / "forged.plan"))
    plan = from_plan(forged)
    summary, before = of_plan(plan), of_plan(honest)
    assert not summary.optimal and summary.gap == before.gap
    assert summary.lower_bound == before.lower_bound
    assert summary.stated_bound == summary.makespan
    for words in (("check", forged), ("show", forged), ("show", forged, "--format", "svg")):
        code, out, _ = stretto(*words)
        assert code == 0 and "(optimal" not in out and "stated, not checked" in out
    lines[0]["bound"]["reason"] = "because"
    with pytest.raises(Rejected, match="the theorems say"):
        printed(sealed(lines, tmp_path / "forged.plan"))
    assert step_of(plan) == "train"
