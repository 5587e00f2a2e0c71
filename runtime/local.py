"""All ranks of a plan in one process, a thread each: for notebooks, tests and a first try. In comes
a plan and what each rank does; they do what they would do as processes."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import NoReturn, TypeVar

import torch

from stretto.compiler.plan.plan import Plan
from stretto.runtime.coordination.failure import post_failure
from stretto.runtime.coordination.store import local_store
from stretto.runtime.errors import PipelineError, words_of
from stretto.runtime.transport.local import Hub, Local

T = TypeVar("T")
LOOK = 0.2  # seconds from one look at what has failed to the next
LINGER = 10.0  # seconds that a rank has to end when another has failed


def run_local(
    plan: Plan, rank: Callable[[Local], T], device: str | torch.device = "cpu"
) -> list[T]:
    """Calls `rank(transport)` on a thread for every rank of the plan; there it makes its
    `Executor(…, transport=transport)` and takes its steps. Returns what the calls gave, by rank.

    On a GPU every rank issues to a stream of its own, which is the current one in `rank`. It begins
    behind what the caller's stream was given before, and what that is given afterwards comes behind
    all ranks; nothing waits for the device.

    Re-raises the root cause of a failure, with a note of its rank: the first exception that was not
    caused by another rank's. Raises `PipelineError` where that is a `sys.exit`, which would end
    this process without a word of who has asked for it. A rank that does not end within 10 s of a
    failure is left to itself. Interrupted, it stops the ranks at their next wait and does not wait
    for them.
    """
    world = next(iter(plan.programs.values())).spec.ranks
    hub = Hub(world, device)
    streams = OwnStreams(hub)
    results: dict[int, T] = {}
    errors: dict[int, BaseException] = {}

    def work(number: int) -> None:
        try:
            with streams.of_rank(number):
                results[number] = rank(Local(hub, number))
        except BaseException as error:
            errors[number] = error
            _stop_others(hub, number, f"rank {number} fails: {words_of(error)}")
            hub.fail(f"rank {number} stops: {words_of(error)}")

    threads = [
        threading.Thread(target=work, args=(r,), name=f"rank {r}", daemon=True)
        for r in range(world)
    ]
    for thread in threads:
        thread.start()
    try:
        _await(threads, errors)
    except BaseException:  # Ctrl-C reaches this thread alone: the ranks are to end as well
        _stop_others(hub, -1, "interrupted")
        hub.fail("interrupted")
        raise
    streams.join(failed=bool(errors))
    if errors:
        failed = dict(errors)  # a rank that was left to itself may add its own
        order = sorted(failed, key=lambda r: (_quotes_another(failed[r]), r))
        _raise(order[0], failed[order[0]])
    return [results[r] for r in range(world)]


def _raise(rank: int, error: BaseException) -> NoReturn:
    """Raises the error of a rank so that it is told whose it is."""
    if isinstance(error, SystemExit):
        raise PipelineError(f"rank {rank} fails: sys.exit({words_of(error)})") from error
    if not isinstance(error, PipelineError):  # those name their rank
        error.add_note(f"on rank {rank}")
    raise error


def _await(threads: Sequence[threading.Thread], errors: Mapping[int, BaseException]) -> None:
    """Until all have ended. Where one has failed, another may never come back from where it is."""
    end = float("inf")
    while (alive := [one for one in threads if one.is_alive()]) and time.monotonic() < end:
        alive[0].join(LOOK)
        if errors:
            end = min(end, time.monotonic() + LINGER)


class OwnStreams:
    """A stream of the device for every rank of the hub; without a device nothing."""

    def __init__(self, hub: Hub):
        self.device = device = hub.accelerator
        if device is not None:
            self.caller = device.current()
            self.own = [device.stream() for _ in range(hub.world)]

    @contextmanager
    def of_rank(self, number: int) -> Iterator[None]:
        """Around what the rank issues, on its thread."""
        if self.device is None:
            yield
            return
        with self.device.on(self.own[number]):
            self.own[number].wait_stream(self.caller)
            yield

    def join(self, failed: bool) -> None:
        """What the caller issues from now on comes behind all ranks. Where one has `failed`, what
        it left may still be under way on streams that nobody joined: then waits for the device."""
        if self.device is None:
            return
        for stream in self.own:
            self.caller.wait_stream(stream)
        if failed:
            with suppress(RuntimeError):  # the device's own, which the rank has raised already
                self.device.synchronize()


def _stop_others(hub: Hub, rank: int, message: str) -> None:
    """Tells all executors, those too that a rank is about to make."""
    for number in range(1, hub.executors + 2):
        post_failure(local_store(hub, number), rank, message)


def _quotes_another(error: BaseException) -> bool:
    """Whether the error only says that another rank has failed."""
    quotes = isinstance(error, PipelineError) and " stops: " in str(error)
    return quotes and error.__cause__ is None
