"""Ranks with a fault: which, when, on which rank, started how; and what came of it. The model does
the fault by itself, and notes the time; the rest is as a user starts it."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from stretto.compiler.plan.plan import write_plan
from tests.support.ranks import CONTEXT, _warm
from tests.support.training import compiled

WORLD = 3
FAULTS = ("kill", "segv", "leave", "raise", "exit", "stop", "sleep")
MOMENTS = ("import", "build", "data", "forward", "loss", "backward", "optimizer")
TIMEOUT = 6  # seconds, of the ranks

MODEL = """
import os, signal, sys, time
import torch
from torch import nn

def act(moment):
    if os.environ["MOMENT"] != moment or os.environ.get("RANK") != os.environ["CULPRIT"]:
        return
    with open("faulted", "w") as file:
        file.write(f"{time.time()} {os.getpid()}")
    match os.environ["FAULT"]:
        case "kill": os.kill(os.getpid(), signal.SIGKILL)
        case "segv": os.kill(os.getpid(), signal.SIGSEGV)
        case "leave": os._exit(3)
        case "raise": raise ValueError("too large")
        case "exit": sys.exit(4)
        case "stop": os.kill(os.getpid(), signal.SIGSTOP)
        case "sleep": time.sleep(1000)

act("import")

class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.calls = nn.Linear(4, 4), 0
    def forward(self, x):
        self.calls += 1
        if self.calls == 6:  # in the second step
            act("forward")
        y = self.linear(x)
        if self.calls == 6 and y.requires_grad:
            y.register_hook(lambda gradient: act("backward"))
        return y

class Optimizer(torch.optim.SGD):
    steps = 0
    def step(self):
        self.steps += 1
        if self.steps == 2:
            act("optimizer")
        return super().step()

class Mine:
    losses = 0
    def stage(self, index, count):
        act("build")
        torch.manual_seed(index)
        return Layer()
    def loss(self, output, target):
        self.losses += 1
        if self.losses == 6:
            act("loss")
        return (output - target).square().mean()
    def optimizer(self, parameters):
        return Optimizer(parameters, lr=0.1)
    def data(self, step):
        if step == 2:
            act("data")
        draw = torch.Generator().manual_seed(step)
        return torch.randn(8, 4, generator=draw), torch.zeros(8, 4)

model = Mine()
"""


class Fault(NamedTuple):
    """What happens, when, on which rank, and who has started the ranks."""

    what: str
    when: str
    rank: int
    launcher: str

    def possible(self) -> bool:
        """A loss is computed on the last rank alone."""
        return self.when != "loss" or self.rank == WORLD - 1

    def environment(self) -> dict[str, str]:
        return {"FAULT": self.what, "MOMENT": self.when, "CULPRIT": str(self.rank)}


class Ending(NamedTuple):
    """`seconds` from the fault until all ranks had ended; `left`: processes that had not by the
    deadline, the stopped one not counted; `text`: all that was said."""

    seconds: float
    left: int
    codes: list[int]
    text: str

    def named(self, fault: Fault) -> bool:
        """Whether what was said blames the rank of the fault, and no other."""
        return culprits(self.text) == {fault.rank}

    def told(self, fault: Fault) -> bool:
        """Whether it says what happened: the exception, or where the rank was."""
        if fault.what == "raise":
            return "ValueError: too large" in self.text
        return True


DEAD = re.compile(
    r"(?:rank |not answer: rank )(\d)(?:: its process (?:has|was|ended)| is stopped|: no answer|"
    r" did not come|, which keeps it)"
)
ASLEEP = re.compile(r"rank (\d) (?:computes|builds|loads|updates|makes)[^;\n]*, for \d+ s")
RAISED = re.compile(
    r"error: (?:rank (\d).* (?:fails(?: at [^:]*)?: |cannot )|.* fails on rank (\d))"
)


def culprits(text: str) -> set[int]:
    """The ranks that the text says are to blame: first those that have ended or are stopped, or
    have raised something; where there are none those that do not go on."""
    dead = {int(rank) for rank in DEAD.findall(text)}
    raised = {int(rank) for pair in RAISED.findall(text) for rank in pair if rank}
    return dead | raised or {int(rank) for rank in ASLEEP.findall(text)}


def prepare(folder: Path) -> None:
    """The model and the plan."""
    (folder / "mine.py").write_text(MODEL)
    write_plan(compiled("one_f_one_b", ranks=WORLD, microbatches=4), folder / "small.plan")


def happen(fault: Fault, folder: Path, seconds: float = 90.0) -> Ending:
    """Starts the ranks, waits for their end, and ends what is left."""
    mark = folder / "faulted"
    mark.unlink(missing_ok=True)
    start = {"plain": plain, "torchrun": torchrun, "run": by_run}[fault.launcher]
    left, codes, text = start(fault, folder, seconds)
    ended = time.time()
    when, _, process = mark.read_text().partition(" ") if mark.exists() else ("0", "", "")
    if fault.what == "stop" and process:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(process), signal.SIGKILL)
    return Ending(ended - float(when), left, codes, text)


def words() -> list[str]:
    return ["small.plan", "--model", "mine.py:model", "--steps", "4", "--timeout", str(TIMEOUT)]


def plain(fault: Fault, folder: Path, seconds: float) -> tuple[int, list[int], str]:
    """A process per rank and nobody above them, as `RANK=0 … python -m stretto.runtime` is, but
    forked from a process that has imported torch."""
    _warm()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank in range(WORLD):
        environment = {
            **fault.environment(),
            "RANK": str(rank),
            "WORLD_SIZE": str(WORLD),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "OMP_NUM_THREADS": "1",
        }
        started.append(CONTEXT.Process(target=_rank, args=(str(folder), environment, words())))
    for process in started:
        process.start()
    end = time.monotonic() + seconds
    for rank, process in enumerate(started):
        if not (fault.what == "stop" and rank == fault.rank):
            process.join(max(0.0, end - time.monotonic()))
    late = [p for r, p in enumerate(started) if p.is_alive()]
    left = len(late) - (fault.what == "stop" and started[fault.rank].is_alive())
    for process in late:
        process.kill()
        process.join()
    text = "\n".join((folder / f"rank{r}.txt").read_text(errors="replace") for r in range(WORLD))
    return left, [process.exitcode or 0 for process in started], text


def _rank(folder: str, environment: dict[str, str], arguments: list[str], said: str = "") -> None:
    """What runs in the process of a rank."""
    os.chdir(folder)
    os.environ.update(environment)
    said = said or f"rank{environment['RANK']}.txt"
    file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False, buffering=1)  # noqa: SIM115
    from stretto.runtime.__main__ import main

    os._exit(main(arguments))


def torchrun(fault: Fault, folder: Path, seconds: float) -> tuple[int, list[int], str]:
    """`torchrun --standalone`."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(WORLD), "-m", "stretto.runtime", *words()]
    return _started(command, fault, folder, seconds)


def by_run(fault: Fault, folder: Path, seconds: float) -> tuple[int, list[int], str]:
    """`stretto run`."""
    command = [sys.executable, "-m", "stretto.compiler.cli", "run", *words()]
    return _started(command, fault, folder, seconds)


def _started(
    command: list[str], fault: Fault, folder: Path, seconds: float
) -> tuple[int, list[int], str]:
    environment = {**os.environ, **fault.environment(), "OMP_NUM_THREADS": "1", "MARK": str(folder)}
    with open(folder / "said.txt", "w+b") as said:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=said, stderr=said, process_group=0
        )
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = -1
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        time.sleep(0.2)
        left = processes(f"MARK={folder}")
        for number in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        said.seek(0)
        return len(left), [code], said.read().decode(errors="replace")


def processes(mark: str) -> list[int]:
    """Those that were started with this in their environment, and still run."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if mark.encode() in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return found
