"""`View`: a Plan's Program laid out in time, which is all that the formats of `show` draw from.

In comes a Plan and the name of one of its Programs; out goes, for every rank, its operations with
start and end, the stretches in which it is idle, the curve of its memory, and the messages it gets.
Times stay ticks and sizes grains; `View.time` and `View.size` turn them into the units of the
schedule file.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from msgspec.structs import replace

from stretto.compiler.analysis.idle import Idle
from stretto.compiler.analysis.memory import Effects, Level, effects, levels
from stretto.compiler.analysis.stream_idle import rank_stretches
from stretto.compiler.analysis.timed_program import TimedProgram, timed_program
from stretto.compiler.bounds.bound import Bound
from stretto.compiler.bounds.eval_bound import forwards_bound
from stretto.compiler.diagnostics.source import Source, Span
from stretto.compiler.plan.plan import Plan
from stretto.compiler.problem.figures import size_figure, time_figure
from stretto.compiler.problem.spec import NONE, Spec, number
from stretto.compiler.program.program import (
    Claims,
    Compute,
    Instruction,
    Program,
    ProgramName,
    Receive,
)
from stretto.compiler.program.timeline import Timed, Timeline, time
from stretto.compiler.show.summary import Summary, bounds, step_of, summarize


class ShownMessage(NamedTuple):
    """A result under way to another rank: made by `made`, usable there at `arrival`, used by
    `used`."""

    channel: int
    made: Timed
    arrival: int
    used: Timed


@dataclass(frozen=True)
class View:
    """One Program of a plan, laid out in time: see the module. `hash` is the plan's; `stated`, a
    bound that it states and nobody has checked."""

    program: Program
    timeline: Timeline
    claims: Claims
    bound: Bound
    engine: str
    hash: str
    stated: Bound | None
    sources: tuple[Source, ...]
    assumed: tuple[str, ...] = ()

    @property
    def lanes(self) -> tuple[tuple[Timed, ...], ...]:
        """For every rank its operations in the order they run; in pictures, its bars."""
        return self.timeline.ranks

    @property
    def streams(self) -> list[tuple[int, int]]:
        """Every rank with every stream on which it has something, `compute` first and always."""
        return [
            (rank, stream)
            for rank, lane in enumerate(self.lanes)
            for stream in sorted({0, *(bar.stream for bar in lane)})
        ]

    @property
    def spec(self) -> Spec:
        """What the Program carries out."""
        return self.program.spec

    def time(self, ticks: int) -> int | str:
        """Ticks as the schedule file counts time: a number when whole, else a fraction's text."""
        return number(ticks, self.spec.time_unit)

    def time_words(self, ticks: int) -> str:
        """Ticks for people: a decimal of at most six figures."""
        return time_figure(self.spec, ticks)

    def size_words(self, grains: int) -> str:
        """Grains for people, in the unit of the file."""
        return size_figure(self.spec, grains)

    def span(self, bar: Timed) -> Span | None:
        """Where the text asks for this operation."""
        return None if bar.at == NONE else self.spec.spans[bar.at]

    @cached_property
    def widest_peak(self) -> int:
        """The letters of the longest of all ranks' peaks in words."""
        return max(len(self.size_words(peak)) for peak in {0, *self.claims.activations})

    @cached_property
    def effects(self) -> Effects:
        """What every operation does to its rank's memory."""
        return effects(self.program, self.lanes)

    @cached_property
    def memory(self) -> tuple[tuple[Level, ...], ...]:
        """Every rank's activations over time."""
        return tuple(levels(lane, self.effects) for lane in self.lanes)

    @cached_property
    def timed(self) -> TimedProgram:
        """The Program with all that its waits are read off."""
        return timed_program(self.program, self.timeline)

    @cached_property
    def idle(self) -> tuple[tuple[Idle, ...], ...]:
        """Every rank's idle stretches, stream by stream, each with its cause, in the words of
        `explain`."""
        return tuple(tuple(rank_stretches(self.timed, rank)) for rank in range(self.spec.ranks))

    @cached_property
    def messages(self) -> tuple[ShownMessage, ...]:
        """Every message, by receiving rank, in the order of use."""
        made = {bar.operation: bar for lane in self.lanes for bar in lane}
        arrived = {message[:2]: message.arrived for message in self.timeline.messages}
        return tuple(
            ShownMessage(r.channel, made[r.result], arrived[r.channel, r.result], used)
            for lane, instructions in zip(self.lanes, self.program.ranks, strict=True)
            for r, used in received(lane, instructions)
        )

    @cached_property
    def most_held(self) -> int:
        """The grains to which memory is drawn on all ranks: the largest peak or limit."""
        limits = [limit.grains for limit in self.spec.limits if limit]
        return max([1, *self.claims.activations, *limits])

    @cached_property
    def summary(self) -> Summary:
        """The figures of the Program."""
        found = summarize(
            self.program, self.claims, self.bound, self.engine, self.hash, self.stated
        )
        return replace(found, assumed=self.assumed)

    @cached_property
    def chunks(self) -> dict[tuple[int, int], int]:
        """For every (pipeline, stage) its place among that pipeline's stages on the same rank."""
        seen: dict[tuple[int, int], int] = {}
        places = {}
        for p, pipeline in enumerate(self.spec.pipelines):
            for s, stage in enumerate(pipeline.stages):
                places[p, s] = seen.setdefault((p, stage.rank), 0)
                seen[p, stage.rank] += 1
        return places


def view(plan: Plan, name: ProgramName) -> View:
    """Times the Program `name` of the plan and lays it out."""
    program = plan.programs[name]
    known, stated = bounds(plan) if name == step_of(plan) else (forwards_bound(program.spec), None)
    return View(
        program=program,
        timeline=time(program),
        claims=plan.claims[name],
        bound=known,
        engine=plan.engine,
        hash=plan.hash,
        stated=stated,
        sources=plan.sources,
        assumed=plan.assumed,
    )


def received(
    lane: Iterable[Timed], instructions: Sequence[Instruction]
) -> Iterator[tuple[Receive, Timed]]:
    """The rank's receives, each with the operation that uses it first."""
    posted: dict[int, Receive] = {}
    bars = {bar.instruction: bar for bar in lane}
    for place, instruction in enumerate(instructions):
        if isinstance(instruction, Receive):
            posted[instruction.slot] = instruction
        elif isinstance(instruction, Compute):
            for slot in instruction.reads:
                if slot in posted:
                    yield posted.pop(slot), bars[place]
