"""A list with streams → the list with what is done once for each stage: sums over copies and ties,
averages with other pipelines, weights. All of it stands on `compute`; what changes the gradients of
a stage on other streams is waited for before a sum, where `compute` does not know of it."""

from collections.abc import Sequence

from stretto.compiler.problem.spec import Spec
from stretto.compiler.problem.topology import StageIndex
from stretto.compiler.program.collectives import with_gathers
from stretto.compiler.program.known import StreamKnowledge, StreamPlace
from stretto.compiler.program.lists import RankList
from stretto.compiler.program.program import (
    Await,
    BeginReduction,
    Compute,
    Instruction,
    Operation,
    Reduce,
    Reduction,
    Send,
)


def with_sums(
    spec: Spec, reductions: Sequence[Reduction], rank: int, row: RankList, added: Sequence[Reduce]
) -> RankList:
    """The row with these sums behind it, and with averages and weights where the Spec asks for
    them. What it had of those before is placed anew."""
    kept = [
        (one, stream)
        for one, stream in zip(row.instructions, row.streams, strict=True)
        if not isinstance(one, BeginReduction)
    ]
    kept += [(one, 0) for one in added]
    sums = _SumPlacement(spec, reductions, rank, kept)
    found = sums.row()
    return with_weights(spec, found)


def with_weights(spec: Spec, row: RankList) -> RankList:
    """The row with the weights that its forwards need, at its head."""
    instructions = list(with_gathers(spec, row.instructions))
    more = len(instructions) - len(row.instructions)
    return RankList(instructions, [0] * more + row.streams)


class _SumPlacement:
    """A list that is walked once more."""

    def __init__(
        self,
        spec: Spec,
        reductions: Sequence[Reduction],
        rank: int,
        own: Sequence[tuple[Instruction, int]],
    ):
        self.reductions, self.rank, self.own = reductions, rank, own
        self.known = StreamKnowledge(len(spec.streams))
        self.place: dict[Operation, StreamPlace] = {}
        self.changed: dict[StageIndex, dict[int, Operation]] = {}  # by stage and stream, the last
        for one, stream in own:
            if isinstance(one, Compute) and one.operation.kind != "F":
                self.changed.setdefault(one.operation[1:3], {})[stream] = one.operation
        wanted = {(p, s) for p, s, _ in spec.reduce_gradients}
        summed = {
            copy[:2]
            for one, _ in own
            if isinstance(one, Reduce)
            for copy in reductions[one.reduction].copies
            if copy.rank == rank
        }
        self.wanted = [stage for stage in sorted({*self.changed, *summed}) if stage in wanted]
        self.left = {stage: self._reduces(stage) for stage in self.wanted}
        self.found = RankList()

    def row(self) -> RankList:
        """The list, with what was missing."""
        for at, (one, stream) in enumerate(self.own):
            if isinstance(one, Reduce):
                self._sum(one)
            self._add(one, stream)
            if isinstance(one, Compute):
                self.place[one.operation] = stream, self.known.now[stream][stream]
                self.known.compute(stream)
            elif isinstance(one, Await):
                self.known.tell(stream, self.place[one.operation])
            following = self.own[at + 1] if at + 1 < len(self.own) else None
            sends = following is not None and isinstance(following[0], Send) and not following[1]
            if stream == 0 and not sends:
                self._averages()
        for stage in self.wanted:
            self._wait(stage)
            self._add(BeginReduction(*stage), 0)
        return self.found

    def _averages(self) -> None:
        """Begin those of which `compute` knows all that they need."""
        for stage in [stage for stage in self.wanted if not self.left[stage]]:
            last = self.changed.get(stage, {}).values()
            if all(one in self.place and self.known.has(0, self.place[one]) for one in last):
                self._add(BeginReduction(*stage), 0)
                self.wanted.remove(stage)

    def _sum(self, one: Reduce) -> None:
        """What is waited for before a sum."""
        for copy in self.reductions[one.reduction].copies:
            if copy.rank == self.rank:
                self._wait(copy[:2])
                if copy[:2] in self.left:
                    self.left[copy[:2]] -= 1

    def _wait(self, stage: StageIndex) -> None:
        places = {self.place[one]: one for one in self.changed.get(stage, {}).values()}
        for place in self.known.missing(0, places):
            self._add(Await(places[place]), 0)
            self.known.tell(0, place)

    def _reduces(self, stage: StageIndex) -> int:
        """In how many sums of this list the stage is."""
        return sum(
            (*stage, self.rank) in self.reductions[one.reduction].copies
            for one, _ in self.own
            if isinstance(one, Reduce)
        )

    def _add(self, one: Instruction, stream: int) -> None:
        self.found.instructions.append(one)
        self.found.streams.append(stream)
