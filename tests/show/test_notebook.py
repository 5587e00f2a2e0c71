"""What Python has of the command line: its flags as keywords, and a plan that a notebook shows."""

import json
from fractions import Fraction
from html import unescape
from pathlib import Path

import pytest

from stretto.compiler import Rejected, cli, compile_file
from stretto.compiler.order.budget import SearchProgress
from stretto.compiler.show import draw


def test_flags_are_keywords(tmp_path: Path) -> None:
    costs = tmp_path / "measured.pipe"
    costs.write_text("cost F = 3\ncost I = 4\ncost W = 2\n")
    plan = compile_file("zb_h1", ranks=2, microbatches="4", costs=costs)
    stage = plan.programs["train"].spec.pipelines[0].stages[0]
    assert (stage.F, stage.I, stage.W) == (3, 4, 2)
    assert [source.name for source in plan.sources] == ["zb_h1.pipe", "measured.pipe"]
    told: list[SearchProgress] = []
    size = {"ranks": 4, "microbatches": 8}
    found = compile_file("v_half", parameters=size, effort=0, engine="list", progress=told.append)
    assert found.engine == "list"
    assert told
    assert compile_file("dualpipe", forward_only=True).programs.keys() == {"eval"}


def test_a_summary_is_the_object_of_the_command_in_units_of_the_costs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    costs = tmp_path / "measured.pipe"
    costs.write_text("cost F = 1/3\ncost B = 1.5\nactivation = 0.3 GiB\n")
    found = compile_file("gpipe", ranks=2, microbatches=4, costs=costs).summary()
    size = ("--set", "ranks=2", "--set", "microbatches=4")
    assert cli.main(("compile", "gpipe", "--json", "--costs", str(costs), *size)) == 0
    told = json.loads(capsys.readouterr().out)
    assert told.pop("warnings") == []  # those of the file, which a plan does not keep
    assert found == told
    assert Fraction(found["makespan"]) == 5 * (Fraction(1, 3) + Fraction(3, 2))


def test_what_is_seldom_meant_is_a_warning(tmp_path: Path) -> None:
    costs = tmp_path / "measured.pipe"
    costs.write_text("cost F = 17.3\ncost B = 35.1\n")
    with pytest.warns(UserWarning, match=r"measured\.pipe:2: costs are stated") as caught:
        compile_file("zb_h1", ranks=2, microbatches=4, costs=costs)
    assert [one.filename for one in caught] == [__file__]


def test_what_is_wrong_is_told_by_its_path(tmp_path: Path) -> None:
    costs = tmp_path / "measured.pipe"
    costs.write_text("cost F = nothing\n")
    with pytest.raises(Rejected) as raised:
        compile_file("zb_h1", costs=costs)
    assert raised.value.diagnostics[0].labels[0].span.file == str(costs)
    with pytest.raises(LookupError, match="there is no engine `magic`: one of library, list"):
        compile_file("v_half", engine="magic")
    for wrong in ("many", "1/0", None, float("nan")):
        with pytest.raises(ValueError, match="`ranks` is no exact number"):
            compile_file("v_half", ranks=wrong)  # type: ignore[arg-type]
    with pytest.raises(OSError, match="nowhere"):
        compile_file(tmp_path / "nowhere.pipe")
    with pytest.raises(Rejected):
        compile_file("v_half", max_ops=10)


def test_a_notebook_shows_the_page_in_a_frame() -> None:
    plan = compile_file("dualpipe", ranks=4, microbatches=8)
    shown = plan._repr_html_()
    assert shown.startswith('<iframe srcdoc="')
    inner = shown.removeprefix('<iframe srcdoc="').split('" style=')[0]
    assert '"' not in inner
    assert unescape(inner) == draw(plan, "html")
    assert 'sandbox="allow-scripts"' in shown
    assert repr(plan) == f"<Plan dualpipe: 4 ranks, 8 micro-batches, {plan.hash[:12]}>"
