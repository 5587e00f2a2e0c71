"""Faults among ranks: what, when, where, and started how. Each time the culprit is named, all ends
within the timeout and some seconds, and no process is left.

`make test-attacks` makes every fault at every moment with ranks that are forked (a process each, a
script's own loop, threads), and once more with `stretto run`, torchrun or torchrun of a script:
each of these three has every fault and every moment, though not every pair of them."""

import os
import queue
import random
import re
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import product
from pathlib import Path

import pytest

from tests.attacks.conftest import Tally
from tests.attacks.faults import FAULTS, MOMENTS, TIMEOUT, TOGETHER, WORDS, WORLD, Ending, Fault
from tests.attacks.launchers import COMMANDS, happen, prepare, processes

pytestmark = pytest.mark.xdist_group("ranks")  # one after the other: they wait for each other

START, END = 90.0, 60.0  # seconds until a first step, and to the end: torchrun waits 30 for it
SLACK = 20.0  # seconds beside the timeout: a loaded machine, and the wait for another's words
SAY = ("run", "local")  # launchers under which our words are the last
FORKED = ("plain", "own", "local", "threads")  # launchers whose ranks do not load torch each time
SIDES = 3  # faults that happen side by side: ranks of forked ones mostly wait


def pairs(launcher: str) -> Iterator[Fault]:
    """Every fault at every moment at which this launcher's ranks can have it, in an order of its
    own, each on a rank of its own."""
    draw = random.Random(launcher)
    drawn = list(product(FAULTS, MOMENTS))
    draw.shuffle(drawn)
    for what, when in drawn:
        ranks = [r for r in range(WORLD) if Fault(what, when, r, launcher).possible()]
        if ranks:
            yield Fault(what, when, draw.choice(ranks), launcher)


def chosen(launcher: str) -> list[Fault]:
    """The faults that are made of this launcher: all pairs of a fault and a moment where its ranks
    are forked; of those that load torch in every process each pair with one of them, and more until
    each of them has every fault and every moment that it can have."""
    if launcher in FORKED:
        return list(pairs(launcher))
    return [fault for fault in covering() if fault.launcher == launcher]


def covering() -> list[Fault]:
    """Of the launchers that are slow: each pair of a fault and a moment, of a fault and a launcher,
    of a moment and a launcher that can be is there at least once. The launcher of a pair is the one
    to which it is most new, then the one that has fewest."""
    possible = {name: {fault[:2]: fault for fault in pairs(name)} for name in COMMANDS}
    found: dict[str, list[Fault]] = {name: [] for name in COMMANDS}

    def news(name: str, pair: tuple[str, str]) -> int:
        return sum(all(pair[k] != fault[k] for fault in found[name]) for k in (0, 1))

    for pair in dict.fromkeys(pair for name in COMMANDS for pair in possible[name]):
        able = [name for name in COMMANDS if pair in possible[name]]
        best = max(able, key=lambda name: (news(name, pair), -len(found[name])))
        found[best].append(possible[best][pair])
    for name in COMMANDS:
        for pair, fault in possible[name].items():
            if news(name, pair):
                found[name].append(fault)
    return [fault for faults in found.values() for fault in faults]


def test_what_is_covered() -> None:
    """As `chosen` says it. Every launcher is there with every fault and every moment it can have,
    every fault at every moment with some launcher that starts processes."""
    everything = {fault[:2] for name in COMMANDS for fault in pairs(name)}
    assert {fault[:2] for fault in covering()} == everything
    for name in (*FORKED, *COMMANDS):
        for kind in (0, 1):
            assert {f[kind] for f in chosen(name)} == {f[kind] for f in pairs(name)}, name
    assert {f[0] for f in everything} == set(FAULTS) and {f[1] for f in everything} == set(MOMENTS)
    assert len(covering()) < 1.1 * len(everything)  # and hardly any twice


def seconds(fault: Fault) -> float:
    """Within which all has ended. A rank may be at one operation for five timeouts, as long as it
    computes, and of ranks that are threads one seems to where another does; torchrun waits half a
    minute before it kills who is stopped."""
    seems = fault.what == "sleep" and fault.launcher in TOGETHER
    spins = 5 * TIMEOUT if fault.what == "spin" or seems else 0.0
    grace = 30.0 if fault.what in ("stop", "spin") and fault.launcher in COMMANDS else 0.0
    return TIMEOUT + SLACK + spins + grace


def silent(fault: Fault) -> bool:
    """A fault behind a training that has succeeded is told by its exit code, and by whoever has
    started the ranks."""
    return fault.when == "end" and fault.launcher != "run"


def faults_of(fault: Fault, ending: Ending) -> list[str]:
    """What is wrong with the ending."""
    wrong = []
    if not silent(fault) and not ending.named(fault):
        wrong.append("another is blamed, or nobody")
    if not silent(fault) and not ending.told(fault):
        wrong.append("it is not told what happened")
    if fault.launcher in SAY and not silent(fault) and not ending.sentences():
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


def made(faults: list[Fault], folder: Path) -> list[tuple[Fault, Ending, list[str]]]:
    """What came of each, and what is wrong with that: some are made to happen side by side, each in
    a folder of its own."""
    free = queue.SimpleQueue[Path]()
    for side in range(SIDES):
        prepare(folder / str(side))
        free.put(folder / str(side))

    def one(fault: Fault) -> tuple[Fault, Ending, list[str]]:
        place = free.get()
        ending = happen(fault, place)
        free.put(place)
        told = faults_of(fault, ending)
        if os.environ.get("ATTACKS"):
            print(f"{fault}: {'; '.join(told) or 'good'}, {ending.seconds:.1f} s", flush=True)
        return fault, ending, told

    with ThreadPoolExecutor(SIDES) as sides:
        return list(sides.map(one, faults))


def check(faults: list[Fault], folder: Path, tally: Tally) -> None:
    """Makes them happen. All are tried before any is found to be wrong."""
    endings = made(faults, folder)
    good: dict[str, list[bool]] = defaultdict(list)
    for fault, _, told in endings:
        for kind in fault[:2]:
            good[kind].append(not told)
    table = {kind: f"{sum(found)}/{len(found)}" for kind, found in good.items()}
    for kinds in (FAULTS, MOMENTS):
        print("  ".join(f"{kind} {table[kind]}" for kind in kinds if kind in table))
    lasted = sorted(ending.seconds for _, ending, _ in endings)
    tally(
        faults=len(faults),
        to_be_named=sum(not silent(fault) for fault in faults),
        named=sum(ending.named(fault) for fault, ending, _ in endings if not silent(fault)),
        seconds_median=round(lasted[len(lasted) // 2]),
        seconds_most=round(lasted[-1]),
        processes_left=sum(ending.left for _, ending, _ in endings),
        wrong=sum(bool(told) for _, _, told in endings),
    )
    wrong = [
        f"{fault}: {'; '.join(told)}; {ending.seconds:.1f} s\n{ending.text}"
        for fault, ending, told in endings
        if told
    ]
    assert not wrong, "\n\n".join(wrong[:5])


SAMPLE = {
    "plain": [Fault("kill", "backward", 0, "plain"), Fault("strange", "data", 2, "plain")],
    "run": [Fault("segv", "forward", 1, "run")],
    "local": [Fault("raise", "optimizer", 1, "local")],
}


@pytest.mark.parametrize("launcher", [*FORKED, *COMMANDS])
def test_faults(
    launcher: str, tmp_path: Path, tally: Tally, attacks: Callable[[int, int], int]
) -> None:
    tried = chosen(launcher) if attacks(0, 1) else SAMPLE.get(launcher, [])
    if not tried:
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
