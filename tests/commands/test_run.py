"""`stretto run`: the training that it starts, and how both end."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command_line import Run


def test_run_starts_torchrun_and_prints_how(stretto: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from stretto.compiler.commands import run
    from stretto.compiler.commands.training import Training

    started: list[list[str]] = []

    def ended(_: Training, words: list[str]) -> int:
        started.append(words)
        return 3

    monkeypatch.setattr(run, "find_spec", lambda _: object())
    monkeypatch.setattr(Training, "run", ended)
    words = "run good.pipe --model a:b --data c:d --steps 5 --timeout 9 --verify --trust"
    assert stretto(*words.split())[0] == 3
    (command,) = started
    text = " ".join(command[1:])
    assert text.startswith("-m torch.distributed.run --standalone --nproc-per-node 2 -m stretto.")
    assert text.endswith("--model a:b --data c:d --steps 5 --timeout 9 --verify --trust")
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
