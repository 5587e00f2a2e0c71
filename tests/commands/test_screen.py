"""Every command that talks to people, in locales with UTF-8 and without, and from 40 columns to
300: no line is wider, what was left out is told, and marks stand where they belong."""

import json
import os
import re
import sys
from collections.abc import Iterator
from io import BytesIO, TextIOWrapper
from itertools import pairwise
from pathlib import Path

import pytest

from stretto.compiler import cli
from stretto.compiler.analysis.idle import WAITS
from stretto.compiler.commands import doctor
from stretto.compiler.commands import list as listing
from stretto.compiler.commands.examination import examine
from stretto.compiler.commands.load import Teller
from stretto.compiler.diagnostics.ascii import MARKS
from stretto.compiler.order.budget import SearchProgress
from stretto.runtime import aloud

WIDTHS = (40, 80, 300)
FOUND = """\
schedule found
ranks 4
microbatches 4
pipeline main { stages 2 * ranks  place s -> min(s, 2 * ranks - 1 - s) }
split B into I, W
cost F[3] = 2
limit activations <= 6
"""
PARTS = """\
schedule parts
ranks 2
microbatches 4
pipeline main {}
split F into attention, dispatch on comm, mlp
"""
WRONG = """\
schedule wrong
ranks 2
microbatches 2   # \u00e9\u2192\u6f22 before, and \u2026
pipeline main {}
order rank r { let \u00e9 = 1 }
let far = ranks + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + then + 1 + 1
"""
CIRCLE = """\
schedule circle
ranks 2
microbatches 2
pipeline main {}
order rank r { repeat microbatches { if r == 1 { B; F } else { F; B } } }   # \u00fc
"""
COMMANDS = [
    "list --set ranks=4",
    "explain found.plan --effort 0",
    "explain parts.pipe --effort 0",
    "check found.plan parts.pipe --assumptions",
    "check wrong.pipe",
    "check circle.pipe",
    "compile found.plan --certificate again.json",
    "compile parts.pipe --effort 0",
    "show found.plan",
    "show parts.pipe --effort 0",
    "certify found.json --plan found.plan",
    "doctor",
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with schedules, a plan and a certificate, and a library that is compiled once."""
    folder = tmp_path_factory.mktemp("screen")
    texts = {"found": FOUND, "parts": PARTS, "wrong": WRONG, "circle": CIRCLE}
    for name, text in texts.items():
        (folder / f"{name}.pipe").write_text(text, "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("NO_COLOR", "1")
        said(patch, "compile found.pipe --effort 0 -o found.plan --certificate found.json")
        known: dict[str, list[listing.LibraryRow]] = {}

        def compared(chosen: object) -> list[listing.LibraryRow]:
            if not known:
                known["rows"] = list(rows(chosen))  # type: ignore[arg-type]
            return known["rows"]

        rows = listing.compared
        findings = examine(os.environ)
        patch.setattr(listing, "compared", compared)
        patch.setattr(doctor, "examine", lambda environment: findings)
        yield folder


def said(patch: pytest.MonkeyPatch, words: str, encoding: str = "utf-8") -> list[str]:
    """The lines that a command writes where the locale has this encoding."""
    streams = [TextIOWrapper(BytesIO(), encoding) for _ in range(2)]
    with patch.context() as own:
        own.setattr(sys, "stdout", streams[0])
        own.setattr(sys, "stderr", streams[1])
        cli.main(words.split())
    return [line for one in streams for line in written(one).decode(encoding).splitlines()]


def written(stream: TextIOWrapper) -> bytes:
    """All that was written to the stream."""
    stream.flush()
    assert isinstance(stream.buffer, BytesIO)
    return stream.buffer.getvalue()


@pytest.mark.parametrize("words", COMMANDS)
def test_every_width_in_every_locale(
    files: Path, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    for width in WIDTHS:
        monkeypatch.setenv("COLUMNS", str(width))
        shown = said(monkeypatch, words)
        plain = said(monkeypatch, words, "ascii")
        for line in shown if "wrong" not in words and "circle" not in words else []:
            assert len(line) <= width, line
        laid = [line for line in plain if line.lstrip(" ").startswith(("|", *"0123456789"))]
        assert all(len(line) <= width for line in laid)
        if "wrong" not in words and "circle" not in words and "doctor" not in words:
            assert plain == [line.translate(MARKS) for line in shown]
            assert not any("\\" in line for line in plain)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("width", WIDTHS)
def test_carets_stand_below_their_words(
    files: Path, monkeypatch: pytest.MonkeyPatch, width: int, encoding: str
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    lines = said(monkeypatch, "check wrong.pipe", encoding)
    marked = {}
    for line, below in pairwise(lines):
        if re.match(r" *\d+ \|", line) and "^" in below:
            start, end = below.index("^"), below.rindex("^") + 1
            marked[line.split(" | ")[0]] = line[start:end]
    assert marked == {"5": "\u00e9" if encoding == "utf-8" else r"\xe9", "6": "then"}


def test_what_has_no_room_is_told(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    causes = [WAITS[cause] for cause in ("data", "memory", "order", "done")]
    for words, names in (
        ("list --set ranks=4", ["about", "copies", "stages", "bound", "gap", "bubble", "memory"]),
        ("explain found.plan --effort 0", causes),
    ):
        for width in (40, 60, 80, 120, 300):
            monkeypatch.setenv("COLUMNS", str(width))
            lines = said(monkeypatch, words)
            first = "schedule " if "list" in words else "  rank  "
            at = next(k for k, line in enumerate(lines) if line.startswith(first))
            told = " ".join(lines[at:]).split("No room in", 1)
            gone = re.sub(r"\s+", " ", told[1].split(".")[0]) if len(told) > 1 else ""
            for name in names:
                if name in lines[at] or name in gone:
                    assert (name in lines[at]) != (name in gone), (width, name)
            assert ("about" in gone) == ("list" in words and width < 300)


def test_the_runtime_speaks_in_every_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a stream that raises for what it has not."""
    out = TextIOWrapper(BytesIO(), "ascii", errors="strict")
    monkeypatch.setattr(sys, "stdout", out)
    aloud.answer("caf\u00e9 1 \u2013 2, \u2026")
    assert written(out) == b"caf\\xe9 1 - 2, ...\n"


def test_data_is_utf8_in_every_locale(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What programs read does not depend on the locale, and names of files come through."""
    name = "caf\u00e9.pipe"
    (files / name).write_text(WRONG, "utf-8")
    for words in (f"check {name} --format json", "show parts.pipe --effort 0 --format html"):
        out = TextIOWrapper(BytesIO(), "ascii")
        with monkeypatch.context() as own:
            own.setattr(sys, "stdout", out)
            cli.main(words.split())
        text = written(out).decode()
        if "json" in words:
            assert json.loads(text)[0]["file"] == name
        else:
            assert "\u00b7" in text


def test_progress_stays_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that is written over is not wider than the terminal, or its beginning would stay."""
    monkeypatch.setenv("COLUMNS", "40")
    err = TextIOWrapper(BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stderr", err)
    teller = Teller()
    teller.terminal, teller.next = True, 0.0
    teller(SearchProgress("periodic", 123, 100, 12.0))
    (line,) = written(err).decode().split("\r\x1b[K")[1:]
    assert line.startswith("periodic: at most") and len(line) < 40
