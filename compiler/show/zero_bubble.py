"""`show --format zero-bubble`: the order as the schedule lists of sail-sg's zero-bubble runtime, a
row for each rank, `3F0` the layer group (a stage), the type of the node and the micro-batch. `B` is
there the input gradient, `BW` the whole backward. `docs/tables.md` has the lines that make nodes of
them. That runtime runs an overlapped pair one after the other, and so they stand.
"""

from stretto.compiler.diagnostics.diagnostic import Diagnostic, Rejected
from stretto.compiler.problem.spec import Spec
from stretto.compiler.show.rank_lists import Unfit, unfit
from stretto.compiler.show.view import View

WORDS = {"F": "F", "I": "B", "W": "W", "B": "BW"}


def draw(view: View) -> str:
    """The rows. Rejected where the runtime cannot hold the schedule."""
    reasons = [refused(one, view.spec) for one in unfit(view)]
    if reasons:
        raise Rejected(reasons)
    rows = (
        ",".join(
            f"{bar.operation.stage}{WORDS[bar.operation.kind]}{bar.operation.microbatch}"
            for bar in lane
        )
        for lane in view.lanes
    )
    return "".join(f"{row}\n" for row in rows)


def refused(reason: Unfit, spec: Spec) -> Diagnostic:
    """The diagnostic that the lists cannot hold the schedule."""
    return Diagnostic(
        "not-in-zero-bubble",
        f"zero-bubble's lists cannot hold this schedule: {reason.why}",
        reason.labels(spec),
        help="`--format json` holds every schedule",
    )
