"""What the engines of parts share: the best lanes so far and where each came from, and how much may
still be spent."""

from dataclasses import dataclass, field

from stretto.compiler.order.budget import Budget
from stretto.compiler.order.engines.parts.anneal import part_arrays
from stretto.compiler.order.engines.parts.instance import (
    Lanes,
    PartsInstance,
    clock,
    parts_instance,
)
from stretto.compiler.order.engines.parts.mirror import Mirror, mirror_of
from stretto.compiler.order.kernels.jit import ints
from stretto.compiler.order.kernels.part_words import PartArrays
from stretto.compiler.order.open_search import OpenSearch, Valued
from stretto.compiler.problem.problem import Problem


@dataclass(frozen=True, slots=True)
class FoundLanes:
    """Lanes, what is minimized of them (ticks), and the engine that found them."""

    value: int
    engine: str
    lanes: Lanes


@dataclass(slots=True, kw_only=True)
class PartsSearch(OpenSearch):
    """One search. `arrays`: the instance for the loops; `mirror` and `halved`: the same folded,
    where it can be. `found`: the best of each engine and each of its starts."""

    problem: Problem
    instance: PartsInstance
    arrays: PartArrays
    mirror: Mirror | None
    halved: PartArrays | None
    found: dict[tuple[str, int], FoundLanes] = field(default_factory=dict)

    def results(self) -> list[Valued]:
        """The best of each engine and start."""
        return list(self.found.values())

    @property
    def best(self) -> FoundLanes:
        """The best lanes so far; there must be some."""
        return min(self.found.values(), key=lambda one: one.value)

    @property
    def span(self) -> bool:
        """Whether the span is minimized, not the makespan."""
        return self.problem.spec.minimize == "span"

    def submit(self, lanes: Lanes, engine: str, start: int = 0) -> int:
        """Take lanes into account, if they can finish and keep to the limits. Their value (ticks),
        or -1. Raises `SearchDone` when it is good enough or time is up, and `LoopsAreThere`."""
        self.spent += self.instance.size
        timed = clock(self.instance, lanes)
        if timed is None or not timed.fits:
            return -1
        value = timed.span if self.span else timed.makespan
        old = self.found.get((engine, start))
        if old is None or value < old.value:
            self.found[engine, start] = FoundLanes(value, engine, lanes)
        self.went_on(engine)
        return value

    def on_present_loops(self) -> None:
        """Lay everything out anew for the loops that this process has now."""
        self.arrays = part_arrays(self.instance)
        self.halved = part_arrays(self.mirror.half) if self.mirror else None
        self.stop = ints([0])
        self.coming = None


def parts_search(problem: Problem, budget: Budget, bound: int) -> PartsSearch:
    """A search that has found nothing yet; `bound` in ticks."""
    instance = parts_instance(problem)
    mirror = mirror_of(problem, instance)
    return PartsSearch(
        problem=problem,
        instance=instance,
        budget=budget,
        bound=bound,
        arrays=part_arrays(instance),
        mirror=mirror,
        halved=part_arrays(mirror.half) if mirror else None,
        deadline=budget.deadline(),
    )
