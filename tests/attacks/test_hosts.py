"""Two hosts and the link between them: slow, cut for a while, cut for good, and a host that goes.
Both sides name what is gone within the timeout, and nothing is left running."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from stretto.compiler.plan.plan import write_plan
from tests.attacks import hosts
from tests.attacks.conftest import Tally
from tests.support.training import compiled

pytestmark = [
    pytest.mark.xdist_group("ranks"),
    pytest.mark.skipif(not os.environ.get("ATTACKS"), reason="by make test-attacks"),
]

TIMEOUT, SLACK = 8, 12
MODEL = """
import os, time
import torch
from torch import nn

WIDTH = int(os.environ.get("WIDTH", "8"))

class Mine:
    def stage(self, index, count):
        torch.manual_seed(index)
        return nn.Linear(WIDTH, WIDTH)
    def loss(self, output, target):
        return (output - target).square().mean()
    def data(self, step):
        if step > 1:
            open("begun", "w").close()
            time.sleep(float(os.environ.get("PAUSE", "0")))
        draw = torch.Generator().manual_seed(step)
        return torch.randn(256, WIDTH, generator=draw), torch.zeros(256, WIDTH)

model = Mine()
"""


class Job(NamedTuple):
    """Four ranks, two on each host; `plain`: without torchrun."""

    folder: Path
    started: list[subprocess.Popen[bytes]]

    def ended(self, seconds: float, *of: int) -> float:
        """Waits for these processes; how long that took."""
        begun = time.monotonic()
        for number in of or range(len(self.started)):
            self.started[number].wait(max(0.1, begun + seconds - time.monotonic()))
        return time.monotonic() - begun

    def said(self, host: int) -> str:
        texts = sorted(self.folder.glob(f"host{host}*.txt"))
        return "\n".join(path.read_text(errors="replace") for path in texts)

    def begun(self) -> None:
        """Returns when the second step has."""
        end = time.monotonic() + 300
        while not (self.folder / "begun").exists():
            assert time.monotonic() < end, self.said(0) + self.said(1)
            time.sleep(0.05)


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Path]:
    if why := hosts.possible():
        pytest.skip(why)
    (tmp_path / "mine.py").write_text(MODEL)
    write_plan(compiled("one_f_one_b", ranks=4, microbatches=8), tmp_path / "four.plan")
    with hosts.two_hosts():
        yield tmp_path


def train(*flags: str, steps: int = 10000) -> list[str]:
    words = ["stretto.runtime", "four.plan", "--model", "mine.py:model", "--steps", str(steps)]
    return ["-m", *words, "--timeout", str(TIMEOUT), *flags]


def plain(folder: Path, *flags: str, steps: int = 10000, **more: str) -> Job:
    """A process per rank, as `srun` starts them."""
    started = []
    for rank in range(4):
        environment = {"RANK": str(rank), "WORLD_SIZE": "4", "MASTER_ADDR": hosts.ADDRESSES[0]}
        words = [sys.executable, *train(*flags, steps=steps)]
        file = f"host{rank // 2}-{rank}.txt"
        environment |= {"MASTER_PORT": "29511", **more}
        started.append(hosts.start(rank // 2, words, folder, file, **environment))
    return Job(folder, started)


def by_torchrun(folder: Path, *flags: str, steps: int = 10000, **more: str) -> Job:
    """The lines of docs/cluster.md."""
    started = []
    for host in range(2):
        words = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2"]
        words += ["--nproc-per-node", "2", "--node-rank", str(host)]
        words += ["--master-addr", hosts.ADDRESSES[0], "--master-port", "29512"]
        words += train(*flags, steps=steps)
        started.append(hosts.start(host, words, folder, f"host{host}.txt", **more))
    return Job(folder, started)


STARTS = pytest.mark.parametrize("started", [plain, by_torchrun])


def nothing_left(host: int) -> None:
    end = time.monotonic() + 10
    while hosts.running(hosts.NAMES[host]) and time.monotonic() < end:
        time.sleep(0.1)
    assert not hosts.running(hosts.NAMES[host])


@STARTS
def test_a_slow_link_changes_nothing_but_the_time(started, two: Path) -> None:  # type: ignore[no-untyped-def]
    hosts.slow("20mbit")
    job = started(two, "--verify", steps=2, WIDTH="1024")
    job.ended(120)
    assert [process.returncode for process in job.started] == [0] * len(job.started), job.said(0)
    assert "equal, bit for bit" in job.said(0)


@STARTS
def test_a_link_that_is_cut_for_a_while(started, two: Path) -> None:  # type: ignore[no-untyped-def]
    job = started(two, steps=400, PAUSE="0.01")
    job.begun()
    hosts.cut()
    time.sleep(TIMEOUT / 2)
    hosts.mend()
    job.ended(120)
    assert [p.returncode for p in job.started] == [0] * len(job.started), job.said(0) + job.said(1)


@STARTS
def test_a_link_that_is_cut_for_good(started, two: Path, tally: Tally) -> None:  # type: ignore[no-untyped-def]
    job = started(two)
    job.begun()
    hosts.cut()
    took = job.ended(TIMEOUT + SLACK + (60 if started is by_torchrun else 0))
    tally(seconds=round(took))
    here, there = job.said(0), job.said(1)
    assert "the step stands still: rank" in here and "ranks 2 and 3: no answer" in here, here
    assert f"the store at {hosts.ADDRESSES[0]}" in there and "does not answer" in there, there
    nothing_left(0)
    nothing_left(1)


@STARTS
@pytest.mark.parametrize("gone", [0, 1])
def test_a_host_that_is_gone(started, gone: int, two: Path, tally: Tally) -> None:  # type: ignore[no-untyped-def]
    job = started(two)
    job.begun()
    hosts.cut()
    for number in hosts.running(hosts.NAMES[gone]):
        os.kill(number, signal.SIGKILL)
    stays = 1 - gone
    own = [stays] if started is by_torchrun else [2 * stays, 2 * stays + 1]
    took = job.ended(TIMEOUT + SLACK + (60 if started is by_torchrun else 0), *own)
    tally(seconds=round(took))
    said = job.said(stays)
    if gone == 0:
        assert f"the store at {hosts.ADDRESSES[0]}" in said and "does not answer" in said, said
    else:
        assert re.search("ranks 2 and 3: no answer", said), said
    nothing_left(stays)


def test_without_the_interface_it_is_told(two: Path) -> None:
    """The name of both hosts is their own loopback: gloo meets nobody there."""
    job = plain(two, GLOO_SOCKET_IFNAME="lo")
    job.ended(60)
    assert all(process.returncode == 1 for process in job.started)
    said = job.said(0) + job.said(1)
    assert "do not reach each other by the interface lo (GLOO_SOCKET_IFNAME)" in said, said
