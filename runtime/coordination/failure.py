"""How the failure of one rank reaches the others. The first to fail posts why; the others quote it
instead of telling what it did to them. In comes an exception; out comes the `PipelineError` that
this rank raises."""

import re
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from stretto.runtime.coordination.peers import Peers
from stretto.runtime.coordination.store import Store
from stretto.runtime.describe import ranks
from stretto.runtime.errors import PipelineError, first_line_of, spelled

GRACE = 3.0  # seconds in which the reason of a lost connection may arrive
KEY = "failed"


class Failure(NamedTuple):
    """Which rank failed first (-1: none, the user interrupted), and its message."""

    rank: int
    message: str


def post_failure(store: Store, rank: int, message: str) -> None:
    """Tells the other ranks why this one ends, unless another was first."""
    store.on_end()
    try:
        store.post_first(KEY, Failure(rank, named(rank, message)))
    except Exception:  # nobody left to tell
        return


def named(rank: int, message: str) -> str:
    """The message with the rank that it comes from, unless it names ranks itself or is about the
    plan, the same on all."""
    if re.search(r"\branks? \d", message) or re.match("th(e|is) plan", message):
        return message
    return f"rank {rank}: {message}"


def failure_elsewhere(store: Store, rank: int) -> Failure | None:
    """The failure that another rank than this one has posted."""
    posted = store.read(KEY)
    failure = None if posted is None else Failure(*posted)
    return None if failure is None or failure.rank == rank else failure


def stopped_by(rank: int, failure: Failure) -> PipelineError:
    """What this rank raises when another has failed."""
    return PipelineError(f"rank {rank} stops: {failure.message}")


def listen(peers: Peers) -> None:
    """Lets every wait on the store end with a `PipelineError` as soon as another rank fails, or
    this rank's own watchdog has given up."""
    store, rank = peers.store, peers.rank

    def raise_failure() -> None:
        posted = store.read(KEY)
        if posted is not None:
            failure = Failure(*posted)
            own = failure.rank == rank
            raise PipelineError(failure.message) if own else stopped_by(rank, failure)

    store.on_wait = raise_failure
    near = peers.neighbours
    if near is not None:
        store.on_lost, store.on_end = near.silent, near.own.end
        store.keeper_told = lambda: near.told(0)


class Ending(NamedTuple):
    """Why a step ended: the `reason` (another rank's message where it failed first), the `error`
    to raise and its `cause`."""

    reason: str
    error: PipelineError
    cause: Exception | None


def ending(
    peers: Peers, where: str, waiting_for: Sequence[int], error: Exception, when: str = ""
) -> Ending:
    """How a step ends that raised this exception on this rank; the other ranks are told, unless one
    of them failed first. `where` describes the instruction that raised, `when` is ` at step 3`;
    `waiting_for` has the ranks that it waited for: if there are any, the exception may be the trace
    of their end, and their reason is awaited for `GRACE` seconds."""
    peers.store.on_end()
    lost = bool(waiting_for) and not isinstance(error, PipelineError)
    known = _await_failure(peers, waiting_for, GRACE if lost else 0.0)
    if known is not None:
        return Ending(known.message, stopped_by(peers.rank, known), None)
    at = f"rank {peers.rank} {where}"
    if lost:
        message = f"{at}{when}, and has lost {_lost(peers, waiting_for, error)}"
    elif isinstance(error, PipelineError):
        message = f"{at}{when}: {error}"
    else:
        message = f"{at} and fails{when}: {spelled(error)}"
    post_failure(peers.store, peers.rank, message)
    return Ending(message, PipelineError(message), error)


def _lost(peers: Peers, waiting_for: Sequence[int], error: Exception) -> str:
    """Which ranks a broken connection was to, and what is known of them."""
    near = peers.neighbours
    gone = near.gone() if near else []
    if near and gone:
        return near.obituary(gone)
    message = f"{ranks(waiting_for)}: {first_line_of(error)}"
    try:
        peers.store.read(KEY)
    except Exception:
        message += f"; {peers.store.lost()}"
    return message


def _await_failure(peers: Peers, of: Sequence[int], seconds: float) -> Failure | None:
    """The failure of another rank, if it is posted within so many seconds. A rank that this one
    waits for posts no more when its process has ended."""
    end = time.monotonic() + seconds
    near = peers.neighbours
    while True:
        over = near is not None and bool(near.ended(of))
        try:
            posted: Any = peers.store.read(KEY)
        except Exception:  # the store is gone with the rank that failed
            return None
        if posted is not None:
            failure = Failure(*posted)
            return failure if failure.rank != peers.rank else None
        if over or time.monotonic() >= end:
            return None
        time.sleep(0.05)
