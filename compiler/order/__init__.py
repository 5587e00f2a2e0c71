"""`Order`: who does what when. For every rank and stream the sequence of units, a unit being one
operation of the Problem or two that overlap (the F first).

In comes a `Problem`, and a `Budget` that says how much may be spent; out comes an `Order`, the
author's where he wrote one, else the best that the engines find (`arrange`). Promised: it has every
operation once, it can finish, and it keeps to limits, rules and what was written; `check` tests
that by operations and edges alone. The same Problem, effort and seed give the same Order.

Within the room: `kernels/` are the loops, compiled where numba is installed; `search_state` is what
a search has found and may spend; each of `engines/` looks for better orders, and `engines/table`
lists them; `search` runs them; `arrange` stands on top.
"""

from dataclasses import dataclass
from typing import NamedTuple

from stretto.compiler.bounds.bound import Bound
from stretto.compiler.problem.problem import Problem

WRITTEN = "written"
"""The engine of an Order that its author wrote."""


class RankOrder(NamedTuple):
    """The units of one rank on one stream in the order they run, as indices into the Problem's
    operations."""

    rank: int
    stream: int
    units: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Order:
    """The Problem that is ordered (an engine may have extended the one it was given), its `lanes`
    by rank, then stream, and the name of who made the order. `proven`: no order goes below so many
    ticks of what is minimized, as an exhaustive search has shown; 0 where there was none. `bound`:
    that of the Problem, where the search has worked it out. `lists`: where stages are
    cut into parts, for every rank all its operations in one sequence, in which each stands behind
    what it needs of the rank; each lane of the rank has its stream's operations in this sequence.
    Else empty."""

    problem: Problem
    lanes: tuple[RankOrder, ...]
    engine: str
    proven: int = 0
    bound: Bound | None = None
    lists: tuple[tuple[int, ...], ...] = ()
