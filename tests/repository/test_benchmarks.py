"""What the tables of found orders rest on: more memory never hurts, small curves end at optima that
others have proved, a document keeps what was not measured."""

import json
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import document
import limits
import panels
import pytest

from tests.support.paths import ROOT

OPTIMA = json.loads((ROOT / "tests/data/proven_optima_small.json").read_text())


@pytest.mark.parametrize(
    ("place", "costs"),
    [("linear", (10, 10, 10, 1)), ("linear", (10, 10, 10, 2)), ("v", (1, 1, 1, 0))],
)
def test_a_curve_falls_as_the_optima_that_others_have_proved(
    place: str, costs: tuple[int, int, int, int]
) -> None:
    """Optima lie between bounds and found orders, and are the latter where a rank has one stage;
    and more memory never hurts."""
    case = limits.Case("small", 2 if place == "v" else 1, costs, 4, 8)
    known = {
        row["cap"]: row["obj"]
        for row in OPTIMA
        if (row["placement"], row["P"], row["M"], row["split"]) == (place, 4, 8, True)
        and (row["tF"], row["tB"], row["tW"], row["comm"]) == costs
        and row["metric"] == "makespan"
    }
    assert len(known) == 3
    points = limits.proven(list(limits.curve(case, known, 10 if place == "linear" else 1)))
    assert len(points) == 3
    for one in points:
        assert one.bound <= known[one.limit] <= one.found <= (one.published or one.found)
        assert place == "v" or one.found == known[one.limit]
    for smaller, larger in pairwise(points):
        assert smaller.found >= larger.found
        assert smaller.bound >= larger.bound


def test_a_search_begins_with_the_order_of_the_smaller_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Engines that find nothing leave what was found before: without it there is no order."""
    from stretto.compiler.order import search

    case = limits.Case("small", 2, (10, 16, 6, 1), 3, 6)
    real, calls = search.run_engines, []

    def only_once(hunt: object) -> None:
        calls.append(hunt)
        if len(calls) == 1:
            real(hunt)  # type: ignore[arg-type]

    monkeypatch.setattr(search, "run_engines", only_once)
    monkeypatch.setattr(limits, "library", lambda problem: None)
    first, second = limits.curve(case, (3, 4), 1)
    assert len(calls) == 2
    assert (second.found, second.engine) == (first.found, first.engine)


def test_nothing_of_a_sweep_stays_in_the_users_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    next(limits.curve(limits.Case("small", 1, (1, 1, 1, 0), 2, 3), (2,), 1))
    assert not list(tmp_path.rglob("*.json"))


def test_a_picture_has_a_curve_and_its_marks_in_every_panel() -> None:
    marks = [
        panels.Mark(1, None, 0.8, 0.8, True),
        panels.Mark(2, 0.5, 0.4, 0.3, False),
        panels.Mark(4, 0.2, 0.2, 0.2, True),
    ]
    svg = ElementTree.fromstring(panels.picture([panels.Panel("a < b", marks)] * 3))
    drawn = svg.findall("{*}g")
    assert len(drawn) == 3
    for panel in drawn:
        classes = [one.get("class") for one in panel]
        assert classes.count("line found") == classes.count("line published") == 1
        assert classes.count("open") == 1 + 1  # and in the key
        assert classes.count("optimal") == 2 + 1


def test_picture_and_tables_are_of_the_results_that_are_kept() -> None:
    """And the sentence of the front page."""
    for path, text in limits.made():
        assert path.read_text("utf-8") == text, path


def test_only_what_stands_between_the_marks_is_written(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n\n<!-- x -->\n<!-- end of x -->\n\n<!-- y -->\nold\n<!-- end of y -->\nz\n")
    document.write(page, "y", ["new"])
    document.write(page, "y", ["newer", "line"])
    assert page.read_text() == (
        "a\n\n<!-- x -->\n<!-- end of x -->\n\n<!-- y -->\n\nnewer\nline\n\n<!-- end of y -->\nz\n"
    )
    with pytest.raises(ValueError, match="no place for 'w'"):
        document.write(page, "w", ["lost"])
