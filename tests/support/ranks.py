"""Starts ranks: processes forked from a parent that has imported torch already, so that four gloo
ranks are there in a tenth of a second. Each has one thread, the default process group, and a
deadline; what was started is ended, and after the deadline it is printed where each rank was.

    outcome = run(4, body, plan)      # body(rank, plan) on each of four ranks
    outcome.results                   # what it returned, by rank
"""

import contextlib
import faulthandler
import multiprocessing
import os
import pickle
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing import forkserver
from pathlib import Path
from typing import Any, NamedTuple

import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from tests.support.paths import ROOT

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["pytest", "tests.support.warm"])
_warming = threading.Lock()


class Outcome(NamedTuple):
    """By rank: what the body returned (None where it did not), the exit code (negative: killed by
    that signal), and all it printed."""

    results: list[Any]
    codes: list[int]
    output: list[str]


def run(
    world: int,
    body: Callable[..., Any],
    *args: Any,
    seconds: float = 60.0,
    check: bool = True,
    stopped: tuple[int, ...] = (),
) -> Outcome:
    """`body(rank, *args)` on every rank. All must end in time, but those that are `stopped`, and
    unless `check` is false all must end well. The body must be a function of a module, its
    arguments and result picklable."""
    _warm()
    store = _store(0, first=True)
    with tempfile.TemporaryDirectory(prefix="ranks-") as folder:
        started = [
            CONTEXT.Process(
                target=_rank, args=(r, world, store.port, folder, seconds, body, args), daemon=True
            )
            for r in range(world)
        ]
        for process in started:
            process.start()
        end = time.monotonic() + seconds
        try:
            for r, process in enumerate(started):
                if r not in stopped:
                    process.join(max(0.0, end - time.monotonic()))
        finally:
            late = [process for process in started if process.is_alive()]
            for process in late:
                process.kill()
                process.join()
        codes = [process.exitcode or 0 for process in started]
        outcome = Outcome(
            [_result(folder, r) for r in range(world)],
            codes,
            [_output(folder, r) for r in range(world)],
        )
    told = "\n".join(f"--- rank {r}: exit {codes[r]}\n{outcome.output[r]}" for r in range(world))
    late = [process for r, process in enumerate(started) if process in late and r not in stopped]
    assert not late, f"{len(late)} ranks were still at work after {seconds} s\n{told}"
    assert not check or not any(outcome.codes), told
    return outcome


def _store(port: int, first: bool) -> TCPStore:
    return TCPStore("127.0.0.1", port, is_master=first, wait_for_workers=False)


def _warm() -> None:
    """Starts the parent, if it is not there; it looks for `warm` on a path of its own."""
    with _warming:
        before = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [before])])
        try:
            forkserver.ensure_running()
        finally:
            del os.environ["PYTHONPATH"]
            if before is not None:
                os.environ["PYTHONPATH"] = before


def _result(folder: str, rank: int) -> Any:
    path = Path(folder, f"{rank}.pickle")
    return pickle.loads(path.read_bytes()) if path.exists() else None


def _output(folder: str, rank: int) -> str:
    path = Path(folder, f"{rank}.txt")
    return path.read_text(errors="replace") if path.exists() else ""


def _rank(
    rank: int,
    world: int,
    port: int,
    folder: str,
    seconds: float,
    body: Callable[..., Any],
    args: tuple[Any, ...],
) -> None:
    """What runs in the process of a rank."""
    import torch

    output = open(Path(folder, f"{rank}.txt"), "w", buffering=1)  # noqa: SIM115  to the end
    os.dup2(output.fileno(), 1)
    os.dup2(output.fileno(), 2)
    sys.stdout = sys.stderr = output
    faulthandler.dump_traceback_later(max(0.5, seconds - 1), file=output)
    torch.set_num_threads(1)
    try:
        store = _store(port, first=False)
        dist.init_process_group(
            "gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=seconds)
        )
        result = body(rank, *args)
        path = Path(folder, f"{rank}.pickle")
        path.write_bytes(pickle.dumps(result))
    except BaseException:
        traceback.print_exc()
        output.flush()
        os._exit(1)
    with contextlib.suppress(Exception):
        dist.destroy_process_group()
    output.flush()
    os._exit(0)
