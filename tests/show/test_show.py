"""Pictures and listings: they show what the plan says, all of it, and nothing that a hostile name
could turn into something else."""

import json
import re
from base64 import b64encode
from collections import Counter
from fractions import Fraction
from hashlib import sha256
from itertools import pairwise
from random import Random
from xml.etree import ElementTree

import pytest

from stretto.compiler.analysis.explanation import explain
from stretto.compiler.analysis.idle import WAITS, told
from stretto.compiler.bounds.bound import Bound
from stretto.compiler.driver import compile_file
from stretto.compiler.problem.spec import Operation, Spec
from stretto.compiler.program.claims import claims
from stretto.compiler.program.communicate import communicate
from stretto.compiler.program.timeline import time
from stretto.compiler.show import FORMATS, Look, draw, format_of
from stretto.compiler.show.html import PAGE, script
from stretto.compiler.show.text import IDLE
from stretto.compiler.show.view import View, view
from tests.support import parts_orders, specs
from tests.support.pictures import EVIL, Page, evil, planned, sends, some_specs

# ------------------------------------------------------------------------- json


@pytest.mark.parametrize("spec", some_specs(), ids=type)
def test_json_shows_every_operation_once_and_after_what_it_needs(spec: Spec) -> None:
    """By the rules of the language said again in `specs.needs`, not by those of the compiler."""
    shown = json.loads(draw(planned(spec), "json"))
    names = {pipeline.name: p for p, pipeline in enumerate(spec.pipelines)}
    times, ranks = {}, {}
    for rank, lane in enumerate(shown["timeline"]):
        for one in lane:
            absent = [-1 if one[key] is None else one[key] for key in ("slice", "part")]
            operation = Operation(
                one["op"], names[one["pipeline"]], one["stage"], one["microbatch"], *absent
            )
            assert operation not in times
            times[operation] = Fraction(one["start"]), Fraction(one["end"])
            ranks[operation] = rank
        for before, after in pairwise(lane):
            same = before["unit"] is not None and before["unit"] == after["unit"]
            key = "start" if same else "end"
            assert Fraction(before[key]) <= Fraction(after["start"])
    written = [o for units in spec.written for unit in units for o in unit.operations]
    assert sorted(times) == sorted(written)
    cut = {o[1:5] for o in written if o.kind == "W"}
    transfer = {(t.source, t.target): t.ticks for t in spec.transfers}
    for operation, (start, _) in times.items():
        for needed in specs.needs(spec, operation, cut):
            ticks = transfer.get((ranks[needed], ranks[operation]), 0)
            assert start >= times[needed][1] + Fraction(ticks, 3)


def test_json_refers_to_what_there_is() -> None:
    """Every channel of a send is that of a receive on the other rank, as many times."""
    plan = planned(some_specs()[2])
    shown = json.loads(draw(plan, "json"))
    ends = [
        Counter(
            (*one["channel"].values(),)
            for rank in shown["instructions"]
            for one in rank
            if one["do"] == key
        )
        for key in ("send", "receive")
    ]
    assert [sum(end.values()) for end in ends] == [sends(plan)] * 2
    assert ends[0] == ends[1]
    sums = [one for rank in shown["instructions"] for one in rank if one["do"] == "reduce"]
    assert {tuple(c["rank"] for c in one["copies"]) for one in sums} == {(0, 3), (1, 2)}


# ------------------------------------------------------------------------- memory


def test_the_memory_curve_has_the_peak_that_is_claimed_and_ends_at_nothing() -> None:
    for spec in some_specs():
        plan = planned(spec)
        for name in plan.programs:
            shown = view(plan, name)
            if min((bar.end - bar.start for lane in shown.lanes for bar in lane), default=0) == 0:
                continue  # what takes no time takes no width in a curve
            peaks = tuple(max(level.grains for level in curve) for curve in shown.memory)
            assert peaks == plan.claims[name].activations
            assert all(curve[-1].grains == 0 for curve in shown.memory)


def test_the_memory_curve_of_parts_has_the_peak_that_is_claimed() -> None:
    compared = 0
    for seed in range(40):
        program = communicate(parts_orders.random_order(Random(seed)))
        timeline, claimed = time(program), claims(program)
        shown = View(program, timeline, claimed, Bound(0, ""), "", "", None, ())
        assert all(curve[-1].grains == 0 for curve in shown.memory)
        for lane, curve, peak in zip(shown.lanes, shown.memory, claimed.activations, strict=True):
            drawn = max(level.grains for level in curve)
            assert drawn <= peak
            if all(bar.end > bar.start for bar in lane):  # else it has moments without width
                assert drawn == peak
                compared += peak > 0
    assert compared > 3


# ------------------------------------------------------------------------- text

CHART = """\
made: 2 ranks, 3 micro-batches · makespan 12 (optimal) ·
bubble 25.0 % · peak 3 activations
                                              peak
rank 0  F0 F1 F2 ·········B0    B1    B2      3
rank 1  ···F0 F1 F2 B0    B1    B2    ......  3
        0              5              10

F forward   B backward   · waits for data   . done

idle rank 0, 3 – 6: `B main[0, 0]` waits for `B main[1, 0]`
  of rank 1
idle rank 1, 0 – 1: `F main[1, 0]` waits for `F main[0, 0]`
  of rank 0
"""


def test_letters_tell_the_stages_of_a_rank() -> None:
    """Where there is one pipeline; of several they tell the pipeline."""
    plan = compile_file("interleaved_1f1b", ranks=2, microbatches=4)
    lanes = [
        line for line in draw(plan, "text", look=Look(100)).splitlines() if "rank " in line[:5]
    ]
    for lane, bars in zip(lanes, view(plan, "train").lanes, strict=True):
        letters = [c for c in lane.split("  ", 1)[1] if c.isalpha()]
        stages = [bar.operation.stage // 2 for bar in bars]
        assert [c.isupper() for c in letters] == [stage == 0 for stage in stages]
    assert "small 2nd stage" in draw(plan, "text", look=Look(200))
    both = draw(compile_file("dualpipe", ranks=4, microbatches=8), "text", look=Look(100))
    assert "small letters up" in both and "stage" not in both


def test_the_chart_of_gpipe() -> None:
    plan = planned(specs.ordered(specs.linear(2, 3), specs.gpipe))
    assert draw(plan, "text", look=Look(60)) == CHART


@pytest.mark.parametrize("width", [20, 40, 80, 137])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    for spec in some_specs()[:8]:
        lines = draw(planned(spec), "text", look=Look(width)).splitlines()
        assert max(map(len, lines)) <= max(width, 24), lines


def test_what_a_narrow_chart_leaves_out_is_shown_at_the_width_it_names() -> None:
    for spec in some_specs()[:2]:
        plan = planned(spec)
        complete = {
            f"{o.kind}{o.microbatch}" for units in spec.written for u in units for o in u.operations
        }
        for width in (24, 40, 70):
            narrow = draw(plan, "text", look=Look(width, False))
            named = re.search(r"--width\s(\d+)`", narrow)
            assert named, narrow
            wide = draw(plan, "text", look=Look(int(named[1]), False))
            assert "--width" not in wide
            assert complete <= set(re.findall(r"[FBIW]\d+", wide))


def test_colour_only_where_it_is_wanted() -> None:
    plan = planned(some_specs()[0])
    assert "\x1b" not in draw(plan, "text", look=Look(80))
    coloured = draw(plan, "text", look=Look(80, colour=True))
    assert "\x1b[" in coloured
    assert "· waits for data" in re.sub(r"\x1b\[[\d;]*m", "", coloured)


# ------------------------------------------------------------------------- idle stretches


def test_every_picture_tells_idle_time_in_the_words_of_explain() -> None:
    for spec in some_specs()[:8]:
        plan = planned(spec)
        found = explain(plan.programs["train"], many=10**6).stretches
        words = {told(spec, one) for one in found}
        root = ElementTree.fromstring(draw(plan, "svg"))
        gaps = [e for e in root.iter() if e.get("class") == "gap"]
        assert {e[0].text for e in gaps} == words and len(gaps) == len(words)
        (data,) = json.loads(Page(draw(plan, "html")).scripts[0])["plans"]
        idle, first = data["idle"], data["idle"]["first"]
        page = list(zip(idle["start"], idle["end"], idle["why"], strict=True))
        listed = json.loads(draw(plan, "json"))["idle"]
        for rank in range(spec.ranks):
            mine = [(o.start, o.end, o.why.replace("`", "")) for o in found if o.rank == rank]
            assert sorted(page[first[rank] : first[rank + 1]]) == sorted(mine)
            assert [(o["why"], o["cause"]) for o in listed[rank]] == [
                (o.why, o.cause) for o in sorted(found, key=lambda one: one.start) if o.rank == rank
            ]
        text = " ".join(draw(plan, "text", look=Look(400)).split())
        said = sorted(
            (o for o in found if o.cause != "done"),
            key=lambda o: (o.start - o.end, o.rank, o.start),
        )
        assert all(told(spec, one) in text for one in said[:3])
        marks = {cause: f"{cell.character} {WAITS[cause]}" for cause, cell in IDLE.items()}
        assert {cause for cause, mark in marks.items() if mark in text} == {o.cause for o in found}


# ------------------------------------------------------------------------- html


def test_nothing_hostile_gets_into_the_terminal() -> None:
    for format in ("text", "dot"):
        assert "\x1b" not in draw(evil(), format)


def test_the_page_runs_its_own_script_and_nothing_else() -> None:
    page = Page(draw(evil(), "html"))
    assert page.tags["script"] == 2
    assert page.tags["img"] == 0
    data, code = page.scripts
    (plan,) = json.loads(data)["plans"]
    assert plan["schedule"] == EVIL
    assert plan["sources"] == [{"name": "made.pipe", "text": EVIL}]
    for directive, text in (("script-src", code), ("style-src", page.style)):
        digest = b64encode(sha256(text.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in page.policy
    assert "unsafe" not in page.policy
    assert "default-src 'none'" in page.policy
    assert "innerHTML" not in code


def test_the_modules_of_the_page_can_be_joined_to_one() -> None:
    """No two give one name to two things, and each takes from another what that gives."""
    texts = {file.name: file.read_text() for file in PAGE.iterdir() if file.name.endswith(".js")}
    given = {
        name: re.findall(r"^(?:export )?(?:function|class|const|let) ([\w$]+)", text, re.MULTILINE)
        for name, text in texts.items()
    }
    twice = Counter(word for words in given.values() for word in words)
    assert not [word for word, count in twice.items() if count > 1]
    for text in texts.values():
        for words, name in re.findall(r'^import \{([^}]*)\}\s*from "\./(\w+\.js)";', text, re.M):
            for word in words.split(","):
                assert re.search(
                    rf"^export (function|class|const) {word.strip()}\b", texts[name], re.M
                )
        assert not re.search(r"innerHTML|eval\(|\.style\s*=", text)
    assert not re.search(r"^(import|export) ", script(), re.MULTILINE)
    assert all(text[:40] in script() for text in texts.values())


# ------------------------------------------------------------------------- all


@pytest.mark.parametrize("format", sorted(FORMATS))
def test_the_forwards_alone_can_be_shown(format: str) -> None:
    plan = planned(some_specs()[0])
    if format in ("torch-csv", "zero-bubble", "primus"):
        return
    assert "B main" not in draw(plan, format, "eval")
    assert "B main" in draw(plan, format, "train") or format in ("text", "html")


def test_a_files_name_says_its_format() -> None:
    names = ("a.svg", "a.html", "a.json", "a.trace.json", "a.csv", "a.dot", "a.txt", "a")
    formats = ("svg", "html", "json", "trace", "torch-csv", "dot", "text", "text")
    assert tuple(map(format_of, names)) == formats
