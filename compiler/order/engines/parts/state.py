"""What the engines of parts share: the best lanes so far and where each came from, and how much may
still be spent."""

from dataclasses import dataclass, field
from time import monotonic

from stretto.compiler.order.budget import Budget, SearchProgress
from stretto.compiler.order.engines.parts.anneal import part_arrays
from stretto.compiler.order.engines.parts.instance import (
    Lanes,
    PartsInstance,
    clock,
    parts_instance,
)
from stretto.compiler.order.engines.parts.mirror import Mirror, mirror_of
from stretto.compiler.order.kernels.part_words import PartArrays
from stretto.compiler.order.search_state import WORK, SearchDone
from stretto.compiler.problem.problem import Problem


@dataclass(frozen=True, slots=True)
class FoundLanes:
    """Lanes, what is minimized of them (ticks), and the engine that found them."""

    value: int
    engine: str
    lanes: Lanes


@dataclass(slots=True)
class PartsSearch:
    """One search. `bound`: proven least value (ticks). `arrays`: the instance for the loops;
    `mirror` and `halved`: the same folded, where it can be. `found`: the best of each engine and
    each of its starts. `spent`: operations replayed, as effort counts them. `proven`: least value
    by exhaustive search, 0 where there was none."""

    problem: Problem
    instance: PartsInstance
    budget: Budget
    bound: int
    arrays: PartArrays
    mirror: Mirror | None
    halved: PartArrays | None
    deadline: float
    spent: int = 0
    proven: int = 0
    found: dict[tuple[str, int], FoundLanes] = field(default_factory=dict)
    reported: float = 0.0
    interrupted: bool = False

    @property
    def best(self) -> FoundLanes:
        """The best lanes so far; there must be some."""
        return min(self.found.values(), key=lambda one: one.value)

    @property
    def span(self) -> bool:
        """Whether the span is minimized, not the makespan."""
        return self.problem.spec.minimize == "span"

    @property
    def enough(self) -> int:
        """The value (ticks) at which the search may stop."""
        return int(self.bound * (1 + (self.budget.gap or 0)))

    def submit(self, lanes: Lanes, engine: str, start: int = 0) -> int:
        """Take lanes into account, if they can finish and keep to the limits. Their value (ticks),
        or -1. Raises `SearchDone` when it is good enough."""
        self.spent += self.instance.size
        timed = clock(self.instance, lanes)
        if timed is None or not timed.fits:
            return -1
        value = timed.span if self.span else timed.makespan
        old = self.found.get((engine, start))
        if old is None or value < old.value:
            self.found[engine, start] = FoundLanes(value, engine, lanes)
        if value <= self.enough:
            raise SearchDone
        self.report(engine)
        return value

    def prove(self, value: int) -> None:
        """Nothing is better than `value` (ticks), as an exhaustive search has shown. Raises
        `SearchDone` when that makes the best good enough."""
        self.proven = max(self.proven, value)
        self.bound = max(self.bound, value)
        if self.best.value <= self.enough:
            raise SearchDone

    def report(self, engine: str) -> None:
        """Tell the Budget's `progress` how it goes, once a second at most."""
        now = monotonic()
        if self.budget.progress is not None and self.found and now - self.reported >= 1:
            self.reported = now
            left = max(0.0, self.left())
            self.budget.progress(SearchProgress(engine, self.best.value, self.bound, left))

    def left(self) -> float:
        """What may still be spent: seconds, or units of effort where these count."""
        if self.budget.effort is not None:
            return self.budget.effort - self.spent / WORK
        return self.deadline - monotonic()

    def interrupt(self) -> None:
        """A Ctrl-C came. Keeps the best order where there is one and the Budget has an
        `interrupted`, which is called; else raises `KeyboardInterrupt` again."""
        if not self.found or self.budget.interrupted is None:
            raise KeyboardInterrupt
        self.interrupted = True
        self.budget.interrupted()


def parts_search(problem: Problem, budget: Budget, bound: int) -> PartsSearch:
    """A search that has found nothing yet; `bound` in ticks."""
    instance = parts_instance(problem)
    mirror = mirror_of(problem, instance)
    return PartsSearch(
        problem,
        instance,
        budget,
        bound,
        part_arrays(instance),
        mirror,
        part_arrays(mirror.half) if mirror else None,
        budget.deadline(),
    )
