"""Program → `Dependencies`: what every operation waits for, with the ticks until it is there, and
when all of it has arrived. Times are ticks.
"""

from collections.abc import Iterable, Iterator

from stretto.compiler.problem.kinds import half
from stretto.compiler.problem.spec import NONE, Operation, Spec, show
from stretto.compiler.problem.topology import Topology
from stretto.compiler.program.program import Program
from stretto.compiler.program.timeline import Timeline


class Dependencies:
    """The data and rules that hold operations back. `end`: when each operation ends; `rules`: for
    an operation those that a `rule` has before it."""

    def __init__(self, program: Program, timeline: Timeline):
        self.topology = Topology(program.spec)
        self.end = {t.operation: t.end for row in timeline.ranks for t in row}
        self.rules: dict[Operation, list[Operation]] = {}
        for rule in program.spec.rules if program.name == "train" else ():
            later = rule.later if rule.later in self.end else half(rule.later, "first")
            earlier = rule.earlier if rule.earlier in self.end else half(rule.earlier, "last")
            self.rules.setdefault(later, []).append(earlier)

    def data(self, one: Operation) -> Iterator[tuple[Operation, int]]:
        """The results that an operation needs, each with the ticks that it travels."""
        if one.part != NONE:
            yield from self._data_of_part(one)
            return
        for needed, _, ticks in self.topology.needs(one):
            yield needed if needed in self.end else half(needed, "first"), ticks

    def _data_of_part(self, one: Operation) -> Iterator[tuple[Operation, int]]:
        """The same of one part: forwards go up the chain of their stage and on from its last part,
        gradients come down it; a weight gradient needs its own input gradient."""
        last = self._last(one.pipeline, one.stage)
        if one.kind == "W":
            yield one._replace(kind="I"), 0
        elif one.kind == "F" and one.part:
            yield one._replace(part=one.part - 1), 0
        elif one.kind != "F" and one.part < last:
            yield one._replace(part=one.part + 1), 0
        else:
            if one.kind != "F":
                yield one._replace(kind="F"), 0
            for needed, _, ticks in self.topology.data(one):
                forward = one.kind == "F"
                part = self._last(needed.pipeline, needed.stage) if forward else 0
                yield needed._replace(kind=one.kind, part=part), ticks

    def _last(self, pipeline: int, stage: int) -> int:
        """The last part of a stage's chain."""
        return len(self.topology.spec.parts[pipeline][stage]) - 1

    def needs(self, one: Operation) -> Iterator[tuple[Operation, int]]:
        """What an operation waits for, data and rules, each with the ticks until it is there."""
        yield from self.data(one)
        for other in self.rules.get(one, ()):
            yield other, 0

    def ready(self, one: Operation) -> int:
        """When all that an operation needs has arrived, if no message is held up."""
        return max((self.end[other] + lag for other, lag in self.needs(one)), default=0)

    def latest(
        self, operations: Iterable[Operation], arrived: bool
    ) -> tuple[Operation, int] | None:
        """Of all the data that these operations of one rank need, what arrives last, or else what
        is made last, with the ticks that it travels. Of equals, one from another rank."""
        members = list(operations)
        own = self.topology.rank(members[0])
        return max(
            (need for one in members for need in self.data(one)),
            key=lambda need: (
                self.end[need[0]] + need[1] * arrived,
                self.topology.rank(need[0]) != own,
                need,
            ),
            default=None,
        )


def name(spec: Spec, operation: Operation) -> str:
    """The operation as a sentence shows it: `F main[0, 3]` between backticks."""
    return f"`{show(spec, operation)}`"
