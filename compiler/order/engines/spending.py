"""How engines spend a share of what is left: runs of so many moves, side by side, each result
submitted, until the share is spent."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from stretto.compiler.order.kernels.bundle import Ints
from stretto.compiler.order.kernels.jit import fast
from stretto.compiler.order.open_search import OpenSearch
from stretto.compiler.order.search_state import SearchState

CHAINS = 2
"""Runs side by side, whatever the machine has: a seed means the same everywhere."""


@dataclass(frozen=True, slots=True)
class RunBatch:
    """Runs of one engine, numbered from `first` to below `last` (none where there is no end),
    each `cost` operations replayed. The best results of `kept` of them are starts for others: run
    k counts as the engine's start k mod `kept`."""

    engine: str
    cost: int
    kept: int
    first: int = 0
    last: float = float("inf")


def spend(
    state: SearchState, until: float, work: Callable[[int], Ints | None], batch: RunBatch
) -> None:
    """Run `work` with the numbers of the batch and submit the flat sequences that it returns,
    until no more than `until` is left. Raises `SearchDone` when one is good enough."""
    turn = batch.first
    for _ in rounds(state, until):
        if turn >= batch.last:
            break
        found = side_by_side(state, work, range(turn, turn + CHAINS))
        state.spent += batch.cost
        with state.together(batch.engine):
            for k, sequence in enumerate(found, turn):
                if sequence is not None:
                    state.submit(sequence, batch.engine, k % batch.kept)
        turn += CHAINS


def rounds(state: OpenSearch, until: float) -> Iterator[int]:
    """Numbers from 0 on, as long as more than `until`, and anything at all, is left. Where seconds
    count there is one as long as the search goes on: on a machine that is busy they may be gone
    before an engine has begun, and what an engine does in its turn is a matter of work."""
    turn = 0
    timed = state.budget.effort is None
    while (state.left() > until and not state.over()) or (timed and not turn):
        if state.stopped():
            return
        yield turn
        turn += 1


FEWEST = 10
"""Moves of a run of plain loops, where seconds count."""


@dataclass(frozen=True, slots=True)
class RunLength:
    """How many moves a run makes: `most`; with an effort, or where loops are not compiled, a
    twentieth, but `least`. Where seconds count, so few that `parts` runs fit into what is left."""

    most: int
    least: int
    parts: int

    def moves(self, state: SearchState, until: float, seconds: Callable[[], float]) -> int:
        """The number, where no more than `until` is to be left; `seconds` measures how long a
        move takes, and is asked only where that counts."""
        many = self.most
        if state.budget.effort is not None or not fast():
            many = max(self.least, many // 20)
        if state.budget.effort is None:
            each = max(1e-9, seconds())
            room = int((state.left() - until) / self.parts / each)
            many = max(max(self.least, 100) if fast() else FEWEST, min(many, room))
        return many


def side_by_side(state: OpenSearch, work: Callable[[int], Any], jobs: Iterable[int]) -> list[Any]:
    """The results of some jobs, on threads where loops are compiled. A Ctrl-C makes them return
    what they have."""
    if not fast():
        return [work(k) for k in jobs]
    with ThreadPoolExecutor(CHAINS) as pool:
        running = [pool.submit(work, k) for k in jobs]
        try:
            wait(running)
        except KeyboardInterrupt:
            state.stop[0] = 1
            state.asked = True
        return [one.result() for one in running]
