"""What the runtimes that are built on Megatron-LM cannot run, whatever their tables look like: they
hold one pipeline, with as many stages on every rank, placed as a loop or, two on each, as a V; and
a stage takes its data from an iterator, one micro-batch after the other.
"""

from collections.abc import Iterator
from typing import NamedTuple

from stretto.compiler.diagnostics.diagnostic import Label
from stretto.compiler.problem.spec import NONE, Spec, show
from stretto.compiler.program.timeline import Timed
from stretto.compiler.show.view import View


class Unfit(NamedTuple):
    """Why a runtime cannot run a schedule, and where in it: an index into `Spec.spans`."""

    why: str
    at: int

    def labels(self, spec: Spec) -> tuple[Label, ...]:
        """The place, if there is one."""
        return (Label(spec.spans[self.at], "here"),) if self.at != NONE else ()


def unfit(view: View) -> Iterator[Unfit]:
    """Why such a runtime cannot run the order; nothing where it can."""
    yield from _inexpressible(view.spec)
    yield from _misordered(view)


def is_v(spec: Spec) -> bool:
    """Whether the stages are placed back and forth, two on each rank."""
    places = [stage.rank for stage in spec.pipelines[0].stages]
    return places == [*range(spec.ranks), *reversed(range(spec.ranks))]


def _inexpressible(spec: Spec) -> Iterator[Unfit]:
    first = spec.pipelines[0]
    for pipeline in spec.pipelines[1:]:
        what = f"`{pipeline.name}` is a second pipeline, and there is only one there"
        yield Unfit(what, pipeline.at)
    if first.forward_only:
        what = f"`{first.name}` is forward-only, and there all have backwards"
        yield Unfit(what, first.at)
    if spec.streams:
        what = "stages are cut into parts, which it does not know"
        yield Unfit(what, first.at)
    if spec.slices:
        what = "micro-batches are cut into slices, which this format leaves out"
        yield Unfit(what, first.at)
    ranks = [stage.rank for stage in first.stages]
    loop = [s % spec.ranks for s in range(len(ranks))]
    if not is_v(spec) and (ranks != loop or len(ranks) % spec.ranks):
        what = "stages are placed neither as a loop nor as a V, with as many on every rank"
        yield Unfit(what, first.at)


def _misordered(view: View) -> Iterator[Unfit]:
    """The first forward that comes after one of a later micro-batch on its stage."""
    latest: dict[int, Timed] = {}
    for bar in (bar for lane in view.lanes for bar in lane):
        if bar.operation.kind != "F" or bar.operation.pipeline:
            continue
        before = latest.setdefault(bar.operation.stage, bar)
        if bar.operation.microbatch < before.operation.microbatch:
            late, early = show(view.spec, bar.operation), show(view.spec, before.operation)
            what = f"`{late}` runs after `{early}`, and a stage there takes its data in sequence"
            yield Unfit(what, bar.at)
            return
        latest[bar.operation.stage] = bar
