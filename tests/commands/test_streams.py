"""Pipes, standard input, closed streams, terminals: `stretto` as a process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command_line import GOOD, STRETTO, Run


def test_a_reader_that_leaves_early_is_no_error() -> None:
    words = [*STRETTO, "show", "dualpipe", "--format", "json"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout and process.stderr
        process.stdout.read(1)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(30) in (0, 141)


def test_check_loads_only_what_it_needs() -> None:
    code = (
        "import sys; from stretto.compiler.cli import main; code = main(['check', 'dualpipe']);"
        "print(code, [m for m in ('torch', 'numpy', 'networkx', 'rich') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines()[-1] == "0 []"


def test_the_schedule_may_come_from_standard_input() -> None:
    done = subprocess.run(
        [*STRETTO, "check", "-"], input=GOOD, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0
    assert "makespan" in done.stdout


@pytest.mark.parametrize("name", ["a.plan", "a.plan.gz"])
def test_plans_come_through_pipes_too(stretto: Run, folder: Path, name: str) -> None:
    stretto("compile", "good.pipe", "-o", name)
    tool = f"{sys.executable} -m stretto.compiler.cli"
    for words in (
        f"cat {name} | {tool} check -",
        f"{tool} check <(cat {name})",
        f"cat {name} | {tool} show -",
        f"cat good.pipe | {tool} check -",
        f"{tool} check <(cat good.pipe)",
        f"cat {name} | {tool} explain - --time-limit 1",
    ):
        done = subprocess.run(["bash", "-c", words], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, words + done.stderr
        assert done.stdout
    words = f"head -c 300 {name} | {tool} check -"
    done = subprocess.run(["bash", "-c", words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "-, header: " in done.stderr
    assert "stretto-" not in done.stderr


def test_closed_streams_are_no_error(folder: Path) -> None:
    for closed in (">&-", "2>&-", ">&- 2>&-"):
        words = f"{sys.executable} -m stretto.compiler.cli check good.pipe {closed}"
        done = subprocess.run(words, shell=True, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")


def test_colour_goes_to_terminals_only_unless_forced() -> None:
    for variables, coloured in (({}, False), ({"FORCE_COLOR": "1"}, True)):
        base = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")}
        done = subprocess.run(
            [*STRETTO, "show", "dualpipe"],
            env=base | variables,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert ("\x1b[" in done.stdout) == coloured
