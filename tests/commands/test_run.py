"""`stretto run`: the training that it starts, and how both end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stretto.compiler.arguments import above_zero, patience, positive
from tests.support.command_line import Run


def test_run_starts_torchrun_and_prints_how(stretto: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from stretto.compiler.commands import run
    from stretto.compiler.commands.training import Janitor, Training

    started: list[list[str]] = []

    def ended(_: Training, words: list[str], janitor: Janitor) -> int:
        started.append(words)
        return 3

    monkeypatch.setattr(run, "find_spec", lambda _: object())
    monkeypatch.setattr(Training, "run", ended)
    words = "run good.pipe --model a:b --data c:d --steps 5 --timeout 2.5 --verify --trust"
    assert stretto(*words.split())[0] == 3
    (command,) = started
    text = " ".join(command[1:])
    assert text.startswith("-m torch.distributed.run --standalone --nproc-per-node 2 -m stretto.")
    assert text.endswith("--model a:b --data c:d --steps 5 --timeout 2.5 --verify --trust")
    training = (
        "--accumulate 2 --clip 0.5 --amp bfloat16 --on-nonfinite warn --log-every 3 "
        "--eval-every 4 --eval-data e:f --seed 5"
    )
    assert stretto(*f"run good.pipe --model a:b {training}".split())[0] == 3
    assert " ".join(started[-1]).endswith(f"--model a:b {training}")


RUNNER = """\
import sys
from stretto.compiler import cli
from stretto.compiler.commands import run
run.find_spec = lambda _: object()
run.command = lambda plan, *_: [sys.executable, "-c", {child!r}, plan]
sys.exit(cli.main(["run", "good.pipe", "--model", "a:b"]))
"""


CHILD = """\
import os, sys, time, traceback
print(os.getpid(), sys.argv[1], flush=True)
try:
    time.sleep(100)
except BaseException:  # a Ctrl-C that it was not to get
    traceback.print_exc()
"""


@pytest.mark.parametrize("whole_group", [False, True])  # True: as Ctrl-C in a terminal
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_training_and_leaves_nothing(
    folder: Path, number: signal.Signals, whole_group: bool
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", RUNNER.format(child=CHILD)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    ) as process:
        assert process.stdout and process.stderr
        child, plan = process.stdout.readline().split()
        assert Path(plan).is_file()
        if whole_group:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        err = process.stderr.read()
        assert process.wait(30) == 128 + number
    assert "Traceback" not in err
    assert err.endswith("stretto: interrupted\n")
    assert not Path(plan).parent.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(int(child), 0)


def test_killed_it_leaves_no_process_and_no_file(folder: Path) -> None:
    """What nobody can catch: a process of its own stands by."""
    with subprocess.Popen(
        [sys.executable, "-c", RUNNER.format(child=CHILD)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        child, plan = process.stdout.readline().split()
        assert Path(plan).is_file()
        process.kill()
    end = time.monotonic() + 30
    while Path(f"/proc/{child}").exists() or Path(plan).parent.exists():
        assert time.monotonic() < end
        time.sleep(0.05)


SAID = """\
import os, sys, pathlib
print("what torchrun says", file=sys.stderr)
os.write(0, b"what a rank says\\n")
{tell}
print("Root Cause (first):\\n[0]:\\n rank      : 1 (local_rank: 1)\\n exitcode  : -9 (pid: 7)",
      file=sys.stderr)
sys.exit(1)
"""
TELL = """pathlib.Path(os.environ["STRETTO_RUN"], "error.txt").write_text({text!r})"""
UNTOLD = "rank 1: its process has ended without a word (killed, or out of memory?); it was"


@pytest.mark.parametrize(
    ("text", "last"),
    [
        ("rank 2 fails: ValueError: a\x1b[31m", r"error: rank 2 fails: ValueError: a\x1b[31m"),
        (UNTOLD, "error: rank 1: its process was ended by SIGKILL (out of memory?); it was"),
        ("", "error: rank 1 was ended by SIGKILL (out of memory?)"),
    ],
)
def test_why_a_training_failed_stands_last_and_alone(folder: Path, text: str, last: str) -> None:
    child = SAID.format(tell=TELL.format(text=text) if text else "")
    words = [sys.executable, "-c", RUNNER.format(child=child)]
    done = subprocess.run(words, capture_output=True, timeout=60, text=True)
    lines = done.stderr.splitlines()
    assert done.returncode == 1
    assert lines[0].startswith("$ ") and lines[1:] == ["what a rank says", last]


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("a", "--model a: write it as MODULE:NAME"),
        ("no.py:b", "--model no.py:b: there is no file `no.py`"),
        ("no:b", "--model no:b: there is no module no, here or installed"),
        ("a:bb", "a.py has no bb"),
        ("a.py:bb", "a.py has no bb"),
        ("json.no:b", "there is no module json.no"),
        ("bad.py:b", "bad.py:1: "),
    ],
)
def test_a_model_that_is_not_there_is_told_before_the_search(
    stretto: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, model: str, words: str
) -> None:
    monkeypatch.setattr("stretto.compiler.commands.run.find_spec", lambda _: object())
    (folder / "bad.py").write_text("def (:\n")
    code, _, err = stretto("run", "v_half", "--model", model)
    assert code == 2 and words in err and len(err.splitlines()) == 1, err


@pytest.mark.parametrize(
    "text",
    ["b = 1", "from os import *", "import c as b", "for b in (): ...", "globals()['b'] = 1"],
)
def test_a_model_that_may_be_there_is_left_to_the_ranks(folder: Path, text: str) -> None:
    from stretto.compiler.commands.startable import check_named

    (folder / "some.py").write_text(f"{text}\n")
    check_named("--model", "some.py:b.c")
    check_named("--model", "some:b")
    check_named("--model", "os.path:join")


def test_the_code_of_a_training_that_was_killed(folder: Path) -> None:
    for child, code in (("import os; os.kill(os.getpid(), 9)", 137), ("raise SystemExit(7)", 7)):
        words = [sys.executable, "-c", RUNNER.format(child=child)]
        assert subprocess.run(words, capture_output=True, timeout=60).returncode == code


def test_run_without_torch_says_how_to_get_it(
    stretto: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stretto.compiler.commands.run.find_spec", lambda _: None)
    code, _, err = stretto("run", "good.pipe", "--model", "a:b")
    assert code == 2
    assert "pip install" in err


def test_what_is_given_to_run_reaches_the_ranks(folder: Path) -> None:
    """Every flag that a rank knows, given to `stretto run`: the command that it starts says the
    same to a rank, and what is not given is left to the rank's default."""
    from stretto.compiler.arguments import TRAINING
    from stretto.compiler.commands import run
    from stretto.compiler.commands.parsers import commands_of, parser
    from stretto.runtime.__main__ import _parser
    from stretto.runtime.train.job import TrainingJob

    values = {
        int: "7",
        positive: "9",
        above_zero: "0.1",
        patience: "3m",
        str: "a.py:b",
    }
    words = ["run", "good.pipe"]
    for flag in TRAINING:
        words.append(flag.name)
        if flag.type is not None:
            words.append(flag.choices[-1] if flag.choices else values[flag.type])
    reader = parser()
    commands_of(reader)["run"].fill()
    chosen = reader.parse_args(words)
    command = run.command("good.plan", 2, chosen)
    told = vars(_parser().parse_args(command[command.index("stretto.runtime") + 1 :]))
    assert told.pop("plan") == "good.plan"
    assert told == {name: getattr(chosen, name) for name in told}
    assert len(told) == len(TRAINING) and None not in told.values() and told["timeout"] == 180
    left = vars(_parser().parse_args(["good.plan", "--model", "a:b"]))
    assert (left["steps"], left["timeout"], left["keep"], left["clip"]) == (10, 60, 3, None)
    assert {name: left[name] for name in TrainingJob._field_defaults} == TrainingJob._field_defaults
