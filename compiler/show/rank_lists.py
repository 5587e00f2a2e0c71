"""What the runtimes that are built on Megatron-LM cannot run, whatever their tables look like: they
hold one pipeline, with as many stages on every rank, placed as a loop or, two on each, as a V; and
a stage takes its data from an iterator, one micro-batch after the other.
"""

from collections.abc import Iterator
from typing import NamedTuple

from stretto.compiler.diagnostics.diagnostic import Diagnostic, Label
from stretto.compiler.problem.spec import NONE, Spec, show
from stretto.compiler.program.timeline import Timed
from stretto.compiler.show.view import View


class ListSystem(NamedTuple):
    """A runtime: the code of the diagnostic that it cannot hold a schedule, and what holds it."""

    code: str
    subject: str


def refusals(view: View, system: ListSystem) -> Iterator[Diagnostic]:
    """Why such a runtime cannot run the order; nothing where it can."""
    yield from _inexpressible(view.spec, system)
    yield from _misordered(view, system)


def is_v(spec: Spec) -> bool:
    """Whether the stages are placed back and forth, two on each rank."""
    places = [stage.rank for stage in spec.pipelines[0].stages]
    return places == [*range(spec.ranks), *reversed(range(spec.ranks))]


def refused(why: str, spec: Spec, at: int, system: ListSystem) -> Diagnostic:
    """The diagnostic that the runtime cannot hold the schedule, with a label at `spans[at]`."""
    return Diagnostic(
        system.code,
        f"{system.subject} cannot hold this schedule: {why}",
        (Label(spec.spans[at], "here"),) if at != NONE else (),
        help="`--format json` holds every schedule",
    )


def _inexpressible(spec: Spec, system: ListSystem) -> Iterator[Diagnostic]:
    first = spec.pipelines[0]
    for pipeline in spec.pipelines[1:]:
        what = f"`{pipeline.name}` is a second pipeline, and there is only one there"
        yield refused(what, spec, pipeline.at, system)
    if first.forward_only:
        what = f"`{first.name}` is forward-only, and there all have backwards"
        yield refused(what, spec, first.at, system)
    if spec.streams:
        what = "stages are cut into parts, which it does not know"
        yield refused(what, spec, first.at, system)
    if spec.slices:
        what = "micro-batches are cut into slices, which this format leaves out"
        yield refused(what, spec, first.at, system)
    ranks = [stage.rank for stage in first.stages]
    loop = [s % spec.ranks for s in range(len(ranks))]
    if not is_v(spec) and (ranks != loop or len(ranks) % spec.ranks):
        what = "stages are placed neither as a loop nor as a V, with as many on every rank"
        yield refused(what, spec, first.at, system)


def _misordered(view: View, system: ListSystem) -> Iterator[Diagnostic]:
    """The first forward that comes after one of a later micro-batch on its stage."""
    latest: dict[int, Timed] = {}
    for bar in (bar for lane in view.lanes for bar in lane):
        if bar.operation.kind != "F" or bar.operation.pipeline:
            continue
        before = latest.setdefault(bar.operation.stage, bar)
        if bar.operation.microbatch < before.operation.microbatch:
            late, early = show(view.spec, bar.operation), show(view.spec, before.operation)
            what = f"`{late}` runs after `{early}`, and a stage there takes its data in sequence"
            yield refused(what, view.spec, bar.at, system)
            return
        latest[bar.operation.stage] = bar
