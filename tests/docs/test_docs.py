"""The front page and the page of the commands say what is so: what they show works as shown."""

import re
import shlex
from pathlib import Path

import make
import pytest

from stretto.compiler import cli
from stretto.compiler.commands.parsers import commands_of, parser
from stretto.compiler.diagnostics.diagnostic import Rejected
from stretto.compiler.driver import compile_file, compile_text
from stretto.compiler.order.engines.table import ENGINES
from stretto.compiler.show import FORMATS as PICTURES
from stretto.compiler.show import draw
from tests.support.paths import ROOT

PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
README = (ROOT / "README.md").read_text()
COMMANDS = (ROOT / "docs/cli.md").read_text()


def blocks(text: str, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_what_is_made_is_current() -> None:
    """Of these two pages; those about the language have a test of their own, and `make
    docs-current` looks at all."""
    assert make.readme(README) == README
    assert make.command_line(COMMANDS) == COMMANDS
    picture = draw(compile_file("dualpipe"), "svg")
    assert (ROOT / "docs/pictures/readme.svg").read_text() == picture


def test_the_front_page_shows_the_schedule_that_ships() -> None:
    shown, own = blocks(README, "pipe")
    assert shown == (ROOT / "schedules/dualpipe.pipe").read_text()
    assert compile_text(own, "mine.pipe").claims["train"].makespan == 33


def test_the_mistake_that_the_front_page_suggests_is_explained() -> None:
    own = blocks(README, "pipe")[1]
    wrong = re.search(r"with `(let warmup = .*?)`", README)
    assert wrong
    with pytest.raises(Rejected) as caught:
        compile_text(re.sub(r"let warmup = .*", wrong[1], own), "mine.pipe")
    (one,) = caught.value.diagnostics
    assert one.code == "deadlock"
    assert any(note.startswith("circle: ") for note in one.notes)
    assert one.help


def test_the_python_of_the_front_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = blocks(README, "python")
    exec(code, {})
    assert capsys.readouterr().out.split()[0].isdigit()


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_command_that_a_page_shows_is_one(page: Path) -> None:
    """By the parser itself, without running it. `FILE` and the like stand for themselves."""
    text = re.sub(r"\\\n *", "", page.read_text())
    shown = re.findall(r"^(?:\$ )?stretto (.*?)(?:  +#.*)?$", "".join(blocks(text, r"\w*")), re.M)
    for line in shown:
        if "…" not in line:
            parser().parse_args(shlex.split(line.split(" > ")[0]))


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_within_the_repository_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if not re.match(r"https?:", target):
            assert (page.parent / target).exists(), target


def test_every_command_and_format_has_its_place() -> None:
    choices = commands_of(parser())
    assert re.findall(r"^## (\w+)$", COMMANDS, re.MULTILINE) == list(choices)
    for format in PICTURES:
        assert f"| `{format}` |" in COMMANDS
    codes = {cli.DONE, cli.WRONG, cli.USAGE, cli.BUG, cli.INTERRUPTED, cli.PIPE, cli.TERMINATED}
    assert set(map(int, re.findall(r"^\| (\d+) \|", COMMANDS, re.MULTILINE))) == codes


def test_the_engines_of_the_documents_are_those_of_the_search() -> None:
    text = (ROOT / "docs" / "orders.md").read_text("utf-8")
    for one in ENGINES:
        assert f"| `{one.name}` | {one.summary} | {one.suits} |" in text
        other = ", ".join(f"`{alias}`" for alias in one.aliases)
        assert f"`{one.name}`: {other}" in text
