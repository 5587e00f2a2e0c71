"""How much may be spent on an order, and who is told how it goes."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from time import monotonic
from typing import NamedTuple


class Progress(NamedTuple):
    """What a search has to say while it runs: the engine at work, the best value so far and the
    proven bound (ticks of what is minimized), and the seconds it may still take. `best` is 0
    before the first order: then `engine` says what is being done instead."""

    engine: str
    best: int
    bound: int
    left: float


@dataclass(frozen=True, slots=True)
class Budget:
    """`seconds` of wall-clock time at most. `effort`, where given, counts work instead: the same
    number gives the same order on every machine, and 0 means no search at all, only known
    schedules and lists. `gap`: good enough when the value is proven this close to the bound; None:
    when it meets it, or for very large steps comes close (`hunt.ENOUGH`).
    `engine` names the only one to use. `cache` allows results of an equal Problem to be taken
    from, and left for, another run. `progress` is told of every step. `interrupted`, where given,
    is told of a Ctrl-C that finds something found: the search then ends with the best so far.
    Without it, and before anything was found, `KeyboardInterrupt` goes on its way."""

    seconds: float = 30.0
    effort: int | None = None
    seed: int = 0
    gap: Fraction | None = None
    engine: str | None = None
    cache: bool = False
    progress: Callable[[Progress], None] | None = None
    interrupted: Callable[[], None] | None = None

    def deadline(self) -> float:
        """The `monotonic` second at which to stop; never, where effort is what counts."""
        return monotonic() + self.seconds if self.effort is None else float("inf")
