"""Faults among ranks: what, when, where, and started how. Each time the culprit is named, all ends
within the timeout and some seconds, and no process is left."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import product
from pathlib import Path

import pytest

from tests.attacks.conftest import Tally
from tests.attacks.faults import FAULTS, MOMENTS, TIMEOUT, WORDS, WORLD, Ending, Fault
from tests.attacks.launchers import COMMANDS, happen, prepare, processes

pytestmark = pytest.mark.xdist_group("ranks")  # one after the other: they wait for each other

START, END = 90.0, 60.0  # seconds until a first step, and to the end: torchrun waits 30 for it
SLACK = 20.0  # seconds beside the timeout: a loaded machine, and the wait for another's words
SAY = ("run", "local")  # launchers under which our words are the last
MANY = {
    "plain": 1000,
    "own": 40,
    "local": 20,
    "threads": 20,
    "run": 16,
    "torchrun": 10,
    "script": 8,
}
"""By launcher how many pairs of a fault and a moment are made, of all that are possible."""


def chosen(launcher: str, many: int) -> list[Fault]:
    """So many, of every fault and at every moment, each on a rank of its own."""
    draw = random.Random(launcher)
    pairs = [(what, when) for what, when in product(FAULTS, MOMENTS)]
    draw.shuffle(pairs)
    found = []
    for what, when in pairs:
        ranks = [r for r in range(WORLD) if Fault(what, when, r, launcher).possible()]
        if ranks:
            found.append(Fault(what, when, draw.choice(ranks), launcher))
    return found[:many]


def seconds(fault: Fault) -> float:
    """Within which all has ended. A rank may be at one operation for five timeouts, as long as it
    computes; torchrun waits half a minute before it kills who is stopped."""
    spins = 5 * TIMEOUT if fault.what == "spin" else 0.0
    grace = 30.0 if fault.what in ("stop", "spin") and fault.launcher in COMMANDS else 0.0
    return TIMEOUT + SLACK + spins + grace


def faults_of(fault: Fault, ending: Ending) -> list[str]:
    """What is wrong with the ending. A fault behind a training that has succeeded is told by its
    exit code, and by whoever has started the ranks."""
    wrong = []
    silent = fault.when == "end" and fault.launcher != "run"
    if not silent and not ending.named(fault):
        wrong.append("another is blamed, or nobody")
    if not silent and not ending.told(fault):
        wrong.append("it is not told what happened")
    if fault.launcher in SAY and not silent and not ending.sentences():
        wrong.append("the last that is said is no sentence")
    if fault.launcher == "run" and ending.sentences() != 1:
        wrong.append("it is not the only one")
    if ending.left or ending.files:
        wrong.append(f"left are {ending.left} processes and {ending.files}")
    if not any(ending.codes):
        wrong.append("the exit code is 0")
    if ending.seconds > seconds(fault):
        wrong.append("it takes too long")
    return wrong


def check(faults: list[Fault], folder: Path, tally: Tally) -> None:
    """Makes them happen. All are tried before any is found to be wrong."""
    prepare(folder)
    wrong, slowest, left = [], 0.0, 0
    good: dict[str, list[bool]] = defaultdict(list)
    for fault in faults:
        ending = happen(fault, folder)
        told = faults_of(fault, ending)
        slowest, left = max(slowest, ending.seconds), left + ending.left
        for kind in fault[:2]:
            good[kind].append(not told)
        if told:
            wrong.append(f"{fault}: {'; '.join(told)}; {ending.seconds:.1f} s\n{ending.text}")
        if os.environ.get("ATTACKS"):
            print(f"{fault}: {'; '.join(told) or 'good'}, {ending.seconds:.1f} s", flush=True)
    table = {kind: f"{sum(found)}/{len(found)}" for kind, found in good.items()}
    for kinds in (FAULTS, MOMENTS):
        print("  ".join(f"{kind} {table[kind]}" for kind in kinds if kind in table))
    tally(faults=len(faults), wrong=len(wrong), slowest=round(slowest), processes_left=left)
    assert not wrong, "\n\n".join(wrong[:5])


@pytest.mark.parametrize("launcher", MANY)
def test_faults(
    launcher: str, tmp_path: Path, tally: Tally, attacks: Callable[[int, int], int]
) -> None:
    some = {"plain": [Fault("kill", "backward", 0, "plain"), Fault("strange", "data", 2, "plain")]}
    some["run"] = [Fault("segv", "forward", 1, "run")]
    some["local"] = [Fault("raise", "optimizer", 1, "local")]
    if not (tried := chosen(launcher, attacks(0, MANY[launcher])) or some.get(launcher)):
        pytest.skip("by make test-attacks")
    check(tried, tmp_path, tally)


@contextmanager
def started(folder: Path, command: list[str], moment: bytes) -> Iterator[subprocess.Popen[bytes]]:
    """A training that goes on and on, once it has said this; `said.txt` has what it says. Whatever
    comes of it, nothing is left behind."""
    prepare(folder)
    mark = f"MARK={folder}"
    environment = {**os.environ, "FAULT": "", "MOMENT": "", "CULPRIT": "-", "MARK": str(folder)}
    with open(folder / "said.txt", "wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", *command, *WORDS, "--steps", "1000000"],
            cwd=folder,
            env={**environment, "TMPDIR": str(folder)},
            stdout=said,
            stderr=said,
            process_group=0,
        )
    try:
        end = time.monotonic() + START
        while not re.search(moment, (told := (folder / "said.txt").read_bytes()), re.MULTILINE):
            assert process.poll() is None and time.monotonic() < end, told.decode()
            time.sleep(0.1)
        yield process
    finally:
        while left := processes(mark):
            for number in left:
                with suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
            process.poll()  # else its entry stays
            time.sleep(0.1)


def gone(folder: Path) -> list[int]:
    """What is left of its processes after so long, or as soon as nothing is."""
    end = time.monotonic() + END
    while (left := processes(f"MARK={folder}")) and time.monotonic() < end:
        time.sleep(0.1)
    return left


RUN = ["stretto.compiler.cli", "run"]
TORCHRUN = [
    *("torch.distributed.run", "--standalone", "--nproc-per-node", str(WORLD)),
    *("-m", "stretto.runtime"),
]


STARTS, TRAINS = rb"^\$ ", rb"^step "  # moments: what has been said by then


@pytest.mark.timeout(2 * (START + END))
@pytest.mark.parametrize(
    ("command", "number", "code", "moment"),
    [
        (RUN, signal.SIGKILL, -9, TRAINS),
        (RUN, signal.SIGKILL, -9, STARTS),
        (RUN, signal.SIGINT, 130, TRAINS),
        (RUN, signal.SIGINT, 130, STARTS),
        (RUN, signal.SIGTERM, 143, TRAINS),
        (RUN, signal.SIGTERM, 143, STARTS),
        (TORCHRUN, signal.SIGKILL, -9, TRAINS),
    ],
)
def test_who_has_started_them_ends(
    tmp_path: Path, command: list[str], number: int, code: int, moment: bytes
) -> None:
    """`stretto run`, or torchrun, while it trains and while it is about to: no process and no file
    is left."""
    sample = command is RUN and number == signal.SIGKILL
    if not os.environ.get("ATTACKS") and not sample:
        pytest.skip("by make test-attacks")
    with started(tmp_path, command, moment) as process:
        process.send_signal(number)
        found = process.wait(END)
        said = (tmp_path / "said.txt").read_text()
        assert found == code, said
        assert not gone(tmp_path), said
    kept = [p.name for p in tmp_path.iterdir() if p.name.startswith("stretto-")]
    assert not kept or command is TORCHRUN
