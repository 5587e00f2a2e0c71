"""From a command line to a trained model: this process as one rank among others (`rank`), or as
all of them (`local`). In comes a `TrainingJob`, out comes an exit code. Here, and nowhere else, a
process group is made, errors are printed, and the exit code is chosen."""

import os
import sys
import threading
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import record

from stretto.compiler.diagnostics.diagnostic import Rejected
from stretto.compiler.plan.plan import read_plan
from stretto.runtime.aloud import answer, say
from stretto.runtime.coordination.failure import post_failure
from stretto.runtime.coordination.store import Store, store_of
from stretto.runtime.errors import PipelineError
from stretto.runtime.leave import tell_by, to_stderr
from stretto.runtime.local import run_local
from stretto.runtime.rank_program import plan_for_rank
from stretto.runtime.train.device import rank_device, shared_device
from stretto.runtime.train.early import EarlyWatch, told_by_a_signal
from stretto.runtime.train.environment import RankEnvironment, read_environment
from stretto.runtime.train.job import RankProcess, TrainingJob, TrainingReport
from stretto.runtime.train.loop import train
from stretto.runtime.train.signals import end_with_parent, on_signals
from stretto.runtime.train.start import (
    RankStart,
    connect,
    farewell,
    make_group,
    meet_all,
    tell_others,
)
from stretto.runtime.train.telling import FOLDER, ErrorTeller, sentence_of
from stretto.runtime.transport.local import Local


@record
def rank(job: TrainingJob) -> int:
    """Trains as one rank, the one that the environment names. Returns the exit code."""
    try:
        environment = read_environment(os.environ)
    except PipelineError as error:
        to_stderr(str(error))
        return 2
    if environment.agent:
        end_with_parent()
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
    progress = _Progress()
    tell_by(progress.tell)
    on_signals(lambda _: told_by_a_signal(progress.start, progress.teller.tell))
    try:
        report = _train(job, environment, progress)
    except BaseException as error:
        return _failed(error, environment.rank, progress)
    dist.destroy_process_group()
    farewell(progress.start, failed=False)
    if report.verified is False and FOLDER in os.environ:  # torchrun says no more than the code
        progress.teller.tell("the gradients are not those of one process")
    return _finished(report, environment.rank)


@dataclass
class _Progress:
    """How far the start of a rank has come: `start` is there when the store is reached, `own`, the
    executor's store, when there is a group."""

    teller: ErrorTeller = field(default_factory=ErrorTeller)
    start: RankStart | None = None
    own: Store | None = None

    def tell(self, report: str) -> None:
        """Tells why this rank ends, which it does next."""
        self.teller.tell(report)
        farewell(self.start, failed=True)


def _train(job: TrainingJob, environment: RankEnvironment, progress: _Progress) -> TrainingReport:
    me = environment.rank
    start = progress.start = connect(environment, job.plan, job.timeout)
    progress.teller.store = start.peers.store
    plan_for_rank(job.plan, me, environment.world)  # a plan that cannot be run is told at once
    meet_all(start)
    device = rank_device(job.device, environment.local_rank, environment.local_world)
    make_group(start, device)
    own = progress.own = store_of()
    return train(job, RankProcess(me, device, store=own, early=EarlyWatch(start, own)))


def local(job: TrainingJob) -> int:
    """Trains with all ranks as threads of this process. Returns the exit code: a `PipelineError`
    ends here, with its rank."""
    building, taken = threading.Lock(), set[int]()

    def body(transport: Local) -> TrainingReport:
        here = RankProcess(
            transport.rank, device, transport=transport, building=building, taken=taken
        )
        try:
            return train(job, here)
        except PipelineError as error:
            raise PipelineError(sentence_of(error, transport.rank)) from error.__cause__
        except SystemExit as error:
            raise PipelineError(sentence_of(error, transport.rank)) from error

    try:
        device = shared_device(job.device)
        reports = run_local(read_plan(job.plan), body, str(device))
    except (PipelineError, Rejected, OSError) as error:
        message = str(error) if isinstance(error, PipelineError) else sentence_of(error, 0)
        ErrorTeller().tell(message, error.__cause__)
        return 1
    except KeyboardInterrupt:
        say("interrupted")
        os._exit(130)  # at an ordinary end, threads that are in the middle of torch abort
    return _finished(reports[0], 0)


def _finished(report: TrainingReport, me: int) -> int:
    if me == 0:
        try:
            answer(report.summary)
        except OSError as error:
            say(f"error: standard output: {error.strerror}")
            return 1
    return 1 if report.verified is False else 0


def _failed(error: BaseException, me: int, progress: _Progress) -> int:
    """Reports the error to all ranks; of those that have one to tell only the first prints it, with
    the traceback of the user's own code. Returns the exit code."""
    known = isinstance(error, PipelineError | Rejected | OSError)
    message = sentence_of(error, me)
    tell_others(progress.start, message)
    if progress.own is not None:
        post_failure(progress.own, me, message)
    progress.teller.tell(message, error.__cause__ if known else error, whole=not known)
    farewell(progress.start, failed=True)
    sys.stdout.flush()
    os._exit(1)  # threads that wait for other ranks inside torch would keep the process
