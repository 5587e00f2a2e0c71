"""Program → `Waits`: its units, what each of them waits for, and what each does to memory. What
`idle` and `chain` read their causes from. Times are ticks, sizes grains.
"""

from bisect import bisect_left
from collections.abc import Iterator
from typing import Literal, NamedTuple

from stretto.compiler.problem.spec import NONE, Operation, Spec, show
from stretto.compiler.program.program import Compute, Program, Receive, Send, Wait
from stretto.compiler.program.timeline import Timed, Timeline

Place = tuple[int, int]
"""A unit: its rank, and how many come before it there."""


class Unit(NamedTuple):
    """What runs at once on a rank: one operation or a pair. `made`: when the last of all data that
    it needs has been made; `there`: when it has arrived, if no message is held up; `ready`: when
    its rules are met, too. `half`: when the first of a pair has what it needs by itself. `held`:
    grains that are there before it starts; `take`, `give`: what it takes at its start and gives
    back at its end."""

    operations: tuple[Timed, ...]
    start: int
    end: int
    made: int
    there: int
    ready: int
    half: int
    held: int
    take: int
    give: int

    @property
    def most(self) -> int:
        """Grains that are there while it runs."""
        return self.held + self.take


class Passage(NamedTuple):
    """A message that a unit waits for: of whom, from which rank to which, after which units it is
    sent and received (None: before the first), and when it has arrived."""

    result: Operation
    source: int
    target: int
    sent: Place | None
    posted: Place | None
    arrived: int


class Waits:
    """See the module. `units` by rank; `place` of every operation."""

    def __init__(self, program: Program, timeline: Timeline):
        self.program, self.spec, self.timeline = program, program.spec, timeline
        self.end = {t.operation: t.end for row in timeline.ranks for t in row}
        self.lag = {(t.source, t.target): t.ticks for t in program.spec.transfers}
        self.feeders: dict[tuple[int, int], list[int]] = {}
        for q, line in enumerate(program.spec.pipelines):
            for feed in line.feeds:
                self.feeders.setdefault((feed.pipeline, feed.stage), []).append(q)
        self.rules: dict[Operation, list[Operation]] = {}
        for rule in program.spec.rules if program.name == "train" else ():
            later, earlier = self.there(rule.later, "I"), self.there(rule.earlier, "W")
            self.rules.setdefault(later, []).append(earlier)
        self.units = [list(self._units(row)) for row in timeline.ranks]
        self.place: dict[Operation, Place] = {
            t.operation: (rank, at)
            for rank, units in enumerate(self.units)
            for at, unit in enumerate(units)
            for t in unit.operations
        }

    def there(self, operation: Operation, half: Literal["I", "W"]) -> Operation:
        """The operation, or its half where a backward was split."""
        found = operation in self.end or operation.kind != "B"
        return operation if found else operation._replace(kind=half)

    def needs(self, one: Operation) -> Iterator[tuple[Operation, int]]:
        """What an operation waits for, data and rules, each with the ticks until it is there."""
        yield from self.data(one)
        for other in self.rules.get(one, ()):
            yield other, 0

    def data(self, one: Operation) -> Iterator[tuple[Operation, int]]:
        """The results that an operation needs, each with the ticks until it is there."""
        rank = self.rank(one)
        for other in self._data(one):
            source = self.rank(other)
            yield other, self.lag.get((source, rank), 0) if source != rank else 0

    def _data(self, one: Operation) -> Iterator[Operation]:
        kind, p, s, _, k, _ = one
        line, slices = self.spec.pipelines[p], max(self.spec.slices, 1)
        if kind == "W":
            yield one._replace(kind="I")
        elif kind == "F":
            if s:
                yield one._replace(stage=s - 1)
            if k > 0:
                yield one._replace(slice=k - 1)
            for q in self.feeders.get((p, s), ()):
                last = len(self.spec.pipelines[q].stages) - 1
                yield one._replace(pipeline=q, stage=last)
        else:
            yield one._replace(kind="F")
            after = [(p, s + 1)] if s + 1 < len(line.stages) else [tuple(f) for f in line.feeds]
            for q, t in after:
                if not self.spec.pipelines[q].forward_only:
                    yield self.there(one._replace(kind="B", pipeline=q, stage=t), "I")
            if 0 <= k < slices - 1:
                yield self.there(one._replace(kind="B", slice=k + 1), "I")

    def rank(self, one: Operation) -> int:
        return self.spec.pipelines[one.pipeline].stages[one.stage].rank

    def _units(self, row: tuple[Timed, ...]) -> Iterator[Unit]:
        held, at = 0, 0
        while at < len(row):
            both = at + 1 < len(row) and row[at].unit == row[at + 1].unit != NONE
            members = row[at : at + 2] if both else row[at : at + 1]
            needs = [need for t in members for need in self.data(t.operation)]
            made = max((self.end[other] for other, _ in needs), default=0)
            there = max((self.end[other] + lag for other, lag in needs), default=0)
            rules = [self.end[o] for t in members for o in self.rules.get(t.operation, ())]
            ready = max(there, *rules) if rules else there
            half = min((self.ready(t.operation) for t in members), default=ready)
            take, give = map(sum, zip(*(self._effect(t.operation) for t in members), strict=True))
            yield Unit(
                members, row[at].start, row[at].end, made, there, ready, half, held, take, give
            )
            held += take - give
            at += len(members)

    def ready(self, one: Operation) -> int:
        """When all that an operation needs has arrived, if no message is held up."""
        return max((self.end[other] + lag for other, lag in self.needs(one)), default=0)

    def _effect(self, one: Operation) -> tuple[int, int]:
        """Grains that it takes when it starts, and gives back when it has ended."""
        line = self.spec.pipelines[one.pipeline]
        stage = line.stages[one.stage]
        if one.kind == "F":
            passing = line.forward_only or self.program.name == "eval"
            return stage.activation, stage.activation if passing else 0
        return 0, {"B": stage.activation, "I": stage.activation - stage.kept}.get(
            one.kind, stage.kept
        )

    def line(self, unit: Unit) -> int | None:
        at = unit.operations[0].at
        return self.spec.spans[at].line if at != NONE else None

    def named(self, unit: Unit) -> str:
        return " | ".join(name(self.spec, t.operation) for t in unit.operations)

    def latest(self, unit: Unit, arrived: bool) -> tuple[Operation, int] | None:
        """What arrives last of all that a unit needs, or is made last, and the ticks it is on its
        way; of several, one from another rank."""
        found = [need for t in unit.operations for need in self.data(t.operation)]
        own = self.rank(unit.operations[0].operation)
        return max(
            found,
            key=lambda need: (
                self.end[need[0]] + need[1] * arrived,
                self.rank(need[0]) != own,
                need,
            ),
            default=None,
        )

    def passages(self, rank: int, at: int) -> Iterator[Passage]:
        """The messages that are waited for between a unit and the one before it: those it
        receives, and the rank's own that have to be taken first."""
        row, units = self.program.ranks[rank], self.units[rank]
        first = units[at - 1].operations[-1].instruction + 1 if at else 0
        for k in range(first, units[at].operations[0].instruction):
            one = row[k]
            if type(one) is Wait:
                yield from self._begun(rank, k, one.slot)

    def _begun(self, rank: int, end: int, slot: int) -> Iterator[Passage]:
        """The messages begun on a slot that the wait at place `end` waits for."""
        row, index = self.program.ranks[rank], self._index()
        for k in range(end - 1, -1, -1):
            one = row[k]
            if type(one) is Wait and one.slot == slot:
                return
            if type(one) in (Send, Receive) and one.slot == slot:  # type: ignore[union-attr]
                yield index[type(one) is Send, rank, k]
            if type(one) is Receive and one.slot == slot:
                return

    def _index(self) -> dict[tuple[bool, int, int], Passage]:
        """Every message, by whether it is the sender's, the rank and the place in its list."""
        if not hasattr(self, "_passages"):
            self._passages = dict(self._met())
        return self._passages

    def _met(self) -> Iterator[tuple[tuple[bool, int, int], Passage]]:
        channels = self.program.channels
        sends: list[list[Place]] = [[] for _ in channels]
        posts: list[list[Place]] = [[] for _ in channels]
        for rank, row in enumerate(self.program.ranks):
            for k, one in enumerate(row):
                if type(one) is Send:
                    sends[one.channel].append((rank, k))
                elif type(one) is Receive:
                    posts[one.channel].append((rank, k))
        arrivals: list[list[tuple[Operation, int]]] = [[] for _ in channels]
        for message in self.timeline.messages:
            arrivals[message.channel].append((message.operation, message.arrived))
        ends = [
            [t.instruction for t in lane if self.program.ranks[rank]]
            for rank, lane in enumerate(self.timeline.ranks)
        ]
        for c, (source, target, _) in enumerate(channels):
            both = zip(sends[c], posts[c], arrivals[c], strict=False)
            for sent, posted, (result, arrived) in both:
                passage = Passage(
                    result,
                    source,
                    target,
                    self._before(ends, *sent),
                    self._before(ends, *posted),
                    arrived,
                )
                yield (True, *sent), passage
                yield (False, *posted), passage

    def _before(self, ends: list[list[int]], rank: int, k: int) -> Place | None:
        """The unit of the last compute before place k of a rank's list."""
        n = bisect_left(ends[rank], k)
        if not n:
            return None
        one = self.program.ranks[rank][ends[rank][n - 1]]
        assert type(one) is Compute
        return self.place[one.operation]


def name(spec: Spec, operation: Operation) -> str:
    return f"`{show(spec, operation)}`"
