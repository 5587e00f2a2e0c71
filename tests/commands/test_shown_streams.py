"""Pictures of ranks with several streams: a lane for each, and what is hidden under computation."""

import json
import re
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

import pytest

from stretto.compiler.show import draw
from tests.support.command_line import Run
from tests.support.part_plans import ORDERS, part_plan

NAME = "moe_1f1b"
ALL = ("text", "svg", "html", "trace", "json", "dot")


def shown(stretto: Run, format: str, *more: str) -> str:
    code, out, err = stretto("show", NAME, "--format", format, *more)
    assert (code, err) == (0, "")
    return out


def test_the_trace_has_a_track_for_every_stream(stretto: Run) -> None:
    events: list[dict[str, Any]] = json.loads(shown(stretto, "trace"))["traceEvents"]
    names = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert sorted(names.values()) == ["comm"] * 4 + ["compute"] * 4
    tracks: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for e in events:
        if e["ph"] == "X":
            tracks.setdefault((e["pid"], e["tid"]), []).append((e["ts"], e["ts"] + e["dur"]))
            on = re.search(r"\.(\w+) ", e["name"])
            assert on is not None
            comm = on[1] in {"dispatch", "combine"}
            assert names[e["pid"], e["tid"]] == ("comm" if comm else "compute")
    assert tracks.keys() == names.keys()
    assert all(a[1] <= b[0] for row in tracks.values() for a, b in pairwise(sorted(row)))
    ends = [e for e in events if e["ph"] in "sf"]
    assert ends and {(e["pid"], e["tid"]) for e in ends} <= names.keys()


def test_the_svg_has_a_lane_for_every_stream(stretto: Run) -> None:
    root = ElementTree.fromstring(shown(stretto, "svg"))
    lanes = [e.text for e in root.iter() if e.get("class") == "rank"]
    assert lanes == [name for rank in range(4) for name in (f"rank {rank}", "comm")]
    assert sum(e.get("class") == "hatched" for e in root.iter()) == 4
    bars = [e for e in root.iter() if (e.get("class") or "").startswith("bar ")]
    heights = {e.get("height") for e in bars}
    assert len(bars) == 368 and heights == {"28", "18"}


def test_the_text_tells_what_is_hidden(stretto: Run) -> None:
    out = shown(stretto, "text", "--width", "140")
    code, summary, _ = stretto("compile", NAME, "--json")
    assert code == 0
    hidden = json.loads(summary)["hidden"]
    for rank, one in enumerate(hidden):
        shares = [f"{100 * one[key]:.1f} %" for key in ("share", "steady", "ramps")]
        row = next(line for line in out.splitlines() if re.match(rf"rank {rank} .* %", line))
        assert re.split(r"  +", row)[1:4] == shares
        rest = [float(x) for x in re.findall(r"([\d.]+) %", row)[3:]]
        assert abs(sum(rest) - 100) < 0.5
    assert "not hidden while compute waits" in out
    lanes = re.findall(r"^rank (\d) (compute|comm)  ", out, re.MULTILINE)
    assert lanes == [(str(rank), name) for rank in range(4) for name in ("compute", "comm")]
    wide = shown(stretto, "text", "--width", "1000")
    assert "F0 dispatch" in wide and "I0 combine" in wide
    narrow = shown(stretto, "text", "--width", "80")
    assert max(map(len, narrow.splitlines())) <= 80


def test_json_has_the_idle_time_of_every_stream(stretto: Run) -> None:
    found = json.loads(shown(stretto, "json"))
    for bars, idle in zip(found["timeline"], found["idle"], strict=True):
        for stream in found["streams"]:
            busy = sum(b["end"] - b["start"] for b in bars if b["stream"] == stream)
            free = sum(i["end"] - i["start"] for i in idle if i["stream"] == stream)
            assert busy + free == 238


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("split", [False, True])
def test_every_format_draws_every_plan(order: str, split: bool) -> None:
    if order == "both ways" and not split:
        return  # its order names I and W
    plan = part_plan(order, split=split, layers=2)
    for name, program in plan.programs.items():
        drawn = {format: draw(plan, format, name) for format in ALL}
        assert all(drawn.values())
        text = " ".join(drawn["text"].split())
        assert ("lower bound 0, unknown how far from" in text) == ("lower bound 0," in text)
        assert drawn["dot"].count('label="comm"') == program.spec.ranks
        assert "F.att " in drawn["dot"] and "F.att " in drawn["svg"]
