"""The page in a browser: it shows what the plan says, follows the pointer without looking at the
whole plan, and nothing that a file says acts in it. Skipped where there is no Chromium."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from browser import Browser, executable

from stretto.compiler.analysis.explanation import explain
from stretto.compiler.driver import compile_file
from stretto.compiler.plan.plan import Plan
from stretto.compiler.problem.spec import show
from stretto.compiler.show import draw, html
from stretto.compiler.show.text_hidden import hidden_table
from stretto.compiler.show.view import view
from tests.support import specs
from tests.support.pictures import EVIL, evil, planned, some_specs

pytestmark = pytest.mark.skipif(executable() is None, reason="no Chromium is installed")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser(1200, 800) as started:
        yield started


class Shown:
    """A plan's page, opened."""

    def __init__(self, browser: Browser, plan: Plan, folder: Path):
        self.browser, self.plan = browser, plan
        path = folder / "page.html"
        path.write_text(draw(plan, "html"), "utf-8")
        self.seen = len(browser.events)
        browser.open(path)
        browser.settle()

    def js(self, expression: str) -> Any:
        """What an expression is; `page` is the page's own."""
        return self.browser.evaluate(
            f"(() => {{ const page = stretto, [plan] = stretto.plans; return {expression}; }})()"
        )

    def place(self, bar: int) -> tuple[float, float]:
        """Where the middle of a bar is on the screen."""
        x, y = self.js(f"""(() => {{
          const {{ start, end }} = plan.bars, {{ viewport }} = page, bar = {bar};
          let lane = plan.first.findLastIndex((first) => first <= bar);
          const lower = plan.bars.unit?.[bar] >= 0 && plan.whats[plan.bars.what[bar]].kind !== "F";
          const x = (viewport.x(start[bar]) + viewport.x(end[bar])) / 2;
          const share = plan.bars.unit?.[bar] >= 0 ? (lower ? 0.75 : 0.25) : 0.5;
          const box = document.querySelector("#over").getBoundingClientRect();
          return [box.x + x, box.y + viewport.rowTop(lane) + share * viewport.heights().bars];
        }})()""")
        return x, y

    def hover(self, bar: int) -> str:
        """What the tip says of a bar."""
        self.browser.mouse("mouseMoved", *self.place(bar))
        self.browser.settle()
        return self.text("#tip")

    def text(self, selector: str) -> str:
        found: str = self.js(f"document.querySelector({json.dumps(selector)}).innerText")
        return found

    def key(self, key: str) -> None:
        self.js("document.querySelector('#over').focus()")
        self.browser.key(key)
        self.browser.settle()

    def complaints(self) -> list[str]:
        """What the page threw, and what its policy refused, since it was opened."""
        return self.browser.complaints(self.seen)


def library(name: str, ranks: int, microbatches: int) -> Plan:
    return compile_file(name, ranks=ranks, microbatches=microbatches)


# ------------------------------------------------------------------------- what it says


def test_a_bar_tells_its_times_slack_memory_wait_and_line(browser: Browser, tmp_path: Path) -> None:
    """By the words of the other formats, which other tests hold to the plan."""
    for spec in some_specs()[:3]:
        plan = planned(spec)
        page = Shown(browser, plan, tmp_path)
        shown = view(plan, "train")
        bars = [bar for lane in shown.lanes for bar in lane]
        for number in range(0, len(bars), len(bars) // 9):
            bar, said = bars[number], page.hover(number)
            assert said.startswith(show(spec, bar.operation)), said
            assert f"{shown.time_words(bar.start)} to {shown.time_words(bar.end)}," in said
            assert f"made.pipe:{spec.spans[bar.at].line}" in said
            for idle in (one for row in shown.idle for one in row):
                if idle.end == bar.start and show(spec, bar.operation) in (idle.before or ""):
                    assert idle.why.replace("`", "") in said
        assert page.complaints() == []


def test_the_critical_chain_is_that_of_explain(browser: Browser, tmp_path: Path) -> None:
    """The one that the page lights, and the one that one walks back from its end."""
    for spec in some_specs()[:3]:
        plan = planned(spec)
        page = Shown(browser, plan, tmp_path)
        chain = explain(plan.programs["train"]).chain
        names = [show(spec, bar.operation) for lane in view(plan, "train").lanes for bar in lane]
        lit = page.js("plan.chain")
        assert [names[bar] for bar in lit] == [
            link.operation.split(" | ")[0].replace("`", "") for link in chain
        ]
        back = [lit[-1]]
        while (before := page.js(f"plan.bars.after[{back[-1]}]")) >= 0:
            back.append(before)
        assert back[::-1] == lit


def test_one_gets_around_by_keys(browser: Browser, tmp_path: Path) -> None:
    plan = library("zb_h1", 4, 8)
    page = Shown(browser, plan, tmp_path)
    page.browser.click(*page.place(0))
    page.browser.settle()
    assert page.text("#details h2") == "F main[0, 0]"
    page.key(".")
    assert page.text("#details h2") == "F main[0, 1]"
    page.key("f")
    assert page.text("#details h2") == "F main[1, 1]"
    page.key("b")
    assert page.text("#details h2") == "F main[0, 1]"
    page.key("n")
    assert page.text("#details h2") == "rank 0 is idle"
    assert "F main[0, 4] is ready, but the order has I main[0, 0] first" in page.text("#details")
    page.key("b")
    assert page.text("#details h2") == "I main[1, 0]"
    page.key("c")
    assert "critical chain" in page.text("#lit")
    page.key("Escape")
    assert page.text("#lit") == ""


def test_lines_and_operations_find_each_other(browser: Browser, tmp_path: Path) -> None:
    plan = library("zb_h1", 4, 8)
    page = Shown(browser, plan, tmp_path)
    shown = view(plan, "train")
    line = next(span.line for bar in shown.lanes[0] if (span := shown.span(bar)))
    asked = sum(
        span.line == line for lane in shown.lanes for bar in lane if (span := shown.span(bar))
    )
    page.js(f"document.querySelector('#line-0-0-{line} button').click()")
    assert page.text("#lit").startswith(f"line {line}: {asked} operations")
    page.browser.click(*page.place(0))
    page.browser.settle()
    assert page.js("document.querySelector('#source .on').id") == f"line-0-0-{line}"


def test_the_tables_say_what_the_picture_shows(browser: Browser, tmp_path: Path) -> None:
    plan = library("zb_h1", 4, 8)
    page = Shown(browser, plan, tmp_path)
    page.js("(document.querySelector('#tables').open = true)")
    page.browser.settle()
    cells = "[...document.querySelectorAll('#ranks tbody tr')].map((row) => row.innerText)"
    rows = [row.split("\t") for row in page.js(cells)]
    assert [row[0] for row in rows] == [f"rank {rank}" for rank in range(4)]
    assert {row[1] for row in rows} == {"24"}
    page.js("document.querySelector('#ranks tbody button').click()")
    assert page.js("document.querySelectorAll('#operations tbody tr').length") == 24


def test_a_hostile_name_is_only_read(browser: Browser, tmp_path: Path) -> None:
    page = Shown(browser, evil(), tmp_path)
    assert page.js("document.querySelector('h1').textContent") == EVIL
    assert "alert(1)" in page.hover(0)
    page.browser.click(*page.place(0))
    page.browser.settle()
    page.js("(document.querySelector('#tables').open = true)")
    page.browser.settle()
    assert page.js("document.querySelectorAll('img').length") == 0
    assert page.js("document.scripts.length") == 2
    assert page.complaints() == []


def test_what_is_not_ours_does_not_run(browser: Browser, tmp_path: Path) -> None:
    """Were there a way into the page, its policy would stop what comes by it."""
    page = Shown(browser, evil(), tmp_path)
    page.js("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"stretto.in=1\">')")
    page.js(
        "document.body.append(Object.assign(document.createElement('script'), "
        "{ textContent: 'stretto.in = 2' }))"
    )
    page.browser.settle()
    assert page.js("page.in ?? null") is None
    assert len(page.complaints()) >= 2


# ------------------------------------------------------------------------- how much it looks at


def test_a_hover_touches_its_own_bar_and_no_draw_the_whole_plan(
    browser: Browser, tmp_path: Path
) -> None:
    """How many bars are looked at depends on the pixels: four times the micro-batches make no
    more; and what a move shifts is not looked at again."""
    touched = {}
    for many in (80, 320):
        page = Shown(browser, library("zb_h1", 8, many), tmp_path)
        bars = page.js("plan.count")
        everything = page.js("(page.draw(), page.chart.touched)")
        page.js("(page.chart.touched = 0)")
        page.hover(bars // 2)
        assert page.js("page.overlay.touched") == 1 and page.js("page.chart.touched") == 0
        page.js("page.zoom(4, 500)")
        page.browser.settle()
        zoomed = page.js("page.chart.touched")
        page.js("page.move(20, 0)")
        page.browser.settle()
        touched[many] = everything, zoomed, page.js("page.chart.touched"), bars
    for everything, zoomed, moved, bars in touched.values():
        width = page.js("page.viewport.width")
        assert max(everything, zoomed) <= 2 * 8 * (width / 3 + 1)
        assert 0 < moved <= 8 * 2 * (20 / 3 + 4) < bars / 8
    assert touched[320][0] < 1.5 * touched[80][0]


def test_a_moved_picture_is_the_one_that_is_drawn_anew(browser: Browser, tmp_path: Path) -> None:
    """To the last pixel, in both directions, with labels and curves, alone and lit."""
    pixels = """(() => {
      const { width, height } = page.canvases.bars;
      const data = page.chart.pen.getImageData(0, 0, width, height).data;
      let sum = 7;
      for (let i = 0; i < data.length; i++) sum = (sum * 31 + data[i]) | 0;
      return sum;
    })()"""
    for name, zoom, tall, lit in (
        ("dualpipe", 3, 1, False),
        ("zb_h1", 12, 3, True),
        ("zb_h1", 90, 2, False),
        ("zb_h1", 1.7, 2, True),
    ):
        page = Shown(browser, library(name, 8, 32), tmp_path)
        if lit:
            page.key("c")
        page.js(f"(page.zoom({zoom}, 300), page.stretch({tall}, 100))")
        page.browser.settle()
        for dx, dy in ((37, 0), (-11, 0), (200, 40), (-150, -25), (3, 0), (0, 60)):
            page.js(f"page.move({dx}, {dy})")
            page.browser.settle()
            moved = page.js(pixels)
            page.js("page.draw()")
            assert page.js(pixels) == moved, (name, zoom, dx, dy)


def test_all_ranks_are_in_sight_or_in_reach(browser: Browser, tmp_path: Path) -> None:
    page = Shown(browser, library("gpipe", 64, 4), tmp_path)
    assert page.js("page.viewport.shownRows()") == [0, 64]
    page = Shown(browser, library("gpipe", 500, 2), tmp_path)
    first, last = page.js("page.viewport.shownRows()")
    assert first == 0 and last < 500
    for _ in range(8):
        page.key("PageDown")
    assert page.js("page.viewport.shownRows()[1]") == 500
    page.key("0")
    small = page.js(
        "(({ x, y, height }) => [x, y, height])"
        "(document.querySelector('#small').getBoundingClientRect())"
    )
    page.browser.click(small[0] + 5, small[1] + small[2] - 3)
    page.browser.settle()
    assert page.js("page.viewport.top") > 0


def test_a_second_plan_has_its_place_below_the_first(browser: Browser, tmp_path: Path) -> None:
    """On one axis of time, though it counts in other ticks."""
    spec = specs.ordered(specs.linear(2, 3), specs.gpipe)
    finer = planned(msgspec.structs.replace(spec, time_unit=3))
    path = tmp_path / "two.html"
    path.write_text(html.page(view(planned(spec), "train"), view(finer, "train")), "utf-8")
    seen = len(browser.events)
    browser.open(path)
    browser.settle()
    ends = "stretto.plans.map((plan) => stretto.viewport.x(plan.makespan * plan.rate))"
    first, second = browser.evaluate(ends)
    assert first == pytest.approx(3 * second, abs=2)
    tops = browser.evaluate("[0, 1, 2, 3].map((row) => stretto.viewport.rowTop(row))")
    rows = browser.evaluate(
        "[0, 1, 2, 3].map((row) => stretto.viewport.rowAt(stretto.viewport.rowTop(row) + 1))"
    )
    assert tops == sorted(set(tops)) and rows == [0, 1, 2, 3]
    browser.evaluate("document.getElementById('tables').open = true")
    browser.settle()
    many = "['ranks', 'ranks-1'].map((id) => document.getElementById(id).tBodies[0].rows.length)"
    assert browser.evaluate(many) == [2, 2]
    assert browser.evaluate("document.getElementById('figures').textContent").count("makespan") == 2
    assert browser.complaints(seen) == []


def test_what_is_hidden_is_told_in_a_table(browser: Browser, tmp_path: Path) -> None:
    """Of a schedule in parts, as the text says it; other streams are named in the legend, and
    their bars have lines across."""
    plan = compile_file("moe_1f1b", effort=0)
    page = Shown(browser, plan, tmp_path)
    page.js("document.getElementById('tables').open = true")
    browser.settle()
    told = page.js(
        "[...document.querySelectorAll('.hidden-share tr')]"
        ".map((row) => [...row.cells].map((cell) => cell.textContent))"
    )
    names, rows = hidden_table(view(plan, "train"))
    assert told == [names, *map(list, rows)]
    assert "on comm" in page.js("document.getElementById('legend').textContent")
    # Down the middle of the longest bar of a lane: lines on another stream, none on the first.
    lines = """[0, 1].map((stream) => {
      const { viewport, chart, plans: [plan] } = stretto, { start, end } = plan.bars;
      const lane = plan.lanes.findIndex(([, of]) => of === stream);
      const bars = [...Array(plan.first[lane + 1] - plan.first[lane]).keys()]
        .map((i) => i + plan.first[lane]).sort((a, b) => end[b] - start[b] - end[a] + start[a]);
      const x = Math.round(viewport.x((start[bars[0]] + end[bars[0]]) / 2));
      const y = viewport.rowTop(lane), { bars: high } = viewport.heights(), { raster } = chart;
      const column = [...Array(high).keys()].map((i) => raster.pixels[(y + i) * raster.width + x]);
      return column.filter((pixel, i) => i && pixel !== column[i - 1]).length;
    })"""
    first, other = page.js(lines)
    assert other > first
