"""`show --format zero-bubble`: the order as the schedule lists of sail-sg's zero-bubble runtime, a
row for each rank, `3F0` the layer group (a stage), the type of the node and the micro-batch. `B` is
there the input gradient, `BW` the whole backward. `docs/tables.md` has the lines that make nodes of
them.

That runtime holds one pipeline, with as many stages on every rank, placed as a loop or, two on
each, as a V; the rest is refused. It runs an overlapped pair one after the other, and so they
stand.
"""

from collections.abc import Iterator

from stretto.compiler.diagnostics.diagnostic import Diagnostic, Label, Rejected
from stretto.compiler.problem.spec import NONE, Spec
from stretto.compiler.show.view import View

WORDS = {"F": "F", "I": "B", "W": "W", "B": "BW"}


def draw(view: View) -> str:
    """The rows. Rejected where the runtime cannot hold the schedule."""
    reasons = [*inexpressible(view.spec)]
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


def inexpressible(spec: Spec) -> Iterator[Diagnostic]:
    """What that runtime cannot say."""
    first = spec.pipelines[0]
    for pipeline in spec.pipelines[1:]:
        yield refused(
            f"`{pipeline.name}` is a second pipeline, and there is only one there",
            spec,
            pipeline.at,
        )
    if first.forward_only:
        yield refused(
            f"`{first.name}` is forward-only, and there all have backwards", spec, first.at
        )
    if spec.streams:
        yield refused("stages are cut into parts, which it does not know", spec, first.at)
    if spec.slices:
        yield refused(
            "micro-batches are cut into slices, which this format leaves out", spec, first.at
        )
    ranks = [stage.rank for stage in first.stages]
    loop = [s % spec.ranks for s in range(len(ranks))]
    v = [*range(spec.ranks), *reversed(range(spec.ranks))]
    if ranks not in (loop, v) or len(ranks) % spec.ranks:
        what = "stages are placed neither as a loop nor as a V, with as many on every rank"
        yield refused(what, spec, first.at)


def refused(why: str, spec: Spec, at: int) -> Diagnostic:
    """The diagnostic that the lists cannot hold the schedule, with a label at `spans[at]`."""
    return Diagnostic(
        "not-in-zero-bubble",
        f"zero-bubble's lists cannot hold this schedule: {why}",
        (Label(spec.spans[at], "here"),) if at != NONE else (),
        help="`--format json` holds every schedule",
    )
