"""Pictures and listings: they show what the plan says, all of it, and nothing that a hostile name
could turn into something else."""

import json
import re
from base64 import b64encode
from collections import Counter, defaultdict
from fractions import Fraction
from hashlib import sha256
from html.parser import HTMLParser
from itertools import pairwise
from random import Random
from xml.etree import ElementTree

import msgspec
import pytest

from stretto.compiler.analysis.explanation import explain
from stretto.compiler.analysis.idle import WAITS, told
from stretto.compiler.bounds.bound import Bound, bound
from stretto.compiler.diagnostics.diagnostic import Rejected
from stretto.compiler.diagnostics.source import Source
from stretto.compiler.driver import compile_file, compile_text
from stretto.compiler.evaluation.settings import Settings
from stretto.compiler.order.arrange import arrange
from stretto.compiler.order.budget import Budget
from stretto.compiler.plan.plan import Plan, assemble
from stretto.compiler.problem.expand import expand
from stretto.compiler.problem.spec import Operation, Spec, show
from stretto.compiler.program.claims import claims
from stretto.compiler.program.communicate import communicate, forwards
from stretto.compiler.program.program import Claims, Program, ProgramName, Send
from stretto.compiler.program.timeline import time
from stretto.compiler.show import FORMATS, Look, draw, format_of, svg
from stretto.compiler.show.html import PAGE, script
from stretto.compiler.show.text import IDLE
from stretto.compiler.show.view import View, view
from tests.support import parts_orders, specs

EVIL = '</script><script>alert(1)</script>"><img src=x onerror=alert(1)>\x1b]0;x\x07]]>&amp;'


def planned(spec: Spec, source: str = "made\n") -> Plan:
    order = arrange(expand(spec), Budget())
    programs: dict[ProgramName, Program] = {"train": communicate(order), "eval": forwards(order)}
    claimed: dict[ProgramName, Claims] = {name: claims(made) for name, made in programs.items()}
    least = bound(order.problem)
    return assemble(programs, claimed, least, "written", [Source("made.pipe", source)])


def some_specs() -> list[Spec]:
    """Schedules with all that pictures have to show: several stages on a rank, both directions,
    pairs, slices, transfers, fractions of time."""
    random = Random(7)
    found = [
        specs.ordered(specs.interleaved(3, 2, 6, transfer=1), specs.interleaved_1f1b),
        specs.ordered(specs.linear(4, 8, (3, 4, 2), split=True), specs.zb_h1),
        specs.random_order(specs.both_ways(4, 8, pair=3), random, pairs=0.7),
    ]
    found += [specs.random_order(specs.random_model(random), random, 0.3) for _ in range(30)]
    return [msgspec.structs.replace(spec, time_unit=3) for spec in found]


def evil() -> Plan:
    spec = specs.ordered(specs.linear(2, 3), specs.gpipe)
    lines = tuple(msgspec.structs.replace(p, name=EVIL) for p in spec.pipelines)
    spans = tuple(span._replace(file=EVIL) for span in spec.spans)
    return planned(msgspec.structs.replace(spec, name=EVIL, pipelines=lines, spans=spans), EVIL)


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


def sends(plan: Plan) -> int:
    return sum(isinstance(one, Send) for rank in plan.programs["train"].ranks for one in rank)


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


# ------------------------------------------------------------------------- svg and html


def test_the_svg_has_a_bar_for_every_operation() -> None:
    for spec in some_specs()[:6]:
        plan = planned(spec)
        root = ElementTree.fromstring(draw(plan, "svg"))
        bars = [e for e in root.iter() if e.get("class", "").startswith("bar ")]
        texts = [e.text or "" for e in root.iter("{http://www.w3.org/2000/svg}title")]
        assert all(texts)
        titles = [text.split("   ")[0] for text in texts]
        names = [show(spec, bar.operation) for lane in view(plan, "train").lanes for bar in lane]
        assert len(bars) == len(names)
        assert set(names) <= set(titles)


@pytest.mark.parametrize("name", ["zb_v", "dualpipe", "looped_bfs", "gpipe"])
def test_the_legend_of_an_svg_has_every_colour_that_occurs(name: str) -> None:
    """And no other; what lies between bars leaves most of them to the colour."""
    root = ElementTree.fromstring(draw(compile_file(name, ranks=4, microbatches=16), "svg"))
    rects = [(e.get("class") or "", e) for e in root.iter("{http://www.w3.org/2000/svg}rect")]
    bars = {paint.removeprefix("bar ") for paint, _ in rects if paint.startswith("bar ")}
    key = [paint for paint, e in rects if e.get("width") == "12" and e.get("height") == "12"]
    assert sorted(key) == sorted([*bars, "held"])
    style = root.findtext("{http://www.w3.org/2000/svg}style") or ""
    assert all(f".{paint} {{ fill: #" in style for paint in bars)
    said = " ".join(e.text or "" for e in root.iter("{http://www.w3.org/2000/svg}text"))
    assert ("shades of a kind" in said) == (len({paint[-1] for paint in bars}) > 1)
    between = re.search(r"\.bar { stroke-width: ([\d.]+) }", style)
    narrow = min(float(e.get("width") or 0) for paint, e in rects if paint.startswith("bar "))
    assert between and 0 < float(between[1]) <= narrow / 8


def test_a_crowded_svg_gives_every_colour_its_share_of_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its area, measured on the paths that are drawn; heights are rounded to half a pixel."""
    monkeypatch.setattr(svg, "MOST", 0)
    plans = [*map(planned, some_specs()[:12]), compile_file("moe_1f1b", effort=0)]
    for plan in plans:
        shown = view(plan, "train")
        root = ElementTree.fromstring(draw(plan, "svg"))
        rows = [g for g in root.findall(".//{*}g") if g[1].get("class") == "idle"]
        assert len(rows) == len(shown.streams)
        for (rank, stream), row in zip(shown.streams, rows, strict=True):
            took: dict[str, float] = defaultdict(float)
            for bar in (bar for bar in shown.lanes[rank] if bar.stream == stream):
                kind, pipeline, stage = bar.operation[:3]
                half = 0.5 if bar.unit >= 0 else 1
                name = f"{kind}{pipeline}-{shown.chunks[pipeline, stage]}"
                took[name] += half * (bar.end - bar.start) / max(1, shown.claims.makespan)
            whole = float(row[1].get("width", 0)) * float(row[1].get("height", 0))
            drawn = {path.get("class"): area(path.get("d", "")) / whole for path in row[2:]}
            for name, share in took.items():
                assert drawn.get(name, 0) == pytest.approx(share, abs=0.02), name


def area(path: str) -> float:
    """Of the rectangles of a path."""
    boxes = re.findall(r"M([\d.]+) ([\d.]+)H([\d.]+)V([\d.]+)H\1Z", path)
    assert len(boxes) == path.count("M")
    return sum(
        (float(right) - float(left)) * (float(lower) - float(upper))
        for left, upper, right, lower in boxes
    )


def test_a_picture_of_many_ranks_or_operations_stays_small(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neighbouring ranks share a row; operations beyond what is seen make no more of it."""
    monkeypatch.setattr(svg, "MOST", 1000)
    text = "schedule many ranks 4 microbatches 2\npipeline main { stages 2 place s -> s }\n"
    text += "order rank r { if r < 2 { repeat microbatches { F } repeat microbatches { B } } }\n"
    for values in ({"ranks": 600}, {"ranks": 2, "microbatches": 600}):
        settings = Settings(values={name: Fraction(many) for name, many in values.items()})
        picture = draw(compile_text(text, "many.pipe", settings), "svg")
        ElementTree.fromstring(picture)
        assert len(picture) < 60_000


def test_nothing_hostile_gets_into_the_svg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(svg, "MOST", 0)
    assert ElementTree.fromstring(draw(evil(), "svg"))
    monkeypatch.undo()
    root = ElementTree.fromstring(draw(evil(), "svg"))
    kinds = {element.tag.split("}")[1] for element in root.iter()}
    assert kinds == {"svg", "title", "style", "rect", "text", "path", "g"}
    assert not [a for e in root.iter() for a in e.attrib if a.startswith("on") or "href" in a]


class Page(HTMLParser):
    """The scripts and policy of a page, as a browser finds them."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.scripts: list[str] = []
        self.policy = self.style = ""
        self.inside = self.styled = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.styled = tag == "style"
        self.inside = tag == "script"
        if self.inside:
            self.scripts.append("")
        values = dict(attrs)
        if values.get("http-equiv") == "Content-Security-Policy":
            self.policy = values["content"] or ""

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.styled = False

    def handle_data(self, data: str) -> None:
        if self.styled:
            self.style += data
        if self.inside:
            self.scripts[-1] += data


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


# ------------------------------------------------------------------------- trace


def test_the_trace_keeps_perfettos_rules() -> None:
    """Slices of a track nest, ids of arrows are whole numbers, both ends of an arrow lie within
    slices: else Perfetto drops them."""
    for spec in some_specs()[:10]:
        plan = planned(spec)
        events = json.loads(draw(plan, "trace"))["traceEvents"]
        tracks: dict[tuple[int, int], list[tuple[float, float]]] = {}
        for event in (e for e in events if e["ph"] == "X"):
            track = tracks.setdefault((event["pid"], event["tid"]), [])
            track.append((event["ts"], event["ts"] + event["dur"]))
        for slices in tracks.values():
            assert all(a[1] <= b[0] + 1e-6 for a, b in pairwise(sorted(slices)))
        arrows = [e for e in events if e["ph"] in "sf"]
        for arrow in arrows:
            assert isinstance(arrow["id"], int)
            inside = tracks[arrow["pid"], arrow["tid"]]
            assert any(start <= arrow["ts"] <= end for start, end in inside)
        starts = Counter(e["id"] for e in arrows if e["ph"] == "s")
        assert starts == Counter(e["id"] for e in arrows if e["ph"] == "f")
        assert all(count == 1 for count in starts.values())


def test_the_trace_has_an_arrow_for_every_message() -> None:
    plan = planned(some_specs()[0])
    events = json.loads(draw(plan, "trace"))["traceEvents"]
    assert sum(e["ph"] == "s" for e in events) == sends(plan) > 0


# ------------------------------------------------------------------------- dot


def test_dot_has_the_edges_of_the_language() -> None:
    for spec in some_specs()[:8]:
        text = draw(planned(spec), "dot")
        names = dict(re.findall(r'^ +n(\d+) \[label="([^"]*)"', text, re.M))
        edges = re.findall(r"^  n(\d+) -> n(\d+) \[(.*)\];$", text, re.M)
        data = {(names[a], names[b]) for a, b, look in edges if "constraint" not in look}
        written = [o for units in spec.written for unit in units for o in unit.operations]
        cut = {o[1:5] for o in written if o.kind == "W"}
        needed = {
            (show(spec, other), show(spec, one))
            for one in written
            for other in specs.needs(spec, one, cut)
        }
        assert len(names) == len(written)
        assert needed <= data


# ------------------------------------------------------------------------- torch


def test_torch_takes_the_csv_and_completes_it() -> None:
    """torch's own reader and lowering, which deadlocks on what it cannot run."""
    schedules = pytest.importorskip("torch.distributed.pipelining.schedules")
    made = [
        specs.ordered(specs.interleaved(4, 2, 8), specs.interleaved_1f1b),
        specs.ordered(specs.linear(4, 8, split=True), specs.zb_h1),
        specs.ordered(specs.linear(3, 5), specs.gpipe),
    ]
    for spec in made:
        rows = draw(planned(spec), "torch-csv").splitlines()
        assert len(rows) == spec.ranks
        actions = {
            rank: [schedules._Action.from_str(cell) for cell in row.split(",")]
            for rank, row in enumerate(rows)
        }
        stages = len(spec.pipelines[0].stages)
        place = {s: stage.rank for s, stage in enumerate(spec.pipelines[0].stages)}
        schedules._validate_schedule(actions, spec.ranks, stages, spec.microbatches)
        many = sum(map(len, actions.values()))
        lowered = schedules._add_send_recv(actions, place.__getitem__, stages)
        assert sum(a.is_compute_op for row in lowered.values() for a in row) == many


def test_torch_is_not_given_what_it_would_get_wrong() -> None:
    copies = specs.random_order(specs.both_ways(2, 4), Random(1))
    with pytest.raises(Rejected, match="`up` puts the stages on further ranks"):
        draw(planned(copies), "torch-csv")
    units = [
        [(Operation("F", 0, 0, 1),), (Operation("F", 0, 0, 0),)],
        [(Operation("F", 0, 1, 1),), (Operation("F", 0, 1, 0),)],
    ]
    for rank, units_ in enumerate(units):
        units_ += [(Operation("B", 0, rank, m),) for m in (0, 1)]
    turned = specs.written(specs.linear(2, 2), units)
    with pytest.raises(Rejected, match=r"`F main\[1, 0\]` runs after `F main\[1, 1\]`"):
        draw(planned(turned), "torch-csv")


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
