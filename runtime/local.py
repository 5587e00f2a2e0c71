"""All ranks of a plan in one process, a thread each: for notebooks, tests and a first try. In comes
a plan and what each rank does; they do what they would do as processes."""

import threading
from collections.abc import Callable
from typing import TypeVar

from stretto.compiler.plan.plan import Plan
from stretto.runtime.coordination.failure import post_failure
from stretto.runtime.coordination.store import local_store
from stretto.runtime.errors import PipelineError
from stretto.runtime.transport.local import Hub, Local

T = TypeVar("T")


def run_local(plan: Plan, rank: Callable[[Local], T], device: str = "cpu") -> list[T]:
    """Calls `rank(transport)` on a thread for every rank of the plan; there it makes its
    `Executor(…, transport=transport)` and takes its steps. Returns what the calls gave, by rank.

    Re-raises the root cause of a failure: the first exception that was not caused by another
    rank's. Interrupted, it stops the ranks at their next wait and does not wait for them.
    """
    world = next(iter(plan.programs.values())).spec.ranks
    hub = Hub(world, device)
    results: dict[int, T] = {}
    errors: dict[int, BaseException] = {}

    def work(number: int) -> None:
        try:
            results[number] = rank(Local(hub, number))
        except BaseException as error:
            errors[number] = error
            _stop_others(hub, number, f"rank {number} fails: {error}")
            hub.fail(f"rank {number} stops: {error}")

    threads = [
        threading.Thread(target=work, args=(r,), name=f"rank {r}", daemon=True)
        for r in range(world)
    ]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except BaseException:  # Ctrl-C reaches this thread alone: the ranks are to end as well
        _stop_others(hub, -1, "interrupted")
        hub.fail("interrupted")
        raise
    if errors:
        order = sorted(errors, key=lambda r: (_quotes_another(errors[r]), r))
        raise errors[order[0]]
    return [results[r] for r in range(world)]


def _stop_others(hub: Hub, rank: int, message: str) -> None:
    """Tells all executors, those too that a rank is about to make."""
    for number in range(1, hub.executors + 2):
        post_failure(local_store(hub, number), rank, message)


def _quotes_another(error: BaseException) -> bool:
    """Whether the error only says that another rank has failed."""
    quotes = isinstance(error, PipelineError) and " stops: " in str(error)
    return quotes and error.__cause__ is None
