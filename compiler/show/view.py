"""`View`: a Plan's Program laid out in time, which is all that the formats of `show` draw from.

In comes a Plan and the name of one of its Programs; out goes, for every rank, its bars (operations
with start and end, in the order they run) and the curve of its memory. Times stay ticks and sizes
grains; `View.time` and `View.size` turn them into the units of the schedule file.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from stretto.compiler.bound import Bound
from stretto.compiler.plan import Plan
from stretto.compiler.program import Claims, Compute, Instruction, Name, Program, Receive
from stretto.compiler.source import Source, Span
from stretto.compiler.spec import NONE, Operation, Spec, number
from stretto.compiler.summary import Summary, summarize
from stretto.compiler.timeline import time


class Bar(NamedTuple):
    """One operation in time: from `start` to `end`, in ticks. The two halves of an overlapped
    pair carry the same `unit` and the same times. `at` is an index into `Spec.spans`."""

    operation: Operation
    unit: int
    start: int
    end: int
    at: int


class Level(NamedTuple):
    """From `tick` on a rank holds `grains` of activations, until the next level."""

    tick: int
    grains: int


class Message(NamedTuple):
    """A result under way to another rank: made by `made`, usable there at `arrival`, used by
    `used`."""

    channel: int
    made: Bar
    arrival: int
    used: Bar


@dataclass(frozen=True)
class View:
    program: Program
    claims: Claims
    bound: Bound
    engine: str
    hash: str
    sources: tuple[Source, ...]
    lanes: tuple[tuple[Bar, ...], ...]
    memory: tuple[tuple[Level, ...], ...]

    @property
    def spec(self) -> Spec:
        return self.program.spec

    def time(self, ticks: int) -> int | str:
        """Ticks as the schedule file counts time: a number when whole, else a fraction's text."""
        return number(ticks, self.spec.time_unit)

    def size(self, grains: int) -> int | str:
        """Grains as the schedule file counts activations."""
        return number(grains, self.spec.size_unit)

    def span(self, bar: Bar) -> Span | None:
        """Where the text asks for this operation."""
        return None if bar.at == NONE else self.spec.spans[bar.at]

    @cached_property
    def messages(self) -> tuple[Message, ...]:
        """Every message, by receiving rank, in the order of use."""
        made = {bar.operation: bar for lane in self.lanes for bar in lane}
        ticks = {(t.source, t.target): t.ticks for t in self.spec.transfers}
        return tuple(
            message
            for lane, instructions in zip(self.lanes, self.program.ranks, strict=True)
            for message in received(self.program, lane, instructions, made, ticks)
        )

    @cached_property
    def summary(self) -> Summary:
        return summarize(self.program, self.claims, self.bound, self.engine, self.hash)

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


def view(plan: Plan, name: Name) -> View:
    """Times the Program `name` of the plan and lays it out."""
    program = plan.programs[name]
    timeline = time(program)
    lanes = tuple(
        tuple(bars(instructions, timeline.computes[rank]))
        for rank, instructions in enumerate(program.ranks)
    )
    return View(
        program=program,
        claims=plan.claims[name],
        bound=plan.bound,
        engine=plan.engine,
        hash=plan.hash,
        sources=plan.sources,
        lanes=lanes,
        memory=memory(program.spec, name, lanes),
    )


def bars(instructions: Iterable[object], times: Iterable[tuple[int, int]]) -> Iterable[Bar]:
    computes = (i for i in instructions if isinstance(i, Compute))
    for compute, (start, end) in zip(computes, times, strict=True):
        yield Bar(compute.operation, compute.unit, start, end, compute.at)


def received(
    program: Program,
    lane: Sequence[Bar],
    instructions: Iterable[Instruction],
    made: dict[Operation, Bar],
    ticks: dict[tuple[int, int], int],
) -> Iterator[Message]:
    """The messages of one rank, by the clock of `docs/instructions.md`: one has arrived `transfer`
    after its result was made and its receive posted."""
    following = iter(lane)
    now = 0
    posted: dict[int, tuple[Receive, int]] = {}
    for instruction in instructions:
        if isinstance(instruction, Receive):
            posted[instruction.slot] = (instruction, now)
        elif isinstance(instruction, Compute):
            bar = next(following)
            now = bar.end
            for receive, since in (posted.pop(s) for s in instruction.reads if s in posted):
                source, target, _ = program.channels[receive.channel]
                maker = made[receive.result]
                arrival = max(maker.end, since) + ticks.get((source, target), 0)
                yield Message(receive.channel, maker, arrival, bar)


def memory(spec: Spec, name: Name, lanes: Sequence[Sequence[Bar]]) -> tuple[tuple[Level, ...], ...]:
    """Every rank's activations over time, by the rules of `docs/instructions.md`: what ends at a
    tick is given back before what starts at it takes."""
    return tuple(levels(spec, name, lane) for lane in lanes)


def levels(spec: Spec, name: Name, lane: Sequence[Bar]) -> tuple[Level, ...]:
    changes: list[tuple[int, bool, int]] = []  # tick, whether it takes, grains
    for bar in lane:
        stage = spec.pipelines[bar.operation.pipeline].stages[bar.operation.stage]
        forward_only = name == "eval" or spec.pipelines[bar.operation.pipeline].forward_only
        match bar.operation.kind:
            case "F":
                changes.append((bar.start, True, stage.activation))
                if forward_only:
                    changes.append((bar.end, False, -stage.activation))
            case "B":
                changes.append((bar.end, False, -stage.activation))
            case "I":
                changes.append((bar.end, False, stage.kept - stage.activation))
            case "W":
                changes.append((bar.end, False, -stage.kept))
    held = 0
    curve = [Level(0, 0)]
    for tick, _, grains in sorted(changes):
        held += grains
        if curve[-1].tick == tick:
            curve[-1] = Level(tick, held)
        elif grains:
            curve.append(Level(tick, held))
    return tuple(curve)
