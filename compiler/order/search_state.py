"""What the engines share while they look for an order: the best sequences so far and where each
came from, and how much may still be spent."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from math import ceil
from typing import Any

from stretto.compiler.order.budget import Budget
from stretto.compiler.order.check import check
from stretto.compiler.order.kernels import evaluator
from stretto.compiler.order.kernels.arrays import Arrays, arrays_of
from stretto.compiler.order.kernels.bundle import Ints
from stretto.compiler.order.kernels.evaluator import Evaluator, Samples
from stretto.compiler.order.kernels.instance import SearchInstance
from stretto.compiler.order.kernels.jit import ints
from stretto.compiler.order.kernels.sequences import apart, order_of
from stretto.compiler.order.open_search import OpenSearch, Valued

VAST = 100_000
"""Operations, for which a search that goes on to the optimum takes minutes."""

ENOUGH = Fraction(1, 500)
"""So little above the bound is good enough for VAST problems, unless told otherwise."""


@dataclass(frozen=True, slots=True)
class Incumbent:
    """A flat sequence, what is minimized of it (ticks), and the engine that found it."""

    value: int
    engine: str
    sequence: Ints


@dataclass(slots=True, kw_only=True)
class SearchState(OpenSearch):
    """One search. `span`: whether the span is minimized, not the makespan. `incumbents`: the best
    of each engine, of each of its starts where it makes several. `runs`: how often each engine has
    run."""

    instance: SearchInstance
    t: Arrays
    span: bool
    evaluator: Evaluator
    incumbents: dict[tuple[str, int], Incumbent] = field(default_factory=dict)
    runs: dict[str, int] = field(default_factory=dict)

    def results(self) -> list[Valued]:
        """The best of each engine."""
        return list(self.incumbents.values())

    @property
    def best(self) -> Incumbent:
        """The best sequence so far; there must be one."""
        return min(self.incumbents.values(), key=lambda one: one.value)

    @property
    def enough(self) -> int:
        """The value (ticks) at which the search may stop."""
        gap = self.budget.gap
        if gap is None:
            gap = ENOUGH if self.instance.size > VAST else Fraction(0)
        return int(self.bound * (1 + gap))

    def submit(self, sequence: Sequence[int] | Ints, engine: str, start: int = 0) -> int:
        """Take a flat sequence into account, if it can run and keeps to what was written. Its
        value (ticks), or -1. Raises `SearchDone` when it is good enough or time is up, and
        `LoopsAreThere`."""
        flat = ints(apart(self.instance, self.t, sequence) if self.instance.alone else sequence)
        value: int = evaluator.evaluate(self.evaluator, flat, self.span)
        self.spent += self.instance.size
        if value < 0:
            return -1
        old = self.incumbents.get((engine, start))
        if old is None or value < old.value:
            value = self.exact(flat, value)
            if value < 0:
                return -1
        if old is None or value < old.value:
            self.incumbents[engine, start] = Incumbent(value, engine, flat)
        self.went_on(engine)
        return value

    def exact(self, sequence: Ints, value: int) -> int:
        """The value (ticks) of a flat sequence that can run and was evaluated to `value`; -1 if it
        does not keep to what was written. Op classes do not know all that is said of single
        operations (which forward overlaps which backward, say), so where there is such a thing the
        Order is checked without them."""
        spec = self.instance.problem.spec
        if not (spec.written or spec.rules or spec.exceptions or spec.exceptional_pairs):
            return value
        order = order_of(self.instance, self.t, sequence, "")
        operations = order.problem.operations
        units = [unit for lane in order.lanes for unit in lane.units]
        if any(operations[i].kind not in spec.overlap for unit in units for i in unit[1:]):
            return -1
        try:
            outcome = check(order)
        except ValueError:
            return -1
        return outcome.span if self.span else outcome.makespan

    def on_present_loops(self) -> None:
        """Lay everything out anew for the loops that this process has now."""
        self.t = arrays_of(self.instance)
        self.evaluator = evaluator.evaluator_of(self.t, self.samples(), self.budget.seed)
        self.stop = self.evaluator.stop_now
        self.coming = None
        for key, one in self.incumbents.items():
            self.incumbents[key] = replace(one, sequence=ints(one.sequence))

    def samples(self) -> Samples:
        """The durations as they are."""
        return nominal(self.instance, self.t)

    def mean_ticks(self) -> float:
        """The mean duration (ticks) of an operation that takes any time at all."""
        some: list[Any] = [ticks for ticks in self.instance.duration if ticks]
        return float(sum(some) / max(1, len(some)))


def start_search(instance: SearchInstance, budget: Budget, bound: int) -> SearchState:
    """A search that has found nothing yet; `bound` in ticks."""
    t = arrays_of(instance)
    span = instance.problem.spec.minimize == "span"
    made = evaluator.evaluator_of(t, nominal(instance, t), budget.seed)
    return SearchState(
        instance=instance,
        budget=budget,
        bound=bound,
        t=t,
        span=span,
        evaluator=made,
        stop=made.stop_now,
        deadline=budget.deadline(),
    )


def nominal(instance: SearchInstance, t: Arrays) -> Samples:
    """One sample: the durations as they are."""
    return Samples(evaluator.table([instance.duration]), evaluator.table([list(t.unit_ticks)]))


def jittered(instance: SearchInstance, t: Arrays, rows: int, seed: int) -> tuple[Arrays, Samples]:
    """`rows` samples in which every duration varies by the Spec's jitter, and the Arrays they go
    with: times are multiplied, so that short ones can vary at all."""
    numerator, denominator = instance.problem.spec.jitter
    longest = max(instance.duration, default=1)
    scale = max(1, ceil(1000 / max(1, longest)))
    state = [(seed * 6151 + 77) % 2147483646 + 1]

    def vary(ticks: int) -> int:
        state[0] = state[0] * 48271 % 2147483647
        part = 2 * (state[0] % 10_001) - 10_000  # of 10 000
        return max(
            0, scale * ticks * (10_000 * denominator + numerator * part) // (10_000 * denominator)
        )

    def spread(values: Any) -> list[list[int]]:
        return [[vary(int(x)) for x in values] for _ in range(rows)]

    scaled = replace(
        t,
        need_lag=ints([scale * int(x) for x in t.need_lag]),
        next_lag=ints([scale * int(x) for x in t.next_lag]),
        extra_lag=ints([scale * int(x) for x in t.extra_lag]),
    )
    return scaled, Samples(
        evaluator.table(spread(instance.duration)), evaluator.table(spread(t.unit_ticks))
    )
