"""`Outcome`: what an Order comes to."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Outcome:
    """Ticks of the makespan and of the span; grains at the peak, per rank."""

    makespan: int
    span: int
    peaks: tuple[int, ...]
