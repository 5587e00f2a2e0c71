"""`stretto list`, `new` and `explain` with a code."""

import json
import re
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


def test_every_code_is_explained(stretto: Run) -> None:
    from stretto.compiler.diagnostics.codes import CODES

    for code in CODES:
        found, out, _ = stretto("explain", code)
        assert found == 0
        assert code in out
    assert stretto("explain", "error[unknown-name]:")[0] == 0
