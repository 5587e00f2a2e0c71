"""`Order`: who does what when. For every rank and stream the sequence of units, a unit being one
operation of the Problem or two that overlap (the F first). `arrange` makes it: from the author's
words, or by an engine, one file each.
"""

from dataclasses import dataclass
from typing import NamedTuple

from stretto.compiler.bounds.bound import Bound
from stretto.compiler.problem.problem import Problem

WRITTEN = "written"
"""The engine of an Order that its author wrote."""


class Lane(NamedTuple):
    """The units of one rank on one stream, as indices into the Problem's operations."""

    rank: int
    stream: int
    units: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Order:
    """The Problem that is ordered (an engine may have extended the one it was given), its lanes
    by rank, then stream, and the name of who made the order. `proven`: ticks of what is minimized
    that the search proved no order to go below, by looking at all; 0 where it did not. `bound`:
    that of the Problem, where the search has worked it out."""

    problem: Problem
    lanes: tuple[Lane, ...]
    engine: str
    proven: int = 0
    bound: Bound | None = None
