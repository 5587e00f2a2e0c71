"""Outputs that would replace what is read or each other, under all their names, and outputs that
cannot be written: every command that writes is refused with a sentence and exit code 2, what was
there stays as it was, and no temporary file is left. Inputs that do not end are refused at the
limit in bounded memory."""

import os
import resource
import stat
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

from stretto.compiler.commands import COMMANDS, outputs
from stretto.compiler.commands.files import Unusable
from tests.attacks.conftest import Tally
from tests.support.command_line import GOOD, STRETTO, Run

WRITERS = [
    ("compile", ("compile", "in", "-o")),
    ("certificate", ("compile", "in", "--certificate")),
    ("show", ("show", "in", "--format", "svg", "-o")),
    ("show json", ("show", "in", "--format", "json", "-o")),
]
"""Every flag that names an output, behind what else the command needs."""

writers = pytest.mark.parametrize("words", [w for _, w in WRITERS], ids=[n for n, _ in WRITERS])


@pytest.fixture
def here(folder: Path) -> Path:
    """A folder with `in`, a schedule, under further names."""
    inside = folder / "inside"
    inside.mkdir()
    source = inside / "in"
    source.write_text(GOOD)
    os.link(source, inside / "hard")
    (inside / "soft").symlink_to("in")
    (inside / "far").symlink_to(inside / "soft")
    (inside / "sub").mkdir()
    (inside / "sub/up").symlink_to("..")
    os.chdir(inside)
    return inside


def contents(folder: Path) -> dict[str, object]:
    """All that is there: texts, links, modes."""
    return {
        str(path.relative_to(folder)): (
            os.readlink(path) if path.is_symlink() else path.is_file() and path.read_bytes(),
            path.lstat().st_mode,
        )
        for path in sorted(folder.rglob("*"))
    }


def refused(stretto: Run, here: Path, *words: str) -> str:
    """The sentence with which a command is refused that changes nothing."""
    before = contents(here)
    code, out, err = stretto(*words)
    assert (code, out) == (2, ""), (words, out, err)
    assert "Traceback" not in err and "bug" not in err and err.startswith("stretto: "), err
    assert contents(here) == before, words
    return err


def test_every_flag_that_writes_is_compared(tally: Tally) -> None:
    """A new command, or a new flag, that writes a file declares it, and stands in `WRITERS`; what
    is read stands where `outputs` looks. (`new` writes a file that was never there before; folders
    replace no file.)"""
    known = {(words[0], words[-1]) for _, words in WRITERS} | {("import", "-o")}
    declared = set()
    for command in COMMANDS:
        parser = ArgumentParser()
        import_module(f"stretto.compiler.commands.{command}").add(parser)
        for action in parser._actions:
            flag = min(action.option_strings, key=len, default="")
            help_ = action.help or ""
            if action.dest in (parser.get_default("outputs") or ()):
                declared.add((command, flag))
            elif "FOLDER" not in str(action.metavar) and help_.startswith(
                ("write ", "also write ")
            ):
                raise AssertionError(f"{command} {flag} writes and is not declared")
            elif action.metavar in ("FILE", "PLAN", "WHAT") and flag != "--model":
                assert action.dest in outputs.READ, f"{command} {flag} is read and not compared"
    assert declared == known
    tally(commands=len(COMMANDS), outputs=len(declared))


def test_a_table_is_not_replaced_by_its_schedule(stretto: Run, folder: Path) -> None:
    """`import` reads what no other command reads; its output is written as theirs are."""
    table = "0F0,0B0\n"
    (folder / "table.csv").write_text(table)
    words = ("import", "table.csv", "--from", "torch-csv", "-o")
    assert stretto(*words, "mine.pipe")[0] == 0
    for name in ("table.csv", "./table.csv"):
        code, _, err = stretto(*words, name)
        assert (code, (folder / "table.csv").read_text()) == (2, table), err


@writers
def test_no_output_replaces_an_input(
    stretto: Run, here: Path, words: tuple[str, ...], tally: Tally
) -> None:
    names = ["in", "./in", "sub/../in", "sub/up/in", "hard", "soft", "far", str(here / "in")]
    names.append(os.path.relpath(here / "in", "/") and f"../{here.name}/in")
    for name in names:
        assert "which is read" in refused(stretto, here, *words, name)
    (here / "costs").write_text("cost F = 2\n")
    os.link(here / "costs", here / "costs2")
    for name in ("costs", "costs2"):
        line = (words[0], "--costs", "costs", *words[1:], name)
        assert "it is `costs`" in refused(stretto, here, *line)
    tally(tried=len(names) + 2, accepted=0)


def test_two_outputs_are_two_files(stretto: Run, here: Path) -> None:
    (here / "there").write_text("old")
    os.link(here / "there", here / "again")
    (here / "to").symlink_to("new")
    pairs = [("a", "a"), ("a", "./a"), ("a", "sub/../a"), ("a", "sub/up/a"), ("there", "again")]
    pairs += [("new", "to"), ("A", "a"), ("é", "e\u0301"), ("-", "-"), ("-", "/dev/stdout")]
    for plan, certificate in pairs:
        line = ("compile", "in", "-o", plan, "--certificate", certificate)
        assert "one file" in refused(stretto, here, *line), line
    assert "both" in refused(stretto, here, "compile", "in", "--json", "-o", "-")


@writers
def test_what_cannot_be_written_is_said(
    stretto: Run, here: Path, words: tuple[str, ...], tally: Tally
) -> None:
    (here / "loop").symlink_to("loop")
    (here / "ping").symlink_to("pong")
    (here / "pong").symlink_to("ping")
    (here / "gone").symlink_to("no/where")
    said = {
        "": "without a name",
        "sub": "it is a folder",
        "new/": "it is a folder",
        ".": "it is a folder",
        "no/where": "there is no folder `no`",
        "in/where": "`in` is no folder",
        "gone": "there is no folder",
        "loop": "symbolic links",
        "ping": "symbolic links",
        "loop/x": "`loop`",
        "/dev/full": "No space left",
        "/proc/x": "/proc",
        "x" * 300: "too long",
    }
    for name, what in said.items():
        assert what in refused(stretto, here, *words, name)
    tally(tried=len(said), accepted=0)


@writers
def test_links_and_modes_are_kept(stretto: Run, here: Path, words: tuple[str, ...]) -> None:
    target = here / "sub/target"
    target.write_text("old")
    target.chmod(0o640)
    (here / "one").symlink_to("sub/two")
    (here / "sub/two").symlink_to("target")
    (here / "dangling").symlink_to("sub/made")
    before = os.umask(0o027)
    try:
        for name in ("one", "dangling", "x" * 255):
            assert stretto(*words, name)[0] == 0
    finally:
        os.umask(before)
    assert os.readlink(here / "one") == "sub/two" and os.readlink(here / "sub/two") == "target"
    assert (here / "dangling").is_symlink()
    for path in (target, here / "sub/made", here / ("x" * 255)):
        assert path.stat().st_size > 100
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert not list(here.rglob(".stretto-*"))


def test_standard_output_is_a_file_too(stretto: Run, here: Path) -> None:
    stretto("compile", "in", "-o", "plan", "--certificate", "paper")
    plan, paper = (here / "plan").read_text(), (here / "paper").read_text()
    for name in ("-", "/dev/stdout", "/dev/fd/1"):
        code, out, err = stretto("compile", "in", "-o", name)
        assert (code, out) == (0, plan) and "makespan" in err
    code, out, err = stretto("compile", "in", "-o", "plan", "--certificate", "-")
    assert (code, out) == (0, paper) and "wrote plan" in err
    code, out, _ = stretto("show", "in", "-o", "-", "--format", "svg")
    assert code == 0 and out.startswith("<svg")
    assert stretto("show", "in", "-o", "-") == stretto("show", "in")


def shell(words: str) -> "subprocess.CompletedProcess[str]":
    """What bash makes of a line in which `stretto` is ours."""
    line = words.replace("stretto", " ".join(STRETTO))
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=120)
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr, done.stderr
    return done


REDIRECTED = [  # a line, its exit code, what is said
    ("stretto compile in > /dev/full", 2, "standard output: No space left"),
    ("stretto list --json > /dev/full", 2, "standard output: No space left"),
    ("stretto show in > /dev/full", 2, "standard output: No space left"),
    ("stretto check in > /dev/full", 2, "standard output: No space left"),
    ("stretto check in 2> /dev/full", 0, ""),
    ("stretto compile in -o - > /dev/full", 2, "No space left"),
    ("stretto compile in -o a 2> /dev/full", 0, ""),
    ("stretto compile in -o a > a", 2, "standard output goes there"),
    ("stretto compile in -o a 2>> a; code=$?; cat a >&2; exit $code", 2, "error goes there"),
    ("stretto show in >> in", 2, "standard output goes there"),
    ("stretto compile - -o in < in", 2, "which is read"),
    ("stretto compile /dev/stdin -o hard < in", 2, "which is read"),
    ("cat in | stretto check - -", 2, "read only once"),
    ("cat in | stretto check - --costs -", 2, "read only once"),
    ("stretto show dualpipe --format json | head -c 10 > a; exit $((PIPESTATUS[0] % 141))", 0, ""),
    ("stretto show dualpipe --format json -o - | true; exit $((PIPESTATUS[0] % 141))", 0, ""),
    ("ulimit -f 1; stretto compile dualpipe -o a; code=$?; ls -a; exit $code", 2, "too large"),
    ("ulimit -f 1; stretto show dualpipe -o a.svg", 2, "too large"),
    ("ulimit -f 0; stretto new fresh; code=$?; ls -a; exit $code", 2, "too large"),
    ("ulimit -f 8; stretto compile dualpipe --certificate b -o a", 2, "too large"),
]


@pytest.mark.parametrize(("words", "code", "said"), REDIRECTED)
def test_redirections(
    here: Path, words: str, code: int, said: str, attacks: Callable[[int, int], int]
) -> None:
    if REDIRECTED.index((words, code, said)) % attacks(2, 1):
        pytest.skip("one of two is tried here, all by `make test-attacks`")
    if sys.platform != "linux" and "/dev/full" in words:
        pytest.skip("no /dev/full")
    before = set(contents(here)) | {"a"}
    done = shell(words)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert set(contents(here)) <= before
    assert (here / "in").read_text() == GOOD
    assert not code or not (here / "a").exists() or (here / "a").stat().st_size < 1000


ENDLESS = [
    ("yes | stretto check /dev/stdin", "larger than"),
    ("yes | stretto show -", "larger than"),
    ("stretto check /dev/zero", "larger than"),
    ("stretto check in --costs /dev/zero", "larger than"),
    ("stretto certify /dev/zero", "larger than"),
    ("{ printf '{'; cat /dev/zero; } | stretto check -", "more than the"),
    ("{ printf '{\"a\": ['; yes 1, | tr -d '\\n'; } | stretto check -", "more than the"),
    ("{ printf '\\x1f\\x8b'; cat /dev/zero; } | stretto check -", "not compressed one by one"),
    ("yes '{\"version\": 2}' | stretto explain -", "no JSON object with `format`"),
    ("stretto certify in --plan <(printf '{'; cat /dev/zero)", "no certificate"),
]


@pytest.mark.parametrize(("words", "said"), ENDLESS)
def test_what_does_not_end_is_refused(
    here: Path, words: str, said: str, attacks: Callable[[int, int], int]
) -> None:
    """In 512 MiB of memory."""
    if ENDLESS.index((words, said)) % attacks(3, 1):
        pytest.skip("one of three is tried here, all by `make test-attacks`")
    done = shell(f"ulimit -v {512 << 10}; {words}")
    assert done.returncode in (1, 2), done.stderr
    assert said in done.stderr
    assert len(done.stderr) < 1000


def test_a_plan_that_ends_in_the_middle_of_nothing_else(here: Path) -> None:
    """What follows a whole plan in a pipe is refused without being read."""
    shell("stretto compile in -o a")
    done = shell("cat a /dev/zero | (ulimit -v 500000; stretto check -)")
    assert done.returncode == 1 and "something follows" in done.stderr


def test_a_signal_leaves_no_temporary_file(here: Path) -> None:
    """SIGTERM and SIGHUP while a file is written."""
    for name in ("SIGTERM", "SIGHUP"):
        code = (
            "import os, signal; from pathlib import Path\n"
            "from stretto.compiler.atomic import atomic_write\n"
            f"with atomic_write(Path('in')) as file:\n"
            f"    file.write(b'half'); file.flush(); os.kill(os.getpid(), signal.{name})\n"
        )
        before = contents(here)
        done = subprocess.run([sys.executable, "-c", code], timeout=60)
        assert done.returncode < 0
        assert contents(here) == before


def test_a_fresh_file_never_replaces_one(stretto: Run, here: Path) -> None:
    (here / "mine.pipe").symlink_to("nowhere")
    assert "stays as it is" in refused(stretto, here, "new", "mine")
    (here / "sub/fresh.pipe").write_text("old")
    assert "stays as it is" in refused(stretto, here, "new", "sub/fresh")
    assert "no folder `none`" in refused(stretto, here, "new", "none/fresh")


def test_the_memory_of_a_check_is_bounded_by_its_input() -> None:
    """The limit that the tests above are given is one: more than it is not to be had."""
    code = "bytearray(600 << 20)"
    limit = (512 << 20, 512 << 20)
    done = subprocess.run(
        [sys.executable, "-c", code],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, limit),
        capture_output=True,
        timeout=60,
    )
    assert b"MemoryError" in done.stderr


def test_an_unknown_output_is_refused_before_anything_is_read() -> None:
    chosen = Namespace(outputs=("output",), output="", file="missing")
    with pytest.raises(Unusable):
        outputs.check(chosen)
