"""Errors in a training loop of one's own, under torchrun: in comes what ends a rank's loop, out
comes one sentence for all ranks, as `stretto run` prints it."""

import atexit
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist

from stretto.compiler.diagnostics.diagnostic import Rejected
from stretto.runtime.coordination.store import Store
from stretto.runtime.ending import flushed
from stretto.runtime.errors import PipelineError
from stretto.runtime.leave import tell_by, to_stderr
from stretto.runtime.train.telling import ErrorTeller, sentence_of


@contextmanager
def report_errors() -> Iterator[None]:
    """Around a training loop of your own, in every rank's process, from before its process group is
    made: what ends the loop is told once, by the first rank that knows, instead of by a traceback
    of every rank. Before the sentence stand the lines of the traceback that are your own code's
    (all of them where the variable STRETTO_TRACEBACK is `full`); torchrun's report ends with it.

    Raises `SystemExit` with code 1 in place of what was raised, so that what you have around it
    still runs; SystemExit and KeyboardInterrupt pass as they are."""
    teller, failed = ErrorTeller(), list[bool]()
    atexit.register(_end_if, failed)  # before those of the loop, and so called after them

    def tell(message: str, error: BaseException | None = None, known: bool = True) -> None:
        teller.store = _store()
        teller.tell(message, error.__cause__ if known and error else error)

    tell_by(tell)  # where a watchdog ends the process
    try:
        yield
    except Exception as error:
        failed.append(True)
        known = isinstance(error, PipelineError | Rejected | OSError)
        tell(sentence_of(error, int(os.environ.get("RANK", "0"))), error, known)
        raise SystemExit(1) from None
    finally:
        tell_by(to_stderr)


def _store() -> Store | None:
    """Where the ranks say who tells; None before they have a process group."""
    if not dist.is_initialized():
        return None
    return Store(dist.distributed_c10d._get_default_store(), "stretto/loop/")


def _end_if(failed: list[bool]) -> None:
    """A rank that has failed may have threads inside torch, which the interpreter's teardown would
    abort, and say so."""
    if failed:
        os._exit(flushed(1))
