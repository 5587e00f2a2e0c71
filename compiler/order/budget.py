"""How much may be spent on an order, and who is told how it goes."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from time import monotonic, process_time
from typing import NamedTuple

from stretto.compiler.problem.problem import Problem


class SearchProgress(NamedTuple):
    """What a search has to say while it runs: the engine at work, the best value so far and the
    proven bound (ticks of what is minimized), and the seconds it may still take, without end where
    an effort counts. `best` is 0 before the first order: then `engine` says what is being done
    instead."""

    engine: str
    best: int
    bound: int
    left: float


@dataclass(frozen=True, slots=True)
class Budget:
    """`seconds` of wall-clock time at most, from the start of the search, or so many as are left
    `until` a second of the `clock`, where that is given: whoever has things to do before and after
    the search says so. `effort`, where given, is a deterministic budget in
    units of work instead: the same number gives the same order on every machine, and 0 means no
    search at all, only published schedules and lists. `gap`: good enough when the value is proven
    this close to the bound; None: when it meets it, or for very large steps comes close
    (`search_state.ENOUGH`). `engine`: run only this one. `cache` allows results of an equal Problem
    to be taken from, and left for, another run. `progress` is told of every step. `interrupted`,
    where given, is called on Ctrl-C once an order exists: the search then ends with the best so
    far. Without it, and before there is an order, `KeyboardInterrupt` is raised. `ended`
    is called when a search has ended with an order. `after`: the seconds of one core that the
    caller takes once the plan is there, about, which come out of the seconds too. `clock` counts
    seconds."""

    seconds: float = 30.0
    until: float | None = None
    effort: int | None = None
    seed: int = 0
    gap: Fraction | None = None
    engine: str | None = None
    cache: bool = False
    progress: Callable[[SearchProgress], None] | None = None
    interrupted: Callable[[], None] | None = None
    ended: Callable[[], None] | None = None
    after: Callable[[Problem], float] | None = None
    clock: Callable[[], float] = monotonic

    def deadline(self) -> float:
        """The second of the clock at which to stop; never, where effort is what counts."""
        if self.effort is not None:
            return float("inf")
        return self.clock() + self.seconds if self.until is None else self.until

    def slower(self) -> float:
        """How many seconds a second of work takes, about, as far as the time so far tells: more
        than one where others have the processor too, ten at most."""
        if self.until is None or self.effort is not None:
            return 1.0
        so_far = self.clock() - (self.until - self.seconds)
        return min(10.0, max(1.0, so_far / max(0.05, process_time())))
