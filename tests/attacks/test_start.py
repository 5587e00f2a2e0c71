"""What goes wrong at a start: one sentence that says what and names ranks, within the timeout, with
exit code 1 or 2. No key of the store is ever shown."""

import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.attacks import launchers
from tests.attacks.conftest import Tally
from tests.attacks.faults import WORDS
from tests.attacks.launchers import begin, prepare
from tests.support.ranks import CONTEXT, _warm

pytestmark = pytest.mark.xdist_group("ranks")

everything = pytest.mark.skipif(not os.environ.get("ATTACKS"), reason="by make test-attacks")
TIMEOUT, SLACK = 4, 40  # seconds; the first start loads torch
GOOD = {"WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}
NOTHING = {"FAULT": "", "MOMENT": "", "CULPRIT": "none"}


class Said(NamedTuple):
    """By process: exit code (None: it had not ended in time) and what it said; the seconds."""

    codes: list[int | None]
    texts: list[str]
    seconds: float

    def errors(self) -> list[str]:
        return re.findall(r"^error: .*", "\n".join(self.texts), re.MULTILINE)


def start(folder: Path, *given: dict[str, str], seconds: float = 60.0) -> Said:
    """Processes with these variables, forked from one that has imported torch. `RANK` and the name
    of the file with what is said go by their order, unless they are given."""
    _warm()
    prepare(folder)
    arguments = ["plain", *WORDS]
    arguments[arguments.index("--timeout") + 1] = str(TIMEOUT)
    started = []
    for number, variables in enumerate(given):
        environment = {**NOTHING, **GOOD, "RANK": str(number), **variables}
        chosen = {name: value for name, value in environment.items() if value != "-"}
        words_ = (str(folder), chosen, arguments, f"said{number}.txt")
        started.append(CONTEXT.Process(target=begin, args=words_))
    begun = time.monotonic()
    for process in started:
        process.start()
    for process in started:
        process.join(max(0.0, begun + seconds - time.monotonic()))
    took = time.monotonic() - begun
    codes = [process.exitcode for process in started]
    for process in started:
        process.kill()
        process.join()
    texts = [(folder / f"said{n}.txt").read_text() for n in range(len(given))]
    return Said(codes, texts, took)


def free_port() -> str:
    return str(launchers.free_port())


@contextmanager
def stranger(words: bytes) -> Iterator[str]:
    """Something else that listens at a port, takes who comes, and says this."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        kept = []

        def serve() -> None:
            while True:
                try:
                    connection = listening.accept()[0]
                except OSError:
                    return
                kept.append(connection)
                if words:
                    connection.sendall(words)

        threading.Thread(target=serve, daemon=True).start()
        yield str(listening.getsockname()[1])
        for connection in kept:
            connection.close()


def check(said: Said, *sentences: str, codes: tuple[int, ...] = (1,)) -> None:
    """Each process has ended in time with one of these codes, and each sentence was said."""
    told = "\n".join(said.texts)
    assert all(code in codes for code in said.codes), (said.codes, told)
    for sentence in sentences:
        assert re.search(sentence, told), told
    assert "Traceback" not in told and not re.search(r"\w+/\d+/\d", told), told
    assert said.errors()


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"", marks=everything),
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
    ],
)
def test_a_port_at_which_something_else_listens(tmp_path: Path, answer: bytes) -> None:
    with stranger(answer) as port:
        said = start(tmp_path, *[{"MASTER_PORT": port}] * 3)
    check(
        said,
        f"error: rank 0 cannot keep the store at 127.0.0.1:{port}: another program listens",
        "error: what answers rank [12] at .* is not the store of rank 0",
    )
    assert said.seconds < TIMEOUT + SLACK


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ([{"WORLD_SIZE": "-"}], "RANK and MASTER_ADDR and MASTER_PORT, but not WORLD_SIZE"),
        ([{"RANK": "-"}], "WORLD_SIZE and MASTER_ADDR and MASTER_PORT, but not RANK"),
        ([{"RANK": "three"}], "RANK is `three`, not a whole number"),
        ([{"RANK": "3"}], "RANK is 3: it must be from 0 to 2, since WORLD_SIZE is 3"),
        ([{"MASTER_PORT": "70000"}], "MASTER_PORT is 70000: it must be from 0 to 65535"),
        ([{"WORLD_SIZE": "0"}], "WORLD_SIZE is 0: it must be from 1"),
        ([{"LOCAL_RANK": "2", "LOCAL_WORLD_SIZE": "2"}], "LOCAL_RANK is 2"),
    ],
)
def test_variables_that_make_no_sense(
    tmp_path: Path, variables: list[dict[str, str]], sentence: str
) -> None:
    said = start(tmp_path, *[{"MASTER_PORT": "29533", **given} for given in variables])
    check(said, re.escape(sentence), codes=(2,))
    assert len(said.errors()) == 1


@everything
def test_who_is_missing(tmp_path: Path) -> None:
    port = {"MASTER_PORT": free_port()}
    said = start(tmp_path, port, port)
    check(said, "error: rank 2 did not come within 4 s: is every process started?")
    assert len(said.errors()) == 1 and said.seconds < TIMEOUT + SLACK
    said = start(tmp_path, {**port, "RANK": "1"}, {**port, "RANK": "2"})
    check(said, "error: rank [12] reaches nobody at 127.0.0.1:.* within 4 s: is rank 0 started?")
    assert said.seconds < TIMEOUT + SLACK


def test_different_worlds(tmp_path: Path) -> None:
    port = {"MASTER_PORT": free_port()}
    said = start(tmp_path, port, {**port, "WORLD_SIZE": "4"}, port)
    check(said, "ranks 0 and 2 for 3 and rank 1 for 4|the plan is for 3 ranks, and there are 4")
    said = start(tmp_path, *[{**port, "WORLD_SIZE": "2"}] * 2)
    check(said, "the plan is for 3 ranks, and there are 2: start 3")
    assert len(said.errors()) == 1


@everything
def test_a_seat_that_is_taken(tmp_path: Path) -> None:
    port = {"MASTER_PORT": free_port()}
    said = start(tmp_path, port, port, {**port, "RANK": "1"}, {**port, "RANK": "2"})
    check(said, "error: rank 1 is there already, at .*: is RANK 1 for two processes", codes=(0, 1))


@everything
def test_two_jobs_on_a_machine(tmp_path: Path, tally: Tally) -> None:
    """Each with its port, at the same time; then one after the other at one port."""
    first, second = tmp_path / "first", tmp_path / "second"
    found: dict[int, Said] = {}
    ports = [free_port(), free_port()]

    def job(number: int, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        found[number] = start(folder, *[{"MASTER_PORT": ports[number]}] * 3)

    jobs = [threading.Thread(target=job, args=pair) for pair in ((0, first), (1, second))]
    for thread in jobs:
        thread.start()
    for thread in jobs:
        thread.join()
    assert [found[n].codes for n in (0, 1)] == [[0, 0, 0]] * 2, found
    assert start(first, *[{"MASTER_PORT": ports[0]}] * 3).codes == [
        0,
        0,
        0,
    ]  # nothing of it is left
    tally(jobs=3)


@everything
def test_jobs_that_are_told_apart(tmp_path: Path) -> None:
    port = {"MASTER_PORT": free_port()}
    said = start(tmp_path, port, {**port, "SLURM_JOB_ID": "7"}, port)
    check(said, "error: rank 1 and rank 0 are of different jobs")
