"""What is written to is open already, closed, or holds more than its bytes; and who writes is
killed in the middle: what was asked for is written to where it was asked, or the exit code is 2,
and what stood there stays whole, with nothing beside it."""

import errno
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from stretto.compiler.atomic import atomic_write
from tests.attacks.conftest import Tally
from tests.attacks.test_files import contents, here, shell
from tests.support.command_line import Run

__all__ = ["here"]

linux = pytest.mark.skipif(sys.platform != "linux", reason="names of open files as Linux has them")


@linux
@pytest.mark.parametrize("name", ["/dev/fd/3", "/proc/self/fd/3", "link"])
def test_a_file_that_is_open_is_written_where_it_is(here: Path, name: str) -> None:
    """By the number it is the caller's open file, at his place in it, not what its name leads to;
    also where it has none any more."""
    (here / "link").symlink_to("/dev/fd/3")
    shell("stretto compile in -o plan")
    done = shell(f"{{ echo 1 >&3; stretto compile in -o {name}; echo 2 >&3; }} 3> open")
    assert done.returncode == 0
    assert (here / "open").read_text() == f"1\n{(here / 'plan').read_text()}2\n"
    before = contents(here)
    done = shell(f"exec 3> gone 4< gone; rm gone; stretto compile in -o {name} && cat <&4 >&2")
    assert (here / "plan").read_text() in done.stderr
    assert contents(here) == before
    done = shell(f"stretto compile in -o {name} 3< plan")
    assert done.returncode == 2 and contents(here) == before


CLOSED = [  # what goes nowhere was asked for, or is a word beside the exit code
    ("stretto compile in -o - >&-", 2),
    ("stretto show in >&-", 2),
    ("stretto show in --format svg >&-", 2),
    ("stretto compile in --json >&-", 2),
    ("stretto completion bash >&-", 2),
    ("stretto compile in -o plan >&-", 0),
    ("stretto --help > /dev/full", 2),
    ("stretto check --help > /dev/full", 2),
    ("PYTHONUNBUFFERED=1 stretto check --help > /dev/full", 2),
    ("stretto --version > /dev/full", 2),
    ("stretto completion bash > /dev/full", 2),
    ("stretto check nothing 2> /dev/full", 2),
    ("stretto check --nothing 2> /dev/full", 2),
]


@linux
@pytest.mark.parametrize(("words", "code"), CLOSED)
def test_what_is_not_written_is_no_success(
    here: Path, words: str, code: int, attacks: Callable[[int, int], int]
) -> None:
    if CLOSED.index((words, code)) % attacks(3, 1):
        pytest.skip("one of three is tried here, all by `make test-attacks`")
    done = shell(words)
    assert done.returncode == code, done.stderr
    assert ("standard output: " in done.stderr) == (code == 2 and "2>" not in words)
    assert (here / "plan").exists() == ("plan" in words)


def test_two_files_are_written_or_none(
    stretto: Run, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the disk is full, or quotas end, only when the last bytes reach it."""
    (here / "b").write_text("old")
    before, sync = contents(here), os.fsync
    for failing in (1, 2):
        calls: list[int] = []

        def full(number: int, calls: list[int] = calls, failing: int = failing) -> None:
            calls.append(number)
            if len(calls) == failing:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            sync(number)

        monkeypatch.setattr(os, "fsync", full)
        code, out, err = stretto("compile", "in", "-o", "a", "--certificate", "b")
        assert (code, out) == (2, "") and "No space left" in err
        assert contents(here) == before


def test_a_replaced_file_keeps_its_attributes_and_its_other_names_their_content(
    here: Path,
) -> None:
    os.link(here / "in", here / "other")
    if hasattr(os, "setxattr"):
        try:
            os.setxattr(here / "in", "user.mine", b"1")
        except OSError:
            pytest.skip("no attributes here")
    old = (here / "in").read_bytes()
    with atomic_write(here / "in") as file:
        file.write(b"new")
    assert (here / "in").read_bytes() == b"new" and (here / "other").read_bytes() == old
    if hasattr(os, "getxattr"):
        assert os.getxattr(here / "in", "user.mine") == b"1"


WRITES = """
import os, signal, sys
from pathlib import Path
from stretto.compiler.atomic import atomic_write
at = int(sys.argv[1])
for turn in range(1_000_000):
    with atomic_write(Path('in')) as file:
        file.write((b'%d' % (turn % 10)) * 500_000)
        if turn == at:
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
    if not turn:
        print(flush=True)
"""


@linux
def test_who_is_killed_leaves_the_old_or_the_new(
    here: Path, attacks: Callable[[int, int], int], tally: Tally
) -> None:
    """In the middle of a write nothing is left of it; at any moment a whole file is there."""
    before = contents(here)
    assert subprocess.run([sys.executable, "-c", WRITES, "0"], timeout=60).returncode < 0
    assert contents(here) == before
    chance, tried, left = random.Random(5), attacks(3, 100), 0
    for _ in range(tried):
        words = [sys.executable, "-c", WRITES, "-1"]
        with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(chance.random() / 20)
            process.send_signal(signal.SIGKILL)
        text = (here / "in").read_bytes()
        assert text == text[:1] * 500_000
        left += len(list(here.glob(".stretto-*")))
        for stray in here.glob(".stretto-*"):
            stray.unlink()  # killed between the name beside and its own
    tally(killed=tried, half=0, left_beside=left)


def test_without_nameless_files_they_have_a_name_while_they_are_written(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on file systems and systems that have none."""
    monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    for new, name in ((False, "in"), (True, "fresh")):
        with atomic_write(here / name, new=new) as file:
            file.write(b"new")
            assert len(list(here.glob(".stretto-*"))) == 1
        assert (here / name).read_bytes() == b"new"
        assert not list(here.glob(".stretto-*"))
