"""Hostile names of files and texts, through every command: what reaches a terminal or the log of a
CI has no character that steers it, turns a line around, or begins a line of its own."""

import ast
import re
import sys
from pathlib import Path

import pytest

from stretto.compiler import cli
from stretto.compiler.diagnostics.printable import one_line, printable, told, unseen_escaped
from stretto.compiler.show import FORMATS
from tests.attacks.conftest import Tally
from tests.repository.sources import modules
from tests.support.command_line import GOOD, WRONG

ALL_AT_ONCE = "all\x1b[31m\x9b1m\u202e\u2066\u200f\n::error file=x::\r::warning::\b\t\udcff"
NAMES = [
    "red\x1b[31m",
    "title\x1b]0;owned\x07",
    "csi\x9b31m",
    "turned\u202egnp",
    "isolated\u2066\u2069",
    "marked\u200e\u200f",
    "two\n::error file=x,line=1::lines",
    "back\r::warning::spaces\b\b",
    "bytes\udcff\udc80",
    "tab\t\x7f",
]
STEERING = [
    *range(0x09), 0x0B, 0x0C, 0x0D, *range(0x0E, 0x20), *range(0x7F, 0xA0),
    0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A), *range(0xD800, 0xE000),
]  # fmt: skip


def steers(text: str) -> set[str]:
    return {c for c in text if ord(c) in STEERING}


@pytest.mark.skipif(sys.platform != "linux", reason="names of files that others do not allow")
@pytest.mark.parametrize(
    "name",
    [ALL_AT_ONCE, *(pytest.param(name, marks=pytest.mark.full) for name in NAMES)],
    ids=lambda name: str(ascii(name)).replace("::", ";"),
)
def test_no_command_prints_a_hostile_name_raw(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: object, tally: Tally
) -> None:
    """Every command that takes a file: a good one, a wrong one, no schedule at all, one that is
    missing, as a schedule, as costs, as a plan, as what is written; the raw bytes are looked at."""
    monkeypatch.chdir(tmp_path)
    for end, text in ((".pipe", GOOD), ("-wrong.pipe", WRONG), (".costs", "cost F = 2\n")):
        Path(name + end).write_text(text)
    Path(name + "-odd.pipe").write_text(f"schedule a\nranks {name[:-1]!r}\n".replace("\\", ""))
    good, wrong, costs, gone = name + ".pipe", name + "-wrong.pipe", name + ".costs", name
    plan, broken = name + ".plan", name + ".json"
    Path(broken).write_text('{"format":"stretto-plan","version":2}\n')
    commands = [
        ["compile", good, "-o", plan, "--certificate", name + ".cert"],
        ["compile", good, "--json", "--costs", costs],
        ["compile", wrong], ["compile", gone], ["compile", good, "-o", name + "/x"],
        *(["check", file, "--format", form]
          for file in (good, wrong, plan, broken, gone, name + "-odd.pipe")
          for form in ("full", "concise", "json", "github")),
        ["check", good, "--costs", wrong], ["check", good, "--costs", gone],
        ["check", good, "--set", f"{name}=1"], ["check", good, f"--{name}"], [name],
        *(["show", file, "--format", form] for file in (good, plan) for form in FORMATS),
        ["show", good, "-o", name], ["show", good, "-o", name + ".svg"], ["show", good, name],
        ["explain", plan, "--time-limit", "1"], ["explain", gone], ["explain", wrong],
        ["explain", plan, "--json", "--time-limit", "1"],
        ["certify", name + ".cert"], ["certify", name + ".cert", "--plan", plan],
        ["certify", broken], ["certify", gone], ["certify", name + ".cert", "--plan", good],
        ["list", "--costs", costs], ["list", "--costs", wrong], ["list", "--costs", gone],
        ["new", name], ["new", "x", "--from", name],
        ["run", gone, "--model", name], ["run", wrong, "--model", name],
    ]  # fmt: skip
    assert hasattr(capfdbinary, "readouterr")
    for words in commands:
        try:
            code = cli.main(words)
        except SystemExit as ended:
            code = int(ended.code or 0)
        said = capfdbinary.readouterr()  # pyright: ignore[reportAttributeAccessIssue]
        assert code in (0, 1, 2), (words, said)
        for stream in (said.out, said.err):
            text = stream.decode("utf-8")
            picture = words[0] == "show" and stream == said.out
            found = steers(text) - ({"\t"} if not picture else {"\t", "\r"})
            assert not found, (words, found)
            begin = [line for line in text.splitlines() if line.startswith("::")]
            if words[-1] != "github":
                assert not begin, words
            assert not any(line.startswith(("::error file=x", "::warning::")) for line in begin)
    tally(commands=len(commands), raw=0)


def test_what_is_not_seen_is_spelled_out() -> None:
    everything = "".join(map(chr, STEERING))
    assert not steers(printable(everything)) and not steers(one_line(everything + "\n\t"))
    assert "\n" not in one_line("a\nb") and printable("a\n\tb") == "a\n\tb"
    assert not steers(unseen_escaped(everything))


SPEAKS = {"print", "warn", "showwarning", "print_exc", "print_exception"}


def test_the_runtime_speaks_in_one_place() -> None:
    """Nothing in it prints or warns, or writes to a stream of the process, but `aloud`."""
    found, seen = [], 0
    for name, path in modules().items():
        if not name.startswith("runtime."):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            if name == "runtime.aloud":
                seen += called in ("print", "warnings.warn")
            elif (
                called in {"print"}
                or (called.split(".")[-1] in SPEAKS and "." in called)
                or re.fullmatch(r"(sys\.(stdout|stderr)|.*\.stderr)\.write", called)
            ):
                found.append(f"{name}:{node.lineno} {called}")
    assert not found and seen >= 3


def test_what_the_runtime_says_steers_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    from stretto.runtime import aloud
    from stretto.runtime.errors import NonFiniteError

    hostile = "red\x1b[31m\x9b1m\u202e\u2066\n::error file=x::\n  ::warning::"
    aloud.say(hostile)
    aloud.caution(hostile)
    aloud.answer(hostile)
    with pytest.warns(RuntimeWarning) as warned:
        aloud.warn(hostile, RuntimeWarning)
    with pytest.raises(SystemExit):
        aloud.ArgumentReader(prog="x").parse_args([hostile])
    said = capsys.readouterr()
    for text in (said.out, said.err, str(warned[0].message), str(NonFiniteError(hostile))):
        assert "x1b[31m" in text and not steers(text)
        assert not any(line.lstrip().startswith("::") for line in text.splitlines())


def test_the_words_of_an_exception_are_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    """What a model raises, as a rank and torchrun's report tell it."""
    pytest.importorskip("torch")
    from stretto.runtime.train.telling import ErrorTeller

    hostile = "\x1b[2J\x9b31m\u202ea\n::error file=x::owned\n   ::warning::too"
    ErrorTeller().tell(hostile, ValueError(hostile))
    said = capsys.readouterr().err
    assert not steers(said) and "owned" in said
    assert not any(line.lstrip().startswith("::") for line in said.splitlines())
    assert told("a\n::b") == "a\n· ::b"
