"""All ranks of a plan in one process, a thread each: for notebooks, tests and a first try. What
they do is what they would do as processes."""

import threading
from collections.abc import Callable
from typing import TypeVar

from stretto.compiler.plan.plan import Plan
from stretto.runtime.errors import Stopped
from stretto.runtime.executor import board_of, post_failure
from stretto.runtime.transport.local import Hub, Local

T = TypeVar("T")


def run_local(plan: Plan, rank: Callable[[Local], T], device: str = "cpu") -> list[T]:
    """Calls `rank(transport)` on a thread for every rank of the plan; there it makes its
    `Executor(…, transport=transport)` and takes its steps. Returns what the calls gave, by rank.
    Raises what one of them raised: the first that was not merely stopped by another. Interrupted,
    it stops the ranks at their next wait and does not wait for them."""
    world = next(iter(plan.programs.values())).spec.ranks
    hub = Hub(world, device)
    results: dict[int, T] = {}
    errors: dict[int, BaseException] = {}

    def work(number: int) -> None:
        try:
            results[number] = rank(Local(hub, number))
        except BaseException as error:
            errors[number] = error
            words = f"rank {number} fails: {error}"
            post_failure(board_of(transport=Local(hub, number)), number, words)
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
        post_failure(board_of(transport=Local(hub, 0)), -1, "interrupted")
        hub.fail("interrupted")
        raise
    if errors:
        order = sorted(errors, key=lambda r: (_follows(errors[r]), r))
        raise errors[order[0]]
    return [results[r] for r in range(world)]


def _follows(error: BaseException) -> bool:
    """Whether the error only says that another rank has failed."""
    return isinstance(error, Stopped) and error.__cause__ is None and " stops: " in str(error)
