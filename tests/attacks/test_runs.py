"""Faults among ranks: what, when, where, and started how. Each time the culprit is named, all ends
within the timeout and some seconds, and no process is left."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import product
from pathlib import Path

import pytest

from tests.attacks.conftest import Tally
from tests.attacks.faults import (
    FAULTS,
    MOMENTS,
    TIMEOUT,
    WORLD,
    Fault,
    happen,
    prepare,
    processes,
    words,
)

pytestmark = pytest.mark.xdist_group("ranks")  # one after the other: they wait for each other

START, END = 90.0, 60.0  # seconds until a first step, and to the end: torchrun waits 30 for it
SLACK = 20.0  # seconds beside the timeout: a loaded machine, and the wait for another's words
ALL = [
    fault
    for fault in (Fault(*f) for f in product(FAULTS, MOMENTS, range(WORLD), ("plain",)))
    if fault.possible()
]
BY_OTHERS = [
    Fault(what, when, rank, launcher)
    for launcher in ("run", "torchrun")
    for what, when, rank in (
        *product(("kill", "leave", "raise"), ("build", "data", "forward", "backward"), (1,)),
        ("segv", "forward", 0),
        ("stop", "forward", 1),
        ("sleep", "backward", 2),
        ("exit", "optimizer", 0),
        ("raise", "import", 2),
    )
]


def seconds(fault: Fault) -> float:
    """Within which all has ended. torchrun waits half a minute before it kills who is stopped."""
    grace = 30.0 if (fault.what, fault.launcher) == ("stop", "torchrun") else 0.0
    return TIMEOUT + SLACK + grace


def check(faults: list[Fault], folder: Path, tally: Tally) -> None:
    """Makes them happen. All are tried before any is found to be wrong."""
    prepare(folder)
    wrong, named, slowest, left = [], 0, 0.0, 0
    for fault in faults:
        ending = happen(fault, folder)
        slowest, left = max(slowest, ending.seconds), left + ending.left
        good = ending.named(fault) and ending.told(fault)
        named += good
        ended = not ending.left and ending.seconds < seconds(fault) and any(ending.codes)
        if not good or not ended:
            wrong.append(f"{fault}: {ending.seconds:.1f} s, {ending.left} left\n{ending.text}")
        if os.environ.get("ATTACKS"):
            print(f"{good and ended} {fault}: {ending.seconds:.1f} s", flush=True)
        if wrong and os.environ.get("ATTACKS"):
            (folder / "wrong.txt").write_text("\n\n".join(wrong))
    tally(faults=len(faults), culprits_named=named, slowest=round(slowest), processes_left=left)
    assert not wrong, "\n\n".join(wrong[:3])


def test_faults_of_ranks(tmp_path: Path, tally: Tally, attacks: Callable[[int, int], int]) -> None:
    some = [Fault("kill", "backward", 0, "plain"), Fault("raise", "data", 2, "plain")]
    check(ALL if attacks(0, 1) else some, tmp_path, tally)


def test_faults_under_launchers(
    tmp_path: Path, tally: Tally, attacks: Callable[[int, int], int]
) -> None:
    some = [Fault("kill", "forward", 1, "run")]
    chosen = BY_OTHERS if attacks(0, 1) else some
    check(random.Random(0).sample(chosen, len(chosen)), tmp_path, tally)


@contextmanager
def started(folder: Path, command: list[str], moment: bytes) -> Iterator[subprocess.Popen[bytes]]:
    """A training that goes on and on, once it has said this; `said.txt` has what it says. Whatever
    comes of it, nothing is left behind."""
    prepare(folder)
    mark = f"MARK={folder}"
    environment = {**os.environ, "FAULT": "", "MOMENT": "", "CULPRIT": "-", "MARK": str(folder)}
    with open(folder / "said.txt", "wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", *command, *words(), "--steps", "1000000"],
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
