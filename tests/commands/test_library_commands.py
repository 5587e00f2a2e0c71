"""`stretto list`, `new` and `explain` with a code."""

import json
import re
from fractions import Fraction
from pathlib import Path

import pytest

from stretto.compiler import library
from tests.support.command_line import Run


def test_list_has_the_whole_library_with_the_figures_of_compile(stretto: Run) -> None:
    size = ("--set", "ranks=4", "--set", "microbatches=8")
    rows = json.loads(stretto("list", "--json", *size)[1])
    assert sorted(row["schedule"] for row in rows) == library.names()
    assert all(row["gap"] >= 0 for row in rows if "gap" in row)
    row = next(row for row in rows if row["schedule"] == "zb_h1")
    alone = json.loads(stretto("compile", "zb_h1", "--json", *size)[1])
    assert {key: row[key] for key in alone} == alone


def test_list_says_why_a_size_does_not_fit(stretto: Run) -> None:
    out = stretto("list", "--set", "ranks=3", "--set", "microbatches=8")[1]
    table, *reasons = re.split(r"\n\n(?=\w+: )", out)
    assert "one_f_one_b" in table
    assert "dualpipe " not in table
    assert any(r.startswith("dualpipe: ") and "meet between two ranks" in r for r in reasons)


def test_list_says_once_what_fits_no_schedule(stretto: Run) -> None:
    for flags in ((), ("--json",)):
        code, out, err = stretto("list", "--set", "foo=1", *flags)
        assert (code, out) == (1, "")
        assert err.count("foo") == 1
        assert "no schedule of the library fits" in err


@pytest.mark.parametrize("origin", [None, *library.names()])
def test_a_new_file_can_be_compiled(stretto: Run, folder: Path, origin: str | None) -> None:
    words = ("--from", origin) if origin else ()
    code, _, err = stretto("new", "mine", *words)
    assert code == 0
    assert "mine.pipe" in err
    text = (folder / "mine.pipe").read_text()
    assert re.search(r"(?m)^schedule mine\b", text)
    assert stretto("check", "mine.pipe")[0] == 0
    assert stretto("new", "mine")[0] == 2
    assert (folder / "mine.pipe").read_text() == text


def test_the_readme_shows_the_file_that_its_command_writes(stretto: Run, folder: Path) -> None:
    code, out, _ = stretto("new", "mine")
    assert (code, out) == (0, (folder / "mine.pipe").read_text())
    bare = [line for line in (re.sub(r"\s*#.*", "", line) for line in out.splitlines()) if line]
    shown = (Path(__file__).parents[2] / "README.md").read_text()
    assert "```pipe\n" + "\n".join(bare) + "\n```" in shown


def test_list_compares_whole_stages_at_one_size(
    stretto: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    rows = {row["schedule"]: row for row in json.loads(stretto("list", "--json")[1])}
    assert {(row["ranks"], row["microbatches"]) for row in rows.values()} == {(8, 16)}
    out = stretto("list")[1]
    lines = {line.split()[0]: line.split() for line in out.splitlines() if line.strip()}
    # One copy of a model in 16 stages on 8 ranks: half a whole stage each.
    assert lines["zb_v"][1:4] == [
        "2",
        f"{rows['zb_v']['makespan'] / 2:g}",
        f"{rows['zb_v']['lower_bound'] / 2:g}",
    ]
    assert lines["one_f_one_b"][1:3] == ["1", str(rows["one_f_one_b"]["makespan"])]
    assert "(span)" in " ".join(lines["zb_h2"])  # 55 is not the least makespan


def test_every_code_is_explained(stretto: Run) -> None:
    from stretto.compiler.diagnostics.codes import CODES

    for code in CODES:
        found, out, _ = stretto("explain", code)
        assert found == 0
        assert code in out
    assert stretto("explain", "error[unknown-name]:")[0] == 0


def test_explain_knows_streams(stretto: Run) -> None:
    code, out, err = stretto("explain", "moe_1f1b")
    assert (code, err) == (0, "")
    assert "needs `F.dispatch main[0, 0, layer 0]` on comm" in out
    assert "what easing a demand would gain is not worked out" in out
    assert "nor what moving work or parts" in " ".join(out.split())
    asked = ("compile", "moe_1f1b", "--whole", "-o", "whole.plan")
    assert stretto(*asked)[0] == 0
    assert "not worked out" not in stretto("explain", "whole.plan", "--effort", "0")[1]
    code, out, _ = stretto("explain", "moe_1f1b", "--json")
    found = json.loads(out)
    assert code == 0 and found["relaxed"] == []
    assert [set(rank) for rank in found["idle"]] == [{"compute", "comm"}] * 4
    assert {one["stream"] for one in found["chain"]} == {"compute", "comm"}


def test_a_doubt_is_told_once_in_a_command_with_its_place(stretto: Run, folder: Path) -> None:
    (folder / "measured.pipe").write_text("cost F = 17.3\ncost B = 35.1\n")
    code, _, said = stretto("list", "--costs", "measured.pipe", "--json")
    assert code == 0
    assert [line.split(": ")[0] for line in said.splitlines()] == ["measured.pipe:2"]
    assert "`I` and `W`, which take 1" in said
    assert stretto("compile", "gpipe", "--costs", "measured.pipe", "--json")[2] == ""


def test_list_sets_apart_what_costs_what_nobody_stated(
    stretto: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1F1B's backward costs 20 by the file, and ZB-H1's halves 1 each: no row beside the other."""
    monkeypatch.setenv("COLUMNS", "300")
    costs = folder / "measured.pipe"
    costs.write_text("cost F = 10\ncost B = 20\n")
    words = ("list", "--set", "ranks=4", "--set", "microbatches=8", "--costs", "measured.pipe")
    above, below = stretto(*words)[1].split("Not to be compared with the other rows: ")
    assert "one_f_one_b" in above and "zb_h1" not in above
    assert "zb_h1" in below and "gpipe" not in below.split("stages: that")[0]
    assert "`I` and `W`, which take 1" in " ".join(below.split())
    rows = {row["schedule"]: row for row in json.loads(stretto(*words, "--json")[1])}
    assert "`I` and `W`" in rows["zb_h1"]["not_comparable"][0]
    assert rows["one_f_one_b"]["not_comparable"] == []
    names = list(rows)
    assert names.index("gems") < names.index("zb_h1")  # the worst of those that can be compared
    costs.write_text("cost F = 10\ncost I = 10\ncost W = 10\n")
    assert "Not to be compared" not in stretto(*words)[1]


def test_the_data_of_list_are_those_of_its_table(stretto: Run) -> None:
    """A V has two stages on a rank, each half as much of the model."""
    words = ("list", "--set", "ranks=4", "--set", "microbatches=16")
    table = {line.split()[0]: line.split() for line in stretto(*words)[1].splitlines() if line}
    rows = {row["schedule"]: row for row in json.loads(stretto(*words, "--json")[1])}
    for name in ("one_f_one_b", "zb_v", "interleaved_1f1b", "dualpipe"):
        row, shown = rows[name], table[name]
        whole = row["whole_stages"]
        assert float(shown[1]) == Fraction(row["stages"])
        assert float(shown[2]) == Fraction(whole["makespan"])
        assert Fraction(whole["makespan"]) * Fraction(row["stages"]) == Fraction(row["makespan"])
        assert Fraction(whole["memory"]) * Fraction(row["stages"]) == max(row["peak_activations"])
    assert (rows["zb_v"]["stages"], rows["one_f_one_b"]["stages"]) == (2, 1)
    assert rows["deepseek_v3"]["not_comparable"]


def test_what_is_optimal_under_jitter_is_so_without(stretto: Run, folder: Path) -> None:
    (folder / "mine.pipe").write_text(
        "schedule mine\nranks 2\nmicrobatches 4\npipeline main { stages 2 place s -> s }\n"
        "minimize makespan under jitter 1/5\n"
    )
    code, out, _ = stretto("compile", "mine.pipe", "--effort", "1")
    assert code == 0 and "(optimal without jitter)" in out
    found = json.loads(stretto("compile", "mine.pipe", "--effort", "1", "--json")[1])
    assert found["jitter"] == 0.2 and found["optimal"]


def test_list_tells_sizes_as_they_are_stated_and_what_it_divides(
    stretto: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    costs = folder / "measured.pipe"
    words = ("list", "--set", "ranks=4", "--set", "microbatches=8", "--costs", "measured.pipe")

    def memory(out: str, name: str) -> str:
        head, row = (
            next(line for line in out.splitlines() if line.startswith(word))
            for word in ("schedule", name)
        )
        at = head.index("memory") + len("memory")
        return row[:at].split("  ")[-1].strip()

    costs.write_text("activation = 0.25 GiB\n")
    out = stretto(*words)[1]
    assert (memory(out, "gpipe"), memory(out, "zb_v")) == ("2 GiB", "1 GiB")
    assert "Not to be compared with the other rows" not in out
    costs.write_text("cost F = 10\ncost I = 10\ncost W = 10\ncost F[0] = 14.2\ntransfer 1\n")
    out = " ".join(stretto(*words)[1].split())
    told = out.split("Not to be compared with the other rows: ")[1]
    assert "zb_v" in told.split(".")[0] and "gpipe" not in told.split(".")[0]
    assert "so is what single stages cost" in told and "and every transfer" in told
