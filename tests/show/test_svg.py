"""Pictures as SVG: every operation and every colour is there, and files stay small."""

import re
from collections import defaultdict
from fractions import Fraction
from xml.etree import ElementTree

import pytest

from stretto.compiler.driver import compile_file, compile_text
from stretto.compiler.evaluation.settings import Settings
from stretto.compiler.order.budget import Budget
from stretto.compiler.problem.spec import show
from stretto.compiler.show import draw, svg
from stretto.compiler.show.scale import marks
from stretto.compiler.show.view import view
from tests.support.pictures import evil, planned, some_specs


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


@pytest.mark.parametrize("unit", ["", " GiB", " KiB"])
def test_no_bar_lies_under_a_peak(unit: str) -> None:
    """However long its words are; letters are six pixels wide at least."""
    text = (
        "schedule x ranks 4 microbatches 8 pipeline main {} "
        f"activation = 17636.571{unit} order auto"
    )
    root = ElementTree.fromstring(
        draw(compile_text(text, "x.pipe", budget=Budget(effort=0)), "svg")
    )
    rects = [e for e in root.findall(".//{*}rect") if (e.get("class") or "").startswith("bar ")]
    right = max(float(e.get("x") or 0) + float(e.get("width") or 0) for e in rects)
    ends = [e for e in root.findall(".//{*}text") if e.get("class") == "end" and e.text != "peak"]
    assert len(ends) == 4 and all((e.text or "").endswith(unit) for e in ends)
    for end in ends:
        assert right <= float(end.get("x") or 0) - 6 * len(end.text or "")


@pytest.mark.parametrize(
    ("makespan", "unit", "told"),
    [
        (40, 1, [0, 5, 10, 15, 20, 25, 30, 35, 40]),
        (4, 3, [0, 1]),  # thirds: a tenth of a unit is no tick
        (17048338433989, 2**45, [0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45]),
        (
            12_000,
            10**9,
            [0, 1e-6, 2e-6, 3e-6, 4e-6, 5e-6, 6e-6, 7e-6, 8e-6, 9e-6, 1e-5, 1.1e-5, 1.2e-5],
        ),
    ],
)
def test_an_axis_has_marks_however_short_the_step_is(
    makespan: int, unit: int, told: list[float]
) -> None:
    """Costs in seconds make steps of less than one."""
    found = marks(makespan, unit, 14)
    assert [float(f"{one / unit:.6g}") for one in found] == told
