"""Starts ranks in which a fault happens, as users start them, and tells what came of it. Where a
process per rank is forked from one that has imported torch, that alone differs."""

import contextlib
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from stretto.compiler.plan.plan import write_plan
from tests.attacks.faults import STOPS, TOGETHER, WORLD, Ending, Fault
from tests.support.paths import ROOT
from tests.support.ranks import CONTEXT, _warm
from tests.support.training import compiled

TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(WORLD)]
COMMANDS = {
    "run": ["stretto.compiler.cli", "run"],
    "torchrun": [*TORCHRUN, "-m", "stretto.runtime"],
    "script": [*TORCHRUN, "mine.py"],
}
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # as our command does it, before torch
START = 150.0  # seconds that ranks which load torch have until the fault happens
SECONDS = 60.0  # that all ranks have to end


def prepare(folder: Path) -> None:
    """The model and the plan, in a folder that need not be there."""
    folder.mkdir(exist_ok=True)
    (folder / "mine.py").write_text((ROOT / "tests/attacks/faulty_model.py").read_text())
    write_plan(compiled("one_f_one_b", ranks=WORLD, microbatches=4), folder / "small.plan")


def happen(fault: Fault, folder: Path) -> Ending:
    """Starts the ranks, waits for their end, and ends what is left."""
    mark = folder / "faulted"
    mark.unlink(missing_ok=True)
    (folder / "orphan").unlink(missing_ok=True)
    for said in folder.glob("rank*.txt"):
        said.unlink()
    shutil.rmtree(folder / "kept", ignore_errors=True)
    start = by_command if fault.launcher in COMMANDS else forked
    left, codes, text = start(fault, folder)
    ended = time.time()
    when, _, process = mark.read_text().partition(" ") if mark.exists() else ("0", "", "")
    if fault.what == "stop" and process:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(process), signal.SIGKILL)
    files = [p.name for p in folder.iterdir() if p.name.startswith("stretto-")]
    return Ending(ended - float(when), left, codes, text, files)


def forked(fault: Fault, folder: Path) -> tuple[int, list[int], str]:
    """A process per rank and nobody above them, as `RANK=0 … python -m stretto.runtime` is, or
    `RANK=0 … python mine.py` (`own`); or one for all (`local`, `threads`). Where nobody is above
    them nobody ends a rank that is stopped, or that hangs in its own code, before it has come to us
    or between the steps of its own loop."""
    _warm()
    port = free_port()
    started, alone = [], fault.launcher in TOGETHER
    theirs = ("start", *(("build", "data", "optimizer") if fault.launcher == "own" else ()))
    aside = fault.what in STOPS and (fault.what == "stop" or fault.when in theirs)
    for rank in range(1 if alone else WORLD):
        environment = {
            **fault.environment(),
            "WORLD_SIZE": str(WORLD),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "OMP_NUM_THREADS": "1",
            "MARK": str(folder),
            "RANK": "-" if alone else str(rank),
        }
        words = [fault.launcher, *fault.words()]
        given = (str(folder), environment, words, f"rank{rank}.txt")
        started.append(CONTEXT.Process(target=begin, args=given))
    for process in started:
        process.start()
    end = time.monotonic() + SECONDS
    for rank, process in enumerate(started):
        if not (aside and rank == fault.rank):
            process.join(max(0.0, end - time.monotonic()))
    late = [p for p in started if p.is_alive()]
    stopped = aside and not alone and started[fault.rank].is_alive()
    for process in late:
        process.kill()
        process.join()
    said = [path.read_text(errors="replace") for path in sorted(folder.glob("rank*.txt"))]
    return len(late) - stopped, [process.exitcode or 0 for process in started], "\n".join(said)


def free_port() -> int:
    """One that nobody listens at, and that was not given before: faults happen side by side."""
    while True:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = int(free.getsockname()[1])
        if port not in _given:
            _given.add(port)
            return port


_given: set[int] = set()


def begin(folder: str, environment: dict[str, str], words: list[str], said: str) -> None:
    """What runs in the process of a rank: the launcher, and its arguments; to this file."""
    os.chdir(folder)
    os.environ.update({name: value for name, value in environment.items() if value != "-"})
    file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False, buffering=1)  # noqa: SIM115
    sys.path.insert(0, folder)
    launcher, *arguments = words
    sys.argv = ["mine.py"]  # not those of whoever has forked this process
    from stretto.runtime.ending import end_with

    if environment.get("MOMENT") == "start" and environment["RANK"] == environment["CULPRIT"]:
        import mine  # type: ignore[import-not-found]

        mine.act("start")
    if launcher == "own":
        end_with(lambda: bool(runpy.run_path("mine.py", run_name="__main__")) - 1)
    if launcher == "threads":
        end_with(lambda: runpy.run_path("mine.py", run_name="mine")["own_threads"]() or 0)
    from stretto.runtime.__main__ import main

    end_with(lambda: main([*arguments, *(["--local"] if launcher == "local" else [])]))


def by_command(fault: Fault, folder: Path) -> tuple[int, list[int], str]:
    """`stretto run`, or torchrun, of our module or of a script. What a user's code has started
    itself outlives its rank under torchrun."""
    command = [sys.executable, "-m", *COMMANDS[fault.launcher]]
    command += fault.words() if fault.launcher != "script" else []
    environment = {**os.environ, **fault.environment(), "OMP_NUM_THREADS": "1", "MARK": str(folder)}
    environment |= {"TMPDIR": str(folder)}
    with open(folder / "said.txt", "w+b") as said:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=said, stderr=said, process_group=0
        )
        code = ended(process, folder / "faulted")
        time.sleep(0.2)
        left, orphan = processes(f"MARK={folder}"), folder / "orphan"
        if fault.launcher != "run" and orphan.exists():
            left = [number for number in left if str(number) != orphan.read_text()]
        for number in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        said.seek(0)
        return len(left), [code], said.read().decode(errors="replace")


def ended(process: subprocess.Popen[bytes], mark: Path) -> int:
    """The exit code of a process that is given time to come to the fault, which leaves its mark,
    and from then on to end; -1 where it is ended."""
    begun = time.monotonic()
    while not mark.exists() and process.poll() is None and time.monotonic() - begun < START:
        time.sleep(0.05)
    try:
        return process.wait(SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return -1


def processes(mark: str) -> list[int]:
    """Those that were started with this in their environment, and still run."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if mark.encode() in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return found
