"""Problem → Bound: what no order can go below in what the Spec minimizes (makespan or span), with
the reason in words. The theorems are in `bounds/`.

The bound is over every order of the same operations: also over those in which a backward that may
be split runs whole or as I and W, whichever is quicker, and over every choice of overlapped units.
An order that the author wrote for all operations counts for nothing, so that the gap says what
another order could gain; where he fixed a part, the bound is over the orders that keep it.
"""

from fractions import Fraction
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from stretto.compiler.bounds.best import BoundContext, Finding
    from stretto.compiler.problem.problem import Problem


class Bound(Struct, frozen=True, forbid_unknown_fields=True):
    """`ticks`: no order of the Problem has a smaller value of what its Spec minimizes."""

    ticks: int
    reason: str


def bound(problem: "Problem") -> Bound:
    """The largest bound that is known, and why. Linear but for sorting: about five seconds for
    800 000 operations."""
    from stretto.compiler.bounds.best import best, bound_context

    context = bound_context(problem.spec)
    found = best(context)
    return Bound(found.ticks, reason(context, found))


def reason(context: "BoundContext", found: "Finding") -> str:
    """Why, in the units of the file."""
    match found.by:
        case "chain":
            return _chain(context)
        case "busy" | "merged":
            return _busy(context, found)
        case "window":
            return _window(context, found)
        case "little":
            written = context.relaxed.spec.limits[found.rank]
            limit = Fraction(written.grains if written else 0, context.relaxed.spec.size_unit)
            return (
                f"rank {found.rank}: what its forwards must leave in memory, and for how long, "
                f"does not fit into less time under a limit of {limit}"
            )
        case _:
            return "there is nothing to do"


def _units(context: "BoundContext", ticks: int) -> str:
    return str(Fraction(ticks, context.relaxed.spec.time_unit))


def _chain(context: "BoundContext") -> str:
    """The ends of the longest chain."""
    from stretto.compiler.bounds.longest_paths import longest

    first, last = longest(context.graph)
    return f"the longest chain, from {_name(context, first)} to {_name(context, last)}"


def _name(context: "BoundContext", place: tuple[int, int]) -> str:
    from stretto.compiler.problem.spec import Operation, show

    op_class = context.relaxed.classes[place[0]]
    operation = Operation(
        op_class.kind, op_class.pipeline, op_class.stage, place[1], op_class.slice
    )
    return f"`{show(context.relaxed.spec, operation)}`"


def _busy(context: "BoundContext", found: "Finding") -> str:
    """Which operations fill a rank between what must come before and after."""
    from stretto.compiler.bounds.best import filled

    group = filled(context, found)[1]
    relaxed = context.relaxed
    all_jobs = sum(relaxed.classes[c].size for c in relaxed.on(found.on))
    if len(group.jobs) == all_jobs:
        pipelines = {relaxed.classes[c].pipeline for c in relaxed.on(found.on)}
        many = sum(relaxed.spec.pipelines[p].microbatches for p in pipelines)
        of = _count(many, "micro-batch", "micro-batches")
    else:
        of = f"{len(group.jobs)} of its {_count(all_jobs, 'operation', 'operations')}"
    start = "" if found.rank == found.on else f" in the span of rank {found.rank}"
    shared = "" if not context.overlaps else ", overlapped as well as can be"
    return (
        f"rank {found.on}: {_units(context, group.ticks)} of work ({of}{shared}) after a head of "
        f"{_units(context, group.head)} and before a tail of {_units(context, group.tail)}{start}"
    )


def _window(context: "BoundContext", found: "Finding") -> str:
    """What the ends of the step leave a rank to do."""
    window = found.window
    assert window is not None
    parts = []
    if window.first:
        parts.append(
            f"{_units(context, window.before)} in the {_units(context, window.first)} before its "
            "first backward can start"
        )
    if window.last:
        parts.append(
            f"{_units(context, window.after)} in the {_units(context, window.last)} after its last "
            "forward"
        )
    saved = f" less {_units(context, window.saved)} by overlapping" if window.saved else ""
    return (
        f"rank {found.rank}: of its work of {_units(context, window.work)}{saved} it can do only "
        f"{' and '.join(parts)}"
    )


def _count(many: int, one: str, several: str) -> str:
    return f"{many} {one if many == 1 else several}"
