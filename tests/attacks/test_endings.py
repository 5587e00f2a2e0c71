"""Trainings that succeed, again and again: every process ends with code 0, says nothing but its
steps, and is gone. A thread that is inside torch while the interpreter is taken down would abort
one of hundreds.

`make test-attacks` makes 100 of ranks that are forked, 100 of ranks that are threads, 60 with
`stretto run`, 40 with torchrun and 40 of a script's own loop, of 2 to 4 ranks; of the script's each
second one ends without closing anything."""

import os
import queue
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from stretto.compiler.plan.plan import write_plan
from tests.attacks.conftest import Tally
from tests.attacks.faults import WORDS
from tests.attacks.launchers import begin, free_port, processes
from tests.support.paths import ROOT
from tests.support.ranks import CONTEXT, _warm
from tests.support.training import compiled

pytestmark = pytest.mark.xdist_group("ranks")

WORLDS = (2, 3, 4)
SIDES = 3  # trainings side by side
SECONDS = 100.0  # that one has
CALM = {"FAULT": "", "MOMENT": "", "CULPRIT": "none", "PATIENCE": "60", "OMP_NUM_THREADS": "1"}
SAID = re.compile(
    r"\$ .*|step \d/4  loss \d\.\d+.*|one_f_one_b on \d ranks: 4 steps in .*|"
    r"[WI]\d+ .*torch/distributed/run\.py.*|\**|.*OMP_NUM_THREADS.*"
)
"""A line that belongs to a training that succeeds; torchrun has some of its own."""

MANY = {"plain": 100, "local": 100, "run": 60, "torchrun": 40, "script": 40}
SAMPLE = {"plain": 3, "local": 3}


class Ended(NamedTuple):
    """Exit codes, the lines that do not belong, and how many processes were left."""

    codes: list[int]
    strange: list[str]
    left: int


def strange(text: str) -> list[str]:
    """The lines that do not belong."""
    return [line for line in text.splitlines() if line and not SAID.fullmatch(line)]


def forked(launcher: str, world: int, folder: Path) -> Ended:
    """Ranks that are forked, nobody above them, or one process with all of them."""
    _warm()
    alone, port = launcher == "local", free_port()
    words = [launcher, f"{world}.plan", *WORDS[1:]]
    started = []
    for rank in range(1 if alone else world):
        environment = {**CALM, "RANK": "-" if alone else str(rank), "WORLD_SIZE": str(world)}
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        given = (str(folder), environment, words, f"rank{rank}.txt")
        started.append(CONTEXT.Process(target=begin, args=given))
    for process in started:
        process.start()
    for process in started:
        process.join(SECONDS)
    left = [process for process in started if process.is_alive()]
    for process in left:
        process.kill()
        process.join()
    said = [(folder / f"rank{rank}.txt").read_text() for rank in range(len(started))]
    return Ended([p.exitcode or 0 for p in started], strange("\n".join(said)), len(left))


def commanded(launcher: str, world: int, folder: Path, closes: bool) -> Ended:
    """As users start ranks."""
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(world)]
    plan = f"{world}.plan"
    command = {
        "run": ["stretto.compiler.cli", "run", plan, *WORDS[1:]],
        "torchrun": [*torchrun, "-m", "stretto.runtime", plan, *WORDS[1:]],
        "script": [*torchrun, "mine.py", plan, "closes" if closes else "just ends"],
    }[launcher]
    mark = {"MARK": str(folder), "TMPDIR": str(folder)}
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env={**os.environ, **CALM, **mark},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    left = processes(f"MARK={folder}")
    files = [f"left is {path.name}" for path in folder.glob("stretto-*")]
    return Ended([done.returncode], strange(done.stdout + done.stderr) + files, len(left))


@pytest.mark.parametrize("launcher", MANY)
def test_a_success_ends_as_one(
    launcher: str, tmp_path: Path, tally: Tally, attacks: Callable[[int, int], int]
) -> None:
    if not (many := attacks(SAMPLE.get(launcher, 0), MANY[launcher])):
        pytest.skip("by make test-attacks")
    free = queue.SimpleQueue[Path]()
    for side in range(SIDES):
        folder = tmp_path / str(side)
        folder.mkdir()
        (folder / "mine.py").write_text((ROOT / "tests/attacks/faulty_model.py").read_text())
        for world in WORLDS:
            write_plan(
                compiled("one_f_one_b", ranks=world, microbatches=4), folder / f"{world}.plan"
            )
        free.put(folder)

    def one(number: int) -> Ended:
        folder, world = free.get(), WORLDS[number % len(WORLDS)]
        if launcher in ("plain", "local"):
            ended = forked(launcher, world, folder)
        else:
            ended = commanded(launcher, world, folder, closes=number % 2 == 0)
        free.put(folder)
        return ended

    with ThreadPoolExecutor(SIDES) as sides:
        endings = list(sides.map(one, range(many)))
    wrong = [(n, e) for n, e in enumerate(endings) if any(e.codes) or e.strange or e.left]
    left = sum(ended.left for ended in endings)
    tally(trainings=many, unclean=len(wrong), processes_left=left)
    assert not wrong, wrong[:3]
