"""What the engines share while they look for an order: the best word so far, the starts that were
found on the way, and how much may still be spent."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil
from time import monotonic
from typing import Any

from stretto.compiler.order.budget import Budget, Progress
from stretto.compiler.order.kernels import evaluator
from stretto.compiler.order.kernels.arrays import Ints, Tables, tables
from stretto.compiler.order.kernels.evaluator import Samples, State
from stretto.compiler.order.kernels.instance import Model
from stretto.compiler.order.kernels.jit import ints

VAST = 100_000  # operations, for which a search that goes on to the optimum takes minutes
ENOUGH = Fraction(1, 500)  # above the bound is good enough for so many, unless told otherwise
WORK = 1_000_000  # operations replayed for one unit of `effort`


class Stop(Exception):
    """Good enough, or nothing left to spend."""


@dataclass(frozen=True, slots=True)
class Found:
    """A word, what is minimized of it (ticks), and who found it."""

    value: int
    engine: str
    word: Ints


@dataclass(slots=True)
class Hunt:
    """One search. `bound`: proven least value. `found`: the best of each engine, of
    each of its starts where it makes several."""

    model: Model
    budget: Budget
    bound: int
    t: Tables
    span: bool
    state: State
    deadline: float
    spent: int = 0
    proven: int = 0  # by exhaustive search
    found: dict[tuple[str, int], Found] = field(default_factory=dict)
    told: float = 0.0
    interrupted: bool = False

    @property
    def best(self) -> Found:
        """The best word so far; there must be one."""
        return min(self.found.values(), key=lambda one: one.value)

    @property
    def enough(self) -> int:
        """The value at which the search may stop."""
        gap = self.budget.gap
        if gap is None:
            gap = ENOUGH if self.model.size > VAST else Fraction(0)
        return int(self.bound * (1 + gap))

    def offer(self, word: Sequence[int] | Ints, engine: str, start: int = 0) -> int:
        """Take a flat word into account, if it can run. Its value, or -1. Raises `Stop` when it is
        good enough."""
        flat = ints(word)
        value: int = evaluator.evaluate(self.state, flat, self.span)
        self.spent += self.model.size
        if value < 0:
            return -1
        old = self.found.get((engine, start))
        if old is None or value < old.value:
            self.found[engine, start] = Found(value, engine, flat)
        if value <= self.enough:
            raise Stop
        self.tell(engine)
        return value

    def prove(self, value: int) -> None:
        """Nothing is better than `value`, as a search through everything has shown. Raises `Stop`
        when that makes the best good enough."""
        self.proven = max(self.proven, value)
        self.bound = max(self.bound, value)
        if self.best.value <= self.enough:
            raise Stop

    def tell(self, engine: str) -> None:
        """Let whoever waits know how it goes, once a second at most."""
        now = monotonic()
        if self.budget.progress is not None and self.found and now - self.told >= 1:
            self.told = now
            self.budget.progress(
                Progress(engine, self.best.value, self.bound, max(0.0, self.left()))
            )

    def interrupt(self) -> None:
        """A Ctrl-C came. The best so far is kept where there is one and somebody to be told so;
        else raises `KeyboardInterrupt` again."""
        if not self.found or self.budget.interrupted is None:
            raise KeyboardInterrupt
        self.interrupted = True
        self.budget.interrupted()

    def left(self) -> float:
        """Seconds that may still be spent; where effort counts, the part of it, in units."""
        if self.budget.effort is not None:
            return self.budget.effort - self.spent / WORK
        return self.deadline - monotonic()

    def over(self) -> bool:
        """Whether nothing may be spent any more."""
        return self.left() <= 0

    def samples(self) -> Samples:
        """The durations as they are."""
        return nominal(self.model, self.t)


def hunt(model: Model, budget: Budget, bound: int) -> Hunt:
    """A search that has found nothing yet."""
    t = tables(model)
    span = model.problem.spec.minimize == "span"
    state = evaluator.prepare(t, nominal(model, t), budget.seed)
    return Hunt(model, budget, bound, t, span, state, budget.deadline())


def nominal(model: Model, t: Tables) -> Samples:
    """One sample: the durations as they are."""
    return Samples(evaluator.table([model.duration]), evaluator.table([list(t.unit_ticks)]))


def jittered(model: Model, t: Tables, rows: int, seed: int) -> tuple[Tables, Samples]:
    """`rows` samples in which every duration varies by the Spec's jitter, and the Tables they go
    with: times are multiplied, so that short ones can vary at all."""
    numerator, denominator = model.problem.spec.jitter
    longest = max(model.duration, default=1)
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

    scaled = t._replace(
        need_lag=ints([scale * int(x) for x in t.need_lag]),
        next_lag=ints([scale * int(x) for x in t.next_lag]),
        extra_lag=ints([scale * int(x) for x in t.extra_lag]),
    )
    return scaled, Samples(
        evaluator.table(spread(model.duration)), evaluator.table(spread(t.unit_ticks))
    )
