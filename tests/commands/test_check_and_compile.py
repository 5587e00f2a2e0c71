"""`stretto check`, `compile` and `show`: the JSON that is a contract, files whole or not at all."""

import json
import re
from fractions import Fraction
from pathlib import Path

import pytest

from stretto.compiler.certificate.write import EVIDENCE
from stretto.compiler.order import Order
from stretto.compiler.order.arrange import arrange as real_arrange
from stretto.compiler.order.budget import Budget
from stretto.compiler.problem.figures import figure
from stretto.compiler.problem.problem import Problem
from tests.support.command_line import GOOD, WRONG, Run
from tests.support.paths import ROOT


def documented(section: str) -> set[str]:
    """The keys that `docs/json.md` gives for the output of a command."""
    text = (ROOT / "docs/json.md").read_text()
    part = re.search(rf"## `stretto {section}.*?\n(.*?)(?=\n## |\Z)", text, re.DOTALL)
    assert part
    rows = re.findall(r"^\| (`.*?`) \|", part[1], re.MULTILINE)
    keys = re.findall(r"`(\w+)`", " ".join(rows) or part[1])
    return set(keys) - {"error", "warning", "B", "F", "I", "W"}


def test_check_says_what_was_proved(stretto: Run) -> None:
    _, out, err = stretto("check", "dualpipe", "--assumptions")
    assert err == ""
    for words in ("proved", "makespan 66", "exactly once", "no deadlock", "peak 9 activations"):
        assert words in out
    assert "arrive in the order in which they were sent" in out


def test_check_finds_the_same_in_every_format(stretto: Run) -> None:
    _, out, full = stretto("check", "wrong.pipe")
    assert out == ""
    assert "--> wrong.pipe:7:" in full
    assert "did you mean `microbatches`?" in full
    _, out, err = stretto("check", "wrong.pipe", "--format", "json")
    assert err == ""
    (one,) = json.loads(out)
    assert set(one) == documented("check")
    line = WRONG.splitlines()[one["line"] - 1]
    assert line[one["column"] - 1 : one["end_column"] - 1] == "microbatchs"
    _, out, _ = stretto("check", "wrong.pipe", "--format", "concise")
    assert out.startswith(f"wrong.pipe:{one['line']}:{one['column']}: ")
    assert one["message"] in out
    _, out, _ = stretto("check", "wrong.pipe", "--format", "github")
    assert re.match(r"::error .*file=wrong\.pipe,line=7,", out)
    assert stretto("check", "good.pipe", "--format", "json")[:2] == (0, "[]\n")


def test_diagnostics_name_the_path_and_plans_the_last_name(stretto: Run, folder: Path) -> None:
    (folder / "deep").mkdir()
    for name in ("wrong.pipe", "good.pipe"):
        (folder / "deep" / name).write_text((folder / name).read_text())
    assert "--> deep/wrong.pipe:7:" in stretto("check", "deep/wrong.pipe")[2]
    stretto("compile", "good.pipe", "-o", "a")
    stretto("compile", str(folder / "deep/good.pipe"), "-o", "b")
    assert (folder / "a").read_bytes() == (folder / "b").read_bytes()


def test_a_packed_plan_is_known_by_its_content(stretto: Run, folder: Path) -> None:
    stretto("compile", "good.pipe", "-o", "a.plan.gz")
    (folder / "a.plan.gz").rename(folder / "b.plan")
    assert stretto("check", "b.plan")[1].startswith("b.plan: proved")


def test_the_summary_is_what_the_document_says(stretto: Run) -> None:
    _, out, _ = stretto("compile", "dualpipe", "--json")
    summary = json.loads(out)
    assert set(summary) == documented("compile --json")
    expected = {
        "schedule": "dualpipe",
        "ranks": 8,
        "microbatches": 20,
        "operations": 364,
        "makespan": 66,
        "span": 66,
        "optimal": False,
        "peak_activations": [9] * 8,
        "weight_copies": 2,
        "engine": "written",
    }
    assert {key: summary[key] for key in expected} == expected
    assert summary["bubble"] == pytest.approx(6 / 66)
    assert summary["gap"] == pytest.approx(66 / summary["lower_bound"] - 1)


def test_values_are_exact(stretto: Run, folder: Path) -> None:
    (folder / "thirds.pipe").write_text(GOOD + "param c = 1\ncost F = c\ncost B = 1/3\n")
    _, out, err = stretto("compile", "thirds.pipe", "--json", "--set", "c=0.1")
    # two ranks, two micro-batches: F F on both, one after the other, then B B
    assert json.loads(out)["makespan"] == "13/10", err
    _, out, _ = stretto("compile", "thirds.pipe", "--json", "--set", "c=1/7", "--set", "c=2/3")
    assert json.loads(out)["makespan"] == 3


def test_a_plan_is_written_whole_or_not_at_all(stretto: Run, folder: Path) -> None:
    before = set(folder.iterdir())
    assert stretto("compile", "wrong.pipe", "-o", "plan")[0] == 1
    assert (folder / "plan").read_text() == "an older plan"
    assert set(folder.iterdir()) == before
    _, out, err = stretto("compile", "good.pipe", "-o", "plan")
    assert "makespan" in out
    assert err == "wrote plan\n"
    assert set(folder.iterdir()) == before
    assert json.loads((folder / "plan").read_text().splitlines()[0])["format"] == "stretto-plan"


@pytest.mark.parametrize("name", ["dualpipe.json", "dualpipe.json.gz"])
def test_plans_are_read_like_schedules(stretto: Run, name: str) -> None:
    _, summary, _ = stretto("compile", "dualpipe", "-o", name, "--json", "--set", "ranks=4")
    assert json.loads(summary)["hash"]
    code, out, _ = stretto("check", name)
    assert code == 0
    assert out.startswith(f"{name}: proved")
    for format in ("text", "json", "svg", "html", "trace", "dot"):
        shown = stretto("show", name, "--format", format)[1]
        assert shown
        assert shown == stretto("show", "dualpipe", "--format", format, "--set", "ranks=4")[1]


def test_forwards_alone(stretto: Run) -> None:
    _, out, _ = stretto("compile", "gpipe", "--forward-only", "--json", "-o", "f")
    summary = json.loads(out)
    assert summary["operations"] == 4 * 8
    assert summary["makespan"] == 4 + 8 - 1
    assert summary["optimal"]
    assert "B main" not in stretto("show", "f", "--format", "json")[1]


def test_a_picture_of_unknown_suffix_is_refused(stretto: Run, folder: Path) -> None:
    _, _, err = stretto("show", "good.pipe", "-o", "x.png")
    for words in ("x.png", "--format", ".svg (svg)", ".trace.json (trace)", ".csv (torch-csv)"):
        assert words in err
    assert not (folder / "x.png").exists()
    for words in ("x.png --format svg", "x", ".x"):
        assert stretto("show", "good.pipe", "-o", *words.split())[0] == 0
    assert (folder / "x.png").read_text().startswith("<svg")


def test_rounded_costs_are_told_with_file_and_line(stretto: Run, folder: Path) -> None:
    figures = ("18522.083749271637", "9261.0418746358", "1.2e-05", "27783.12562390745")
    lines = [f"cost F[{s}] = {x}" for s, x in enumerate(figures)]
    (folder / "measured.pipe").write_text("# of a profiler\n" + "\n".join(lines) + "\n")
    chosen = ("--costs", "measured.pipe", "--set", "ranks=4", "--set", "microbatches=1e1")
    code, _, err = stretto("compile", "one_f_one_b", *chosen, "-o", "rounded.plan")
    assert code == 0
    assert err.count("rounded") == 2  # the note, and the name of the plan
    assert "measured.pipe:2: times are rounded to multiples of 2^-26" in err
    assert stretto("check", "rounded.plan")[2] == ""
    assert stretto("list", *chosen)[2].count("rounded") == 1
    assert "rounded" not in stretto("compile", "one_f_one_b", "--set", "ranks=4")[2]


def test_json_has_the_warnings_that_people_read(stretto: Run, folder: Path) -> None:
    """All of them, with code, file and line, wherever an object is printed."""
    (folder / "measured.pipe").write_text(
        "cost F = 17.3\ncost B = 18522.083749271637\ncost W = 1.2345678e-5\nactivation[1] = 2\n"
    )
    asked = ("--costs", "measured.pipe", "--set", "ranks=2", "--set", "microbatches=2")
    said = stretto("check", "zb_h1", *asked)[2].splitlines()
    lines = {tuple(line.split(": ")[0].split(":")) for line in said}
    assert lines == {("measured.pipe", str(line)) for line in (2, 3, 4)} and len(said) == 3

    code, out, err = stretto("check", "zb_h1", *asked, "--format", "json")
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert {one["severity"] for one in found} == {"warning"}
    assert {(one["file"], str(one["line"])) for one in found} == lines
    assert [one["code"] for one in found] == ["unstated-cost", "unstated-activation", "rounded"]
    assert [f"{one['file']}:{one['line']}: {one['message']}" for one in found] == said
    for words in (("compile", "zb_h1", "--json"), ("explain", "zb_h1", "--json")):
        assert json.loads(stretto(*words, *asked)[1])["warnings"] == found
    rows = {row["schedule"]: row for row in json.loads(stretto("list", *asked, "--json")[1])}
    assert rows["zb_h1"]["warnings"] == found
    assert all("warnings" in row for row in rows.values() if "refused" not in row)
    concise = stretto("check", "zb_h1", *asked, "--format", "concise")[1]
    assert concise.count("warning[") == 3


def test_a_certificate_shows_sizes_and_times_as_people_read_them(
    stretto: Run, folder: Path
) -> None:
    """In the unit of the file, decimals of six figures; JSON stays exact."""
    (folder / "sized.pipe").write_text(
        "schedule sized\nranks 3\nmicrobatches 6\npipeline main {}\nsplit B into I, W\n"
        "cost F = 1/3\ncost I = 2/7\ncost W = 5/11\nactivation = 3 GiB / 2\n"
        "limit activations <= 4 GiB\n"
    )
    asked = ("--effort", "0", "-o", "sized.plan", "--certificate", "sized.json")
    assert stretto("compile", "sized.pipe", *asked)[0] == 0
    code, out, _ = stretto("certify", "sized.json", "--plan", "sized.plan")
    assert code == 0
    assert "3 GiB at most on a rank" in out
    plan = (folder / "sized.plan").read_text().splitlines()[0]
    reason = json.loads(plan)["bound"]["reason"]
    assert "/" not in out.replace("sized", "") and "/" not in reason and "." in reason
    certificate = json.loads((folder / "sized.json").read_text())
    (folder / "forged.json").write_text(json.dumps({**certificate, "sizes_in": "KiB"}))
    code, _, err = stretto("certify", "forged.json", "--plan", "sized.plan")
    assert code == 1 and "another unit" in err


def test_what_is_not_optimal_is_never_zero_percent_away(stretto: Run, folder: Path) -> None:
    """A bound that is nearly met is told as such, and not as met."""
    (folder / "near.pipe").write_text(
        "cost F[0] = 1000 cost F[1] = 1000 cost B = 2000\ntransfer 1\n"
    )
    sizes = ("--set", "ranks=2", "--set", "microbatches=4", "--costs", "near.pipe")
    _, out, _ = stretto("check", "one_f_one_b", *sizes)
    assert "less than 0.1 % from optimal" in out and " 0.0 %" not in out
    _, out, _ = stretto("compile", "one_f_one_b", *sizes)
    assert "less than 0.1 % from optimal" in out


def test_the_search_leaves_time_for_the_certificate(
    stretto: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many seconds as the certificate of so many operations takes, about."""
    ends = []

    def arrange(problem: Problem, budget: Budget) -> Order:
        assert budget.until is not None
        ends.append(budget.until - budget.clock())
        return real_arrange(problem, Budget(effort=0))

    monkeypatch.setattr("stretto.compiler.driver.arrange", arrange)
    asked = ("compile", "v_half", "--no-cache", "--time-limit", "1000")
    for more in ((), ("--certificate", "c.json")):
        assert stretto(*asked, *more)[0] == 0
    alone, certified = ends
    operations = 8 * 2 * 16 * 3
    assert alone - certified >= operations * EVIDENCE


def test_claims_are_rounded_to_where_they_stay_true(stretto: Run) -> None:
    """A gap of 13.73 % is not at most 13.7 %, whoever says so."""
    sizes = ("--set", "ranks=4", "--set", "microbatches=8")
    summary = json.loads(stretto("compile", "two_models", *sizes, "--json")[1])
    gap = Fraction(summary["makespan"]) / Fraction(summary["lower_bound"]) - 1
    assert Fraction(f"{100 * float(gap):.1f}") / 100 < gap  # to the nearest tenth it is less
    listed = stretto("list", *sizes)[1]
    for words in ("compile two_models", "check two_models", "show two_models --format svg"):
        said = re.search(r"at most (\d+\.\d) % from optimal", stretto(*words.split(), *sizes)[1])
        assert said
        assert 0 <= Fraction(said[1]) / 100 - gap < Fraction(1, 1000)
        assert f"{said[1]} %" in listed


@pytest.mark.parametrize("value", [Fraction(2, 3), Fraction(10**8, 7), Fraction(1, 3 * 10**9)])
def test_figures_know_their_side(value: Fraction) -> None:
    down, near, up = (Fraction(figure(value, to)) for to in ("down", "nearest", "up"))
    assert down < value < up
    assert near in (down, up) and abs(near - value) == min(value - down, up - value)
    assert (up - down) / value <= Fraction(1, 10**5)
