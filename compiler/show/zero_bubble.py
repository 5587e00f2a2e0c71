"""`show --format zero-bubble`: the order as the schedule lists of sail-sg's zero-bubble runtime, a
row for each rank, `3F0` the layer group (a stage), the type of the node and the micro-batch. `B` is
there the input gradient, `BW` the whole backward. `docs/tables.md` has the lines that make nodes of
them. That runtime runs an overlapped pair one after the other, and so they stand.
"""

from stretto.compiler.diagnostics.diagnostic import Rejected
from stretto.compiler.show.rank_lists import ListSystem, refusals
from stretto.compiler.show.view import View

WORDS = {"F": "F", "I": "B", "W": "W", "B": "BW"}
SYSTEM = ListSystem("not-in-zero-bubble", "zero-bubble's lists")


def draw(view: View) -> str:
    """The rows. Rejected where the runtime cannot hold the schedule."""
    reasons = [*refusals(view, SYSTEM)]
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
