"""From a command line to a trained model: this process as one rank among others (`rank`), or as
all of them (`local`). Here, and nowhere else, a process group is made, errors are printed, and the
exit code is chosen."""

import json
import os
import sys
import threading
import time
import traceback
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore
from torch.distributed.elastic.multiprocessing.errors import record

from stretto.compiler.diagnostics.diagnostic import Rejected
from stretto.compiler.plan.plan import read_plan
from stretto.runtime.errors import Stopped
from stretto.runtime.executor import board_of, post_failure
from stretto.runtime.handshake import roll_call
from stretto.runtime.local import run_local
from stretto.runtime.store import Board
from stretto.runtime.train.loop import Job, Report, train
from stretto.runtime.transport.local import Local


@record
def rank(job: Job) -> int:
    """This process is the rank that torchrun's environment says. Returns the exit code."""
    me, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
    desk = board = None
    try:
        store = _store(me, world, job.timeout)
        desk = Board(store, "launch/")
        roll_call(desk, me, world, job.timeout)
        device = _device()
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            store=PrefixStore("group", store),
            rank=me,
            world_size=world,
        )
        board = board_of()
        report = train(job, me, device, board=board)
    except (Stopped, Rejected, OSError) as error:
        return _refuse(error, me, desk, board)
    except BaseException as error:
        if board is not None:
            post_failure(board, me, f"rank {me} fails: {type(error).__name__}: {error}")
        raise
    dist.destroy_process_group()
    return _end(report, me)


def local(job: Job) -> int:
    """All ranks are threads of this process. Returns the exit code."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    building = threading.Lock()

    def body(transport: Local) -> Report:
        return train(job, transport.rank, device, transport=transport, building=building)

    try:
        reports = run_local(read_plan(job.plan), body, str(device))
    except (Stopped, Rejected, OSError) as error:
        return _refuse(error, 0, None, None)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        os._exit(130)  # at an ordinary end, threads that are in the middle of torch abort
    return _end(reports[0], 0)


def _end(report: Report, me: int) -> int:
    if me == 0:
        print(report.summary, flush=True)
    return 1 if report.verified is False else 0


def _refuse(error: Exception, me: int, desk: Board | None, board: Board | None) -> int:
    """Tells the other ranks, and the user once: the first rank that has something to say does."""
    words = str(error)
    if isinstance(error, Rejected):
        words = "\n".join(diagnostic.message for diagnostic in error.diagnostics)
    if board is not None:
        post_failure(board, me, words)
    try:
        mine = desk is None or desk.first("told")
    except Exception:  # the store is gone
        mine = True
    if mine:
        cause = error.__cause__
        if isinstance(error, Stopped) and cause is not None:  # the user's own code
            traceback.print_exception(cause)
        print(f"error: {words}", file=sys.stderr, flush=True)
        _record(words)
    else:
        time.sleep(1)  # torchrun ends all processes when the first has gone: not before it is told
    return 1


def _record(words: str) -> None:
    """For torchrun, which closes with what its processes left in such files."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path:
        more = {"py_callstack": f"error: {words}", "timestamp": str(int(time.time()))}
        told = {"message": {"message": words, "extraInfo": more}}
        Path(path).write_text(json.dumps(told))


def _store(me: int, world: int, seconds: float) -> Store:
    """torchrun's store, or where there is no torchrun one that rank 0 holds."""
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    try:
        store = TCPStore(
            host,
            port,
            world,
            is_master=me == 0 and not agent,
            timeout=timedelta(seconds=seconds),
            wait_for_workers=False,
            multi_tenant=True,
        )
    except dist.DistError as error:
        raise Stopped(f"rank {me} reaches nobody at {host}:{port}: is rank 0 started?") from error
    return PrefixStore(f"stretto/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def _device() -> torch.device:
    """A GPU of its own for every rank of this machine, else the CPU."""
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if not torch.cuda.is_available() or torch.cuda.device_count() < here:
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device
