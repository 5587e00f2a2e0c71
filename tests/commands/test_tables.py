"""`stretto check --from` and `stretto import`."""

import json
from pathlib import Path

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


def test_what_cannot_be_read_is_said(stretto: Run, folder: Path) -> None:
    (folder / "t.csv").write_bytes(b"0F0\xff")
    assert stretto("check", "--from", "torch-csv", "t.csv")[0] == 2
    assert stretto("check", "--from", "torch-csv", "none.csv")[0] == 2
    assert stretto("import", "good.pipe")[0] == 2
    assert stretto("import", "--from", "torch-csv", "good.pipe")[0] == 1
