"""From a command line to a trained model: this process as one rank among others (`rank`), or as
all of them (`local`). In comes a `TrainingJob`, out comes an exit code. Here, and nowhere else, a
process group is made, errors are printed, and the exit code is chosen."""

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
from torch._C._distributed_c10d import PrefixStore, TCPStore
from torch._C._distributed_c10d import Store as TorchStore
from torch.distributed.elastic.multiprocessing.errors import record

from stretto.compiler.diagnostics.diagnostic import Rejected
from stretto.compiler.plan.plan import read_plan
from stretto.runtime.coordination.failure import post_failure
from stretto.runtime.coordination.handshake import roll_call
from stretto.runtime.coordination.peers import Peers
from stretto.runtime.coordination.store import Store, store_of
from stretto.runtime.errors import PipelineError
from stretto.runtime.local import run_local
from stretto.runtime.train.job import RankProcess, TrainingJob, TrainingReport
from stretto.runtime.train.loop import train
from stretto.runtime.transport.local import Local


@record
def rank(job: TrainingJob) -> int:
    """Trains as one rank, the one that torchrun's environment names. Returns the exit code."""
    me, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
    launching = own = None  # what the processes share before there is a group, and the executor's
    try:
        store = _torch_store(me, world, job.timeout)
        launching = Store(store, "launch/")
        roll_call(Peers(me, world, launching, job.timeout))
        device = _device()
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            store=PrefixStore("group", store),
            rank=me,
            world_size=world,
        )
        own = store_of()
        report = train(job, RankProcess(me, device, store=own))
    except (PipelineError, Rejected, OSError) as error:
        return _failed(error, me, launching, own)
    except BaseException as error:
        if own is not None:
            post_failure(own, me, f"rank {me} fails: {type(error).__name__}: {error}")
        raise
    dist.destroy_process_group()
    return _finished(report, me)


def local(job: TrainingJob) -> int:
    """Trains with all ranks as threads of this process. Returns the exit code."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    building = threading.Lock()

    def body(transport: Local) -> TrainingReport:
        here = RankProcess(transport.rank, device, transport=transport, building=building)
        return train(job, here)

    try:
        reports = run_local(read_plan(job.plan), body, str(device))
    except (PipelineError, Rejected, OSError) as error:
        return _failed(error, 0, None, None)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        os._exit(130)  # at an ordinary end, threads that are in the middle of torch abort
    return _finished(reports[0], 0)


def _finished(report: TrainingReport, me: int) -> int:
    if me == 0:
        print(report.summary, flush=True)
    return 1 if report.verified is False else 0


def _failed(error: Exception, me: int, launching: Store | None, own: Store | None) -> int:
    """Reports the error to all ranks; of those that have one to tell only the first prints it, with
    the traceback of the user's own code. Returns the exit code."""
    message = str(error)
    if isinstance(error, Rejected):
        message = "\n".join(diagnostic.message for diagnostic in error.diagnostics)
    if own is not None:
        post_failure(own, me, message)
    try:
        prints = launching is None or launching.first("told")
    except Exception:  # the store is gone
        prints = True
    if prints:
        cause = error.__cause__
        if isinstance(error, PipelineError) and cause is not None:  # the user's own code
            traceback.print_exception(cause)
        print(f"error: {message}", file=sys.stderr, flush=True)
        _record(message)
    else:
        time.sleep(1)  # torchrun ends all processes when the first has gone: not before it is told
    return 1


def _record(message: str) -> None:
    """Writes torchrun's error file: with what its processes left there it ends its own report."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path:
        more = {"py_callstack": f"error: {message}", "timestamp": str(int(time.time()))}
        told = {"message": {"message": message, "extraInfo": more}}
        Path(path).write_text(json.dumps(told))


def _torch_store(me: int, world: int, seconds: float) -> TorchStore:
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
        raise PipelineError(
            f"rank {me} reaches nobody at {host}:{port}: is rank 0 started?"
        ) from error
    return PrefixStore(f"stretto/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def _device() -> torch.device:
    """A GPU of its own where every rank of this machine can have one, else the CPU."""
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if not torch.cuda.is_available() or torch.cuda.device_count() < here:
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device
