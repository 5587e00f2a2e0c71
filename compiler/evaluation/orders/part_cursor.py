"""`PartCursor`: one stage that is cut into parts, on one rank while the rank's order is made."""

from collections import deque
from collections.abc import Iterator

from stretto.compiler.evaluation.orders.cursor import UNSCHEDULED, StageCursor
from stretto.compiler.evaluation.resolved import ResolvedPipeline
from stretto.compiler.problem.spec import Kind
from stretto.compiler.problem.wholes import OwnParts, parts_of


class PartCursor(StageCursor):
    """Which parts of the stage's operations are given, and by which text.

    `given[kind][m][k]` is the index of the span that gave part k of micro-batch m, or UNSCHEDULED;
    `many[kind][m]` says how many parts are given. `own[kind]` are the parts of an operation in the
    sequence that they have alone, `named[name]` the indices of a part of that name, by layer.
    `waiting[k]` has (place in the rank's list, micro-batch) of the input gradients of part k
    whose weight gradient is not given, the oldest first; `whole` those of the last part of input
    gradients of which all parts are in the list and of whose weight gradient nothing is given.
    """

    __slots__ = ("chain", "given", "many", "named", "next", "own", "rest", "waiting", "whole")

    def __init__(self, pipeline: ResolvedPipeline, stage: int, split: bool):
        super().__init__(pipeline, stage)
        self.chain = pipeline.chains[stage]
        backwards = () if pipeline.forward_only else ("I", "W") if split else ("B",)
        self.own: dict[Kind, OwnParts] = {
            kind: parts_of(kind, self.chain, split) for kind in ("F", *backwards)
        }
        if split and not pipeline.forward_only:
            self.own["B"] = parts_of("B", self.chain, split)
        self.given: dict[Kind, list[list[int]]] = {
            kind: [[UNSCHEDULED] * len(self.chain) for _ in range(self.microbatches)]
            for kind in ("F", *backwards)
        }
        self.many = {kind: [0] * self.microbatches for kind in self.given}
        self.named: dict[str, list[int]] = {}
        for k, part in enumerate(self.chain):
            self.named.setdefault(part.name, []).append(k)
        self.next: dict[tuple[Kind, str | None, int | None], int] = {}
        self.rest = [len(self.chain)] * self.microbatches  # input gradients not yet in the list
        self.waiting: list[deque[tuple[int, int]]] = [deque() for _ in self.chain]
        self.whole: deque[tuple[int, int]] = deque()

    def give(self, kind: Kind, part: int, microbatch: int, at: int) -> None:
        """Marks a part as given by the text `at`."""
        self.given[kind][microbatch][part] = at
        self.many[kind][microbatch] += 1

    def listed(self, part: int, microbatch: int, place: int) -> None:
        """The input gradient of a part now has this place in the rank's list."""
        self.rest[microbatch] -= 1
        if not self.own["W"]:
            return
        if self.chain[part].stream == 0:
            self.waiting[part].append((place, microbatch))
        if not self.rest[microbatch]:
            self.whole.append((place, microbatch))

    def oldest_part(self, part: int) -> tuple[int, int] | None:
        """The weight gradient of this part that has waited longest, as in `waiting`."""
        waiting, given = self.waiting[part], self.given["W"]
        while waiting and given[waiting[0][1]][part] != UNSCHEDULED:
            waiting.popleft()
        return waiting[0] if waiting else None

    def oldest_whole(self) -> tuple[int, int] | None:
        """The whole weight gradient that has waited longest, as in `whole`."""
        while self.whole and self.many["W"][self.whole[0][1]]:
            self.whole.popleft()
        return self.whole[0] if self.whole else None

    def untouched(self, kind: Kind, microbatch: int) -> bool:
        """Whether no part of the whole operation is given."""
        kinds = {own for own, _ in self.own[kind]}
        return not any(self.many[own][microbatch] for own in kinds)

    def first_given(self, kind: Kind, microbatch: int) -> tuple[Kind, int] | None:
        """A part of the whole operation that is given."""
        for own, k in self.own[kind]:
            if self.given[own][microbatch][k] != UNSCHEDULED:
                return own, k
        return None

    def candidates(self, kind: Kind, name: str, layer: int | None) -> list[int]:
        """The parts of this name, and layer if one is named, in the sequence in which they are
        filled in: of forwards from the first layer, of the others from the last."""
        found = self.named.get(name, [])
        if layer is not None:
            return [k for k in found if self.chain[k].layer == layer]
        return found if kind == "F" else found[::-1]

    def left_out(self) -> Iterator[tuple[Kind, int, list[int]]]:
        """What is not given: by kind and micro-batch the parts that are missing, as they run."""
        for kind, rows in self.given.items():
            own = self.own[kind]
            for m, row in enumerate(rows):
                if self.many[kind][m] < len(own):
                    yield kind, m, [k for _, k in own if row[k] == UNSCHEDULED]
