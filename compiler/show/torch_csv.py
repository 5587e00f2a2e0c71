"""`show --format torch-csv`: the order as a CSV that `torch.distributed.pipelining` loads.

A row is a rank of the pipeline's group, a cell what it does next, such as `2F0`. In the dialect
`compute_only` these are computations, and torch works out sends and receives by itself; in
`compute_comms` every message has its cell too (`torch_comms`). An overlapped pair is
written as its two halves, since torch sends the F of its own `OVERLAP_F_B` only after the whole
pair. torch checks little of what it loads, so what it cannot express, or would accept and compute
wrongly, is refused here. All rules were tried on torch 2.13.
"""

from collections.abc import Iterator

from stretto.compiler.diagnostics.diagnostic import Diagnostic, Label, Rejected
from stretto.compiler.problem.kinds import KINDS
from stretto.compiler.problem.spec import NONE, Spec, show
from stretto.compiler.program.timeline import Timed
from stretto.compiler.show.kinds import STYLES
from stretto.compiler.show.torch_comms import Cell, with_messages
from stretto.compiler.show.view import View

DIALECTS = ("compute_only", "compute_comms")


def draw(view: View, dialect: str = DIALECTS[0]) -> str:
    """The CSV in a dialect. Rejected where torch has no word for the schedule."""
    reasons = [*inexpressible(view.spec), *unknown(view), *misordered(view)]
    if reasons:
        raise Rejected(reasons)
    computed = [[*cells(lane)] for lane in view.lanes]
    if dialect == "compute_comms":
        rows = with_messages(view, computed)
    else:
        rows = [[f"{stage}{word}{m}" for word, stage, m in row] for row in computed]
    return "".join(",".join(row) + "\n" for row in rows)


def inexpressible(spec: Spec) -> Iterator[Diagnostic]:
    """What torch's format cannot say."""
    first = spec.pipelines[0]
    for pipeline in spec.pipelines[1:]:
        if pipeline.replicates != NONE:
            what = f"`{pipeline.name}` puts the stages on further ranks, and there a stage has one"
        else:
            what = f"`{pipeline.name}` is a second pipeline, and there is only one there"
        yield refused(what, spec, pipeline.at)
    if first.forward_only:
        yield refused(
            f"`{first.name}` is forward-only, and there all have backwards", spec, first.at
        )
    if spec.streams:
        yield refused("stages are cut into parts, which it does not know", spec, first.at)
    if spec.slices:
        yield refused("micro-batches are cut into slices, which it does not know", spec, first.at)


def unknown(view: View) -> Iterator[Diagnostic]:
    """Kinds of operation that torch does not have."""
    seen = {bar.operation.kind: bar for lane in view.lanes for bar in reversed(lane)}
    for kind, bar in seen.items():
        if STYLES[kind].torch is None:
            what = show(view.spec, bar.operation)
            why = f"`{what}` is a {KINDS[kind].name}, which it does not know"
            yield refused(why, view.spec, bar.at)


def misordered(view: View) -> Iterator[Diagnostic]:
    """torch hands out losses by the order in which the last stage runs its forwards: out of
    micro-batch order, it trains wrong without a word."""
    last = len(view.spec.pipelines[0].stages) - 1
    before = None
    for bar in (bar for lane in view.lanes for bar in lane):
        if bar.operation[:3] != ("F", 0, last):
            continue
        if before and bar.operation.microbatch < before.operation.microbatch:
            late, early = show(view.spec, bar.operation), show(view.spec, before.operation)
            yield refused(
                f"`{late}` runs after `{early}`, and it mixes up the losses unless the last stage "
                "takes the micro-batches in their order",
                view.spec,
                bar.at,
            )
            return
        before = bar


def refused(why: str, spec: Spec, at: int) -> Diagnostic:
    """The diagnostic that torch's CSV cannot hold the schedule, with a label at `spans[at]`."""
    return Diagnostic(
        "not-in-torch",
        f"torch's CSV cannot hold this schedule: {why}",
        (Label(spec.spans[at], "here"),) if at != NONE else (),
        help="`--format json` holds every schedule",
    )


def cells(lane: tuple[Timed, ...]) -> Iterator[Cell]:
    """The rank's operations. On stage 0 torch does all the work of I and W in W: where the W
    follows at once, the two are one B."""
    merged = False
    for bar, following in zip(lane, [*lane[1:], None], strict=True):
        kind, _, stage, microbatch, *_ = bar.operation
        if merged:
            merged = False
            continue
        if kind == "I" and stage == 0 and following:
            merged = following.operation == bar.operation._replace(kind="W")
        yield STYLES["B" if merged else kind].torch or "", stage, microbatch
