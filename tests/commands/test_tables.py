"""`stretto check --from` and `stretto import`."""

import json
from fractions import Fraction
from pathlib import Path

import pytest

from stretto.compiler.commands.tables import better
from stretto.compiler.driver import compile_text, plan_of
from stretto.compiler.order.budget import Budget
from tests.support.command_line import Run

ZB_H1 = """0F0,0F1,0B0,0B1
1F0,1I0,1W0,1F1,1B1
"""


def test_check_reads_a_table(stretto: Run, folder: Path) -> None:
    (folder / "t.csv").write_text(ZB_H1)
    code, out, err = stretto("check", "--from", "torch-csv", "t.csv")
    assert (code, err) == (0, "")
    assert "t.csv: proved, 2 ranks, 2 micro-batches" in out
    assert stretto("check", "--from", "torch-csv", "t.csv", "--format", "json")[1] == "[]\n"


def test_messages_that_are_not_read_are_told(stretto: Run, folder: Path) -> None:
    (folder / "t.csv").write_text(
        "0F0,0SEND_FORWARD0,0F1,0RECV_BACKWARD0,0BW0,0BW1\n1RECV_FORWARD0,1F0,1BW0,1F1,1BW1\n"
    )
    for words in (("check",), ("import", "-o", "x.pipe")):
        code, _, err = stretto(*words, "--from", "zero-bubble", "t.csv")
        told = "t.csv:1: 3 cells of messages or offloading passed over"
        assert code == 0 and [line.startswith(told) for line in err.splitlines()][:1] == [True]
    _, out, _ = stretto("check", "--from", "zero-bubble", "t.csv", "--format", "json")
    (one,) = json.loads(out)
    assert (one["code"], one["line"], one["column"]) == ("passed-over", 1, 5)
    (folder / "t.csv").write_text("(F|0|0),(SF|0|0|1),(BW|0|0)\n(F|0|0),(BW|0|0)\n")
    assert "t.csv:1: 1 cell of" in stretto("check", "--from", "primus", "t.csv")[2]


def test_check_points_at_the_cell(stretto: Run, folder: Path) -> None:
    (folder / "t.csv").write_text(ZB_H1.replace("0F1", "0F0"))
    code, _, err = stretto("check", "--from", "torch-csv", "t.csv")
    assert code == 1
    assert "--> t.csv:1:5" in err and "`F main[0, 0]` runs a second time" in err
    _, out, _ = stretto("check", "--from", "torch-csv", "t.csv", "--format", "json")
    places = {(one["code"], one["line"], one["column"]) for one in json.loads(out)}
    assert ("runs-twice", 1, 5) in places
    _, out, _ = stretto("check", "--from", "torch-csv", "t.csv", "--format", "github")
    assert "::error title=stretto (runs-twice),file=t.csv,line=1,endLine=1,col=5,endColumn=7" in out


def test_a_circle_is_drawn_in_the_tables_words(stretto: Run, folder: Path) -> None:
    (folder / "t.csv").write_text("0F0,0B0,0F1,0B1\n1F0,1F1,1B0,1B1\n")
    code, _, err = stretto("check", "--from", "torch-csv", "t.csv")
    assert code == 1 and "error[deadlock]" in err and "--> t.csv:1:5" in err


def test_import_writes_a_schedule(stretto: Run, folder: Path) -> None:
    (folder / "my table.csv").write_text(ZB_H1)
    code, out, err = stretto("import", "--from", "torch-csv", "my table.csv", "-o", "x.pipe")
    assert (code, out) == (0, "") and "wrote x.pipe" in err
    assert "schedule my_table\n" in (folder / "x.pipe").read_text()
    assert stretto("check", "x.pipe")[0] == 0
    code, out, _ = stretto("import", "--from", "torch-csv", "my table.csv")
    assert (code, out) == (0, (folder / "x.pipe").read_text())


def test_a_better_order_is_told_and_written(stretto: Run, folder: Path) -> None:
    """All forwards, then all backwards: with whole backwards there is nothing shorter."""
    (folder / "t.csv").write_text(
        "0F0,0F1,0F2,0F3,0B0,0B1,0B2,0B3\n1F0,1F1,1F2,1F3,1B0,1B1,1B2,1B3\n"
    )
    command = ("check", "--from", "torch-csv", "t.csv", "--effort", "50")
    code, out, _ = stretto(*command)
    assert code == 0 and "the same placement and memory: no shorter order" in out
    (folder / "costs.pipe").write_text("cost F = 10 cost B = 22")
    code, out, _ = stretto("check", "--from", "torch-csv", "t.csv", "--costs", "costs.pipe")
    assert code == 0 and "makespan 160" in out
    code, _, _ = stretto("import", "--from", "torch-csv", "t.csv", "--reorder", "-o", "x.pipe")
    text = (folder / "x.pipe").read_text()
    assert code == 0 and "limit activations <= 4" in text and "order rank" not in text
    assert stretto("check", "x.pipe", "--effort", "50")[0] == 0
    assert stretto("check", "--from", "torch-csv", "t.csv", "--set", "ranks=3")[0] == 2


def test_sarif(stretto: Run, folder: Path) -> None:
    (folder / "t.csv").write_text(ZB_H1.replace("0F1", "0F0"))
    code, out, err = stretto("check", "--from", "torch-csv", "t.csv", "--format", "sarif")
    assert (code, err) == (1, "")
    (run,) = json.loads(out)["runs"]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert {rules[one["ruleIndex"]] for one in run["results"]} == set(rules)
    places = [one["locations"][0]["physicalLocation"] for one in run["results"]]
    first = {"startLine": 1, "startColumn": 5, "endLine": 1, "endColumn": 8}
    assert {"artifactLocation": {"uri": "t.csv"}, "region": first} in places
    (folder / "t.csv").write_text(ZB_H1)
    _, out, _ = stretto("check", "--from", "torch-csv", "t.csv", "--format", "sarif")
    assert json.loads(out)["runs"][0]["results"] == []


TABLES = {
    "right": ZB_H1,
    "twice": ZB_H1.replace("0F1", "0F0"),
    "several labels": "0F0,0F1,0B0,0B1\n1F1,1B1,1F0,1B0\n".replace("1B1,1F0", "1B0,1F0"),
    "no label": "0F0\n",
    "words of every kind": "0F0,\u00e9\u4e00\U0001f600,\x1b[31m,<b>\n",
}


@pytest.mark.parametrize("name", TABLES)
def test_sarif_has_what_the_standard_wants(stretto: Run, folder: Path, name: str) -> None:
    """The properties that SARIF 2.1.0 requires, and their ranges."""
    (folder / "a table.csv").write_text(TABLES[name])
    flags = ("--microbatches", "2", "--format", "sarif")
    code, out, _ = stretto("check", "--from", "torch-csv", "a table.csv", *flags)
    assert code == (name != "right") and out.isascii()
    log = json.loads(out)
    assert log["version"] == "2.1.0"
    (run,) = log["runs"]
    driver = run["tool"]["driver"]
    assert driver["name"] == "stretto"
    ids = [rule["id"] for rule in driver["rules"]]
    assert len(set(ids)) == len(ids)
    assert run["columnKind"] in ("utf16CodeUnits", "unicodeCodePoints")
    assert bool(run["results"]) == (name != "right")  # it is there, if empty
    for result in run["results"]:
        assert result["message"]["text"]
        assert result["level"] in ("none", "note", "warning", "error")
        assert ids[result["ruleIndex"]] == result["ruleId"]
        for place in (*result.get("locations", ()), *result.get("relatedLocations", ())):
            physical = place["physicalLocation"]
            assert physical["artifactLocation"]["uri"] == "a%20table.csv"  # RFC 3986
            region = physical["region"]
            start = (region["startLine"], region["startColumn"])
            end = (region.get("endLine", start[0]), region.get("endColumn", start[1]))
            assert start >= (1, 1) and min(start) >= 1 and end >= start
            assert "message" not in place or place["message"]["text"]


def test_messages_that_cross_are_a_warning(stretto: Run, folder: Path) -> None:
    good = (
        "0F0,0SEND_F0,0F1,0SEND_F1,0RECV_B0,0B0,0RECV_B1,0B1,0REDUCE_GRAD\n"
        "1RECV_F0,1F0,1B0,1RECV_F1,1SEND_B0,1F1,1B1,1SEND_B1,1REDUCE_GRAD\n"
    )
    (folder / "t.csv").write_text(good)
    assert stretto("check", "--from", "torch-csv", "t.csv")[::2] == (0, "")
    (folder / "t.csv").write_text(good.replace("1RECV_F1,1SEND_B0", "1SEND_B0,1RECV_F1"))
    code, out, err = stretto("check", "--from", "torch-csv", "t.csv")
    assert (code, "proved" in out) == (0, True)
    assert "warning[messages-cross]: ranks 0 and 1" in err and "t.csv:1:18" in err
    _, out, _ = stretto("check", "--from", "torch-csv", "t.csv", "--format", "sarif")
    assert [one["level"] for one in json.loads(out)["runs"][0]["results"]] == ["warning"]


def test_messages_in_a_circle_are_a_warning(stretto: Run, folder: Path) -> None:
    """Rank 0 waits for what rank 2 makes of what rank 1 sends only after it has more of rank 0."""
    good = (
        "0F0,0SEND_F0,3RECV_F0,0F1,0SEND_F1,3F0,3RECV_F1,3F1,3B0,3SEND_B0,0RECV_B0,0B0,3B1,3SEND_B1"
        ",0RECV_B1,0B1,0REDUCE_GRAD,3REDUCE_GRAD\n"
        "1RECV_F0,1F0,1SEND_F0,1RECV_F1,1F1,1SEND_F1,1RECV_B0,1B0,1SEND_B0,1RECV_B1,1B1,1SEND_B1"
        ",1REDUCE_GRAD\n"
        "2RECV_F0,2F0,2SEND_F0,2RECV_F1,2F1,2SEND_F1,2RECV_B0,2B0,2SEND_B0,2RECV_B1,2B1,2SEND_B1"
        ",2REDUCE_GRAD\n"
    )
    check = ("check", "--from", "torch-csv", "--ranks", "3", "t.csv")
    (folder / "t.csv").write_text(good)
    assert stretto(*check)[::2] == (0, "")
    (folder / "t.csv").write_text(good.replace("1SEND_F0,1RECV_F1", "1RECV_F1,1SEND_F0"))
    code, out, err = stretto(*check)
    assert (code, "proved" in out) == (0, True)
    assert "warning[messages-circle]: ranks 0 to 2 would wait for each other" in err
    assert "rank 0 would wait here for rank 2" in err and "t.csv:1:14" in err
    sent_first = good.replace("3RECV_F0,0F1,0SEND_F1", "0F1,0SEND_F1,3RECV_F0")
    (folder / "t.csv").write_text(sent_first.replace("1SEND_F0,1RECV_F1", "1RECV_F1,1SEND_F0"))
    assert stretto(*check)[::2] == (0, "")


def test_what_cannot_be_read_is_said(stretto: Run, folder: Path) -> None:
    (folder / "t.csv").write_bytes(b"0F0\xff")
    assert stretto("check", "--from", "torch-csv", "t.csv")[0] == 2
    assert stretto("check", "--from", "torch-csv", "none.csv")[0] == 2
    assert stretto("import", "good.pipe")[0] == 2
    assert stretto("import", "--from", "torch-csv", "good.pipe")[0] == 1


DUMPS = sorted((Path(__file__).parents[1] / "data" / "tables").glob("*.csv"))


@pytest.mark.parametrize("table", DUMPS, ids=lambda table: table.stem)
def test_a_table_that_is_taken_for_another_systems(stretto: Run, folder: Path, table: Path) -> None:
    """Of every table the system that wrote it is named, whatever it is taken for."""
    if table.stem == "primus_interleaved_4_2_4":  # its own reader knows not all of it
        return
    (folder / "t.csv").write_text(table.read_text())
    system = table.stem.split("_")[0]
    own = f"`--from {system}`"
    for wrong in sorted({"megatron", "primus", "dualpipe"} - {system}):
        code, _, err = stretto("check", "--from", wrong, "t.csv")
        assert code == 1 and own in err and err.count("error[") == 1, err
    for command in ("check", "compile", "show"):
        code, _, err = stretto(command, "t.csv")
        assert code == 1 and own in err and "this is no schedule, but a table" in err


def test_the_count_of_other_cells_stands_last(stretto: Run, folder: Path) -> None:
    (folder / "t.csv").write_text("0F0,0B0\n" + ",".join(["x"] * 130) + "\n")
    for system in ("torch-csv", "zero-bubble"):
        _, out, _ = stretto("check", "--from", system, "t.csv", "--format", "json")
        found = [(one["code"], one.get("line")) for one in json.loads(out)]
        assert found.count(("unknown-cell", 2)) == 100 and found[-1] == ("unknown-cell", None)
        assert "30 more findings of this kind" in json.loads(out)[-1]["message"]


def test_a_shorter_order_is_looked_for_from_the_tables_own() -> None:
    """Without a search anew nothing as short as this order of an earlier search is found."""
    text = (
        "schedule t\nranks 4\nmicrobatches 8\npipeline main { stages 4 place s -> s }\n"
        "split B into I, W\ncost F = 10 cost I = 14 cost W = 7 transfer 2\n"
        "limit activations <= 3\n"
    )
    plain = compile_text(text, "t.pipe", budget=Budget(effort=0))
    searched = compile_text(text, "t.pipe", budget=Budget(effort=20, engine="anneal"))
    table = plan_of(searched.programs["train"])
    assert searched.claims["train"].makespan < plain.claims["train"].makespan
    found = better(table, Budget(effort=0))
    assert found.claims["train"].makespan <= searched.claims["train"].makespan
    assert found.claims["train"].activations <= searched.claims["train"].activations


def test_limits_of_a_table_are_in_the_unit_of_measured_activations(
    stretto: Run, folder: Path
) -> None:
    """What is written goes with the costs that it was written for: the order found there holds no
    more than the table's does, which 1F1B's own order shows stage by stage."""
    (folder / "measured.pipe").write_text(
        "cost F = 10\ncost B = 20\nactivation = 1.5 GiB\nactivation[0] = 1.7 GiB\n"
    )
    size = ("--set", "ranks=4", "--set", "microbatches=8")
    table = stretto("show", "one_f_one_b", *size, "--format", "torch-csv")[1]
    (folder / "own.csv").write_text(table)
    words = ("import", "--reorder", "--from", "torch-csv", "own.csv")
    given = ("--costs", "measured.pipe")
    code, text, err = stretto(*words, *given)
    assert code == 0, err
    assert "limit activations <= [34 GiB / 5, 9 GiB / 2, 3 GiB, 3 GiB / 2][r] for rank r" in text
    (folder / "own.pipe").write_text(text)
    code, out, err = stretto("compile", "own.pipe", *given, "--effort", "0", "--json")
    assert code == 0, err
    found = json.loads(out)
    most = [Fraction(tenths, 10) * (1 << 30) for tenths in (68, 45, 30, 15)]
    peaks = [Fraction(peak) for peak in found["peak_activations"]]
    assert all(peak <= limit for peak, limit in zip(peaks, most, strict=True))
    assert found["limited"] and found["assumed"] == []
    # Without them the limits count stages, as the file says.
    text = stretto(*words)[1]
    assert "limit activations <= [4, 3, 2, 1][r] for rank r" in text
    assert "for measured activations import it with --costs" in text
    code, _, err = stretto("import", "--from", "torch-csv", "own.csv", *given)
    assert code == 2 and "--costs is for `--reorder`" in err
