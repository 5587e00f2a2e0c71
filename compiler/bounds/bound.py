"""Problem → Bound: what no order can go below in what the Spec minimizes (makespan or span), with
the reason in words. The theorems are in `theorems`.

The bound is over every order of the same operations: also over those in which a backward that may
be split runs whole or as I and W, whichever is quicker, and over every choice of overlapped units.
A complete written order does not constrain the bound, so that the gap says what another order
could gain; where the author fixed a part, the bound is over the orders that keep it.
"""

from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from stretto.compiler.problem.problem import Problem
    from stretto.compiler.problem.spec import Spec


class Bound(Struct, frozen=True, forbid_unknown_fields=True):
    """`ticks`: no order of the Problem has a smaller value of what its Spec minimizes. `reason`:
    why, in words and in the units of the file."""

    ticks: int
    reason: str


EXHAUSTIVE = "an exhaustive search (CP-SAT) has shown that no order is better"
"""The reason of a Bound that no theorem gives: whoever reads it elsewhere has only its word."""


def bound(problem: "Problem") -> Bound:
    """The largest bound that is known, and why. Linear but for sorting: about five seconds for
    800 000 operations."""
    if problem.spec.streams:
        from stretto.compiler.bounds.parts.best import parts_bound

        return Bound(*parts_bound(problem))
    return whole_bound(problem.spec)


def whole_bound(spec: "Spec") -> Bound:
    """The same where stages are whole: it takes no more than the Spec."""
    from stretto.compiler.bounds.best import best, bound_context

    found = best(bound_context(spec))
    return Bound(found.ticks, found.reason(found.subject))
