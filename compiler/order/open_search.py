"""What every search has while it goes on: how much it may spend, what it has proved, whom it tells,
and whether somebody wants it to end. The kinds of search add what they look at and what they found.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf
from typing import Any, Protocol, TypeVar

from stretto.compiler.order.budget import Budget, SearchProgress
from stretto.compiler.order.kept import LoopsToCome
from stretto.compiler.order.kernels.bundle import Ints
from stretto.compiler.order.kernels.jit import engage, ints

WORK = 1_000_000
"""Operations replayed for one unit of `effort`."""


class SearchDone(Exception):
    """What was found is good enough, or time is up and something was found."""


EngineStep = TypeVar("EngineStep")


class LoopsAreThere(Exception):
    """The compiled loops have come: what is left is better spent with them."""


class Valued(Protocol):
    """Something that was found."""

    @property
    def value(self) -> int:
        """What is minimized of it (ticks)."""
        ...


def _unset() -> Any:
    return ints([0])


@dataclass(slots=True, kw_only=True)
class OpenSearch:
    """`bound`: proven least value (ticks). `deadline`: the second of the Budget's clock at which it
    ends. `spent`: operations replayed, as effort counts them. `proven`: least value by exhaustive
    search, 0 where there was none. `stop`: 1 once loops are to return, with what they have.
    `coming`: compiled loops that another process makes, while this one uses plain ones. `asked`: a
    Ctrl-C came while loops ran. `held`: more results of the same moment are to come."""

    budget: Budget
    bound: int
    deadline: float
    spent: int = 0
    proven: int = 0
    reported: float = 0.0
    interrupted: bool = False
    stop: Ints = field(default_factory=_unset)
    coming: LoopsToCome | None = None
    asked: bool = False
    held: bool = False

    def results(self) -> list[Valued]:
        """What was found so far."""
        raise NotImplementedError

    def on_present_loops(self) -> None:
        """Lay everything out anew for the loops that this process has now."""
        raise NotImplementedError

    @property
    def enough(self) -> int:
        """The value (ticks) at which the search may stop."""
        return int(self.bound * (1 + (self.budget.gap or 0)))

    def least_value(self) -> int:
        """The best value so far; there must be one."""
        return min(one.value for one in self.results())

    def left(self) -> float:
        """What may still be spent: seconds, or units of effort where these count."""
        if self.budget.effort is not None:
            return self.budget.effort - self.spent / WORK
        return self.deadline - self.budget.clock()

    def over(self) -> bool:
        """Whether nothing may be spent any more."""
        return self.left() <= 0

    def stopped(self) -> bool:
        """Whether the search is to end: somebody wants it to, or time is up and there is an
        order."""
        late = self.budget.effort is None and self.over() and bool(self.results())
        return bool(self.stop[0]) or late

    def went_on(self, engine: str) -> None:
        """Something was tried: tell how it goes, and see whether the search is to go on. Raises
        `SearchDone`, `LoopsAreThere`, and `KeyboardInterrupt` if one came."""
        if self.results() and self.least_value() <= self.enough:
            raise SearchDone
        self.report(engine)
        if self.held:
            return
        if self.asked:
            raise KeyboardInterrupt
        if self.stopped():
            raise SearchDone
        if self.coming is not None and self.coming.worth(self.left() / self.budget.slower()):
            raise LoopsAreThere

    @contextmanager
    def on_these_loops(self) -> Iterator[None]:
        """While this lasts, compiled loops that are there already are left where they are: what is
        done takes less time than to read them."""
        coming = self.coming
        if coming is not None and coming.there():
            self.coming = None
        try:
            yield
        finally:
            self.coming = coming

    @contextmanager
    def together(self, engine: str) -> Iterator[None]:
        """What is submitted while this lasts was found at once: nothing ends the search between,
        but that one is good enough. Raises what `went_on` does."""
        self.held = True
        try:
            yield
        finally:
            self.held = False
        self.went_on(engine)

    def prove(self, value: int) -> None:
        """Nothing is better than `value` (ticks), as an exhaustive search has shown. Raises
        `SearchDone` when that makes the best good enough."""
        self.proven = max(self.proven, value)
        self.bound = max(self.bound, value)
        if self.least_value() <= self.enough:
            raise SearchDone

    def report(self, engine: str) -> None:
        """Tell the Budget's `progress` how it goes, once a second at most."""
        now = self.budget.clock()
        if self.budget.progress is not None and self.results() and now - self.reported >= 1:
            self.reported = now
            left = max(0.0, self.left()) if self.budget.effort is None else inf
            self.budget.progress(SearchProgress(engine, self.least_value(), self.bound, left))

    def interrupt(self) -> None:
        """A Ctrl-C came. Keeps the best order where there is one and the Budget has an
        `interrupted`, which is called; else raises `KeyboardInterrupt` again."""
        if not self.results() or self.budget.interrupted is None:
            raise KeyboardInterrupt
        self.interrupted = True
        self.budget.interrupted()

    @contextmanager
    def until_the_deadline(self) -> Iterator[None]:
        """While this lasts, loops return when time is up and there is an order, wherever they are:
        on a machine that is busy all of a sudden a run takes longer than was reckoned. An effort
        knows no time."""
        if self.budget.effort is not None:
            yield
            return
        alarm = threading.Timer(max(0.0, self.left()), self._ring)
        alarm.daemon = True
        alarm.start()
        try:
            yield
        finally:
            alarm.cancel()

    def _ring(self) -> None:
        if self.results():
            self.stop[0] = 1


def run_in_turn(
    state: OpenSearch,
    published: Sequence[EngineStep],
    others: Sequence[EngineStep],
    run: Callable[[Sequence[EngineStep]], None],
) -> None:
    """Have `run` take the steps, those of published orders first; the others again, on what was
    found, when compiled loops come while plain ones run. Raises `SearchDone` when what was
    found is good enough or time is up."""
    ahead = [*published, *others]
    with state.until_the_deadline():
        try:
            if published:
                with state.on_these_loops():
                    run(published)
                ahead = [*others]
                state.went_on("library")
            run(ahead)
        except LoopsAreThere:
            engage()
            state.on_present_loops()
            run(ahead)
