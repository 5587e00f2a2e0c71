"""What nobody stated stands beside the figures that rest on it: in every command, in a plan that
was written and read again, and in its summary."""

import json
from pathlib import Path

import pytest

from stretto.compiler import compile_file
from stretto.compiler.show.summary import of_plan
from tests.support.command_line import Run

SIZE = ("--set", "ranks=4", "--set", "microbatches=8")


@pytest.fixture(autouse=True)
def costs(folder: Path) -> Path:
    """The forward and the backward in one piece, as a profile gives them."""
    found = folder / "measured.pipe"
    found.write_text("cost F = 10\ncost B = 20\n")
    return found


def test_it_is_where_the_figure_is(stretto: Run) -> None:
    """On stdout, beside the makespan, and not on stderr alone, which a pipe leaves behind."""
    given = ("zb_h1", *SIZE, "--costs", "measured.pipe")
    for command in ("check", "compile", "explain"):
        out = " ".join(stretto(command, *given)[1].split())
        assert "nothing is said of `I` and `W`, which take 1" in out, command
    assert "partly assumed" in " ".join(stretto("show", *given)[1].split())
    assert "partly assumed" in stretto("show", *given, "--format", "svg")[1]
    for command in ("compile", "explain"):
        assert "`I` and `W`" in json.loads(stretto(command, *given, "--json")[1])["assumed"][0]


def test_a_plan_that_is_read_says_it_again(stretto: Run) -> None:
    given = (*SIZE, "--costs", "measured.pipe")
    assert stretto("compile", "zb_h1", *given, "-o", "a.plan")[0] == 0
    assert stretto("compile", "one_f_one_b", *given, "-o", "b.plan")[0] == 0
    assert "assumed: costs are stated" in stretto("check", "a.plan")[1]
    assert "assumed" not in stretto("check", "b.plan")[1]


def test_python_has_it_beside_the_makespan(costs: Path) -> None:
    with pytest.warns(UserWarning, match="nothing is said of `I` and `W`"):
        plan = compile_file("zb_h1", ranks=4, microbatches=8, costs=costs)
    (words,) = plan.summary()["assumed"]
    assert "`I` and `W`, which take 1" in words
    costs.write_text("cost F = 10\ncost I = 10\ncost W = 10\n")
    assert compile_file("zb_h1", ranks=4, microbatches=8, costs=costs).summary()["assumed"] == []


def test_halves_of_what_was_stated_are_offered(stretto: Run, costs: Path) -> None:
    """What is offered, typed as it stands, gives ZB-H1's own figure: (m + p - 1)(F + I + W) less
    the (p - 1)W that run in the drain, for F = I = W."""
    out = stretto("compile", "zb_h1", *SIZE, "--costs", "measured.pipe", "--json")[1]
    offered = json.loads(out)["assumed"][0].rpartition("would be `")[2].removesuffix("`")
    costs.write_text(f"{costs.read_text()}{offered}\n")
    plan = compile_file("zb_h1", ranks=4, microbatches=8, costs=costs)
    assert plan.summary()["assumed"] == []
    assert of_plan(plan).makespan == 8 * 30 + 3 * 10


def test_parts_that_nobody_stated_are_set_apart_among_parts(stretto: Run, costs: Path) -> None:
    costs.write_text("cost F.attention = 10\ncost F.mlp = 10\n")
    rows = json.loads(stretto("list", *SIZE, "--costs", "measured.pipe", "--json")[1])
    cut = {row["schedule"]: row for row in rows if row.get("streams")}
    assert cut
    for row in cut.values():
        assert any("what the schedule itself says" in words for words in row["not_comparable"])
    out = stretto("list", *SIZE, "--costs", "measured.pipe")[1]
    assert "5 more cost what the schedule itself says" in " ".join(out.split())


def test_costs_of_all_that_runs_leave_none_of_the_schedules_own(stretto: Run, costs: Path) -> None:
    """A B that the orders do not have may cost what it will."""
    text = "schedule x\nranks 2\nmicrobatches 4\npipeline main {}\nsplit B into I, W\n"
    text += "cost F = 1\ncost B = 9\ncost I = 1\ncost W = 1\n"
    (costs.parent / "x.pipe").write_text(text)
    costs.write_text("cost F = 10\ncost I = 10\ncost W = 10\n")
    given = ("x.pipe", "--effort", "0", "--costs", "measured.pipe", "--json")
    assert json.loads(stretto("compile", *given)[1])["assumed"] == []
    costs.write_text("cost F = 10\ncost I = 10\n")
    (words,) = json.loads(stretto("compile", *given)[1])["assumed"]
    assert words.startswith("`W` costs what the schedule itself says")
