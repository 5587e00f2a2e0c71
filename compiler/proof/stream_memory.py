"""The memory of ranks with several streams: the peak at the planned times, and the most that is
held under any timing, which a limit is compared with.

An amount is taken when a part starts and free when the last of certain parts has ended. At the
planned times, at one instant, what has ended is freed first; then operations take, and those of
length 0 also free, in the sequence of the list.

Under any timing: let T be the part, of those that hold something at a moment, that stands last in
the list and has begun. What is held then was taken by T or by parts before it in the list, and is
not certainly free when T starts (all that frees it would come before T, on the rank). So the sum of
all such amounts, at its greatest over all T, is never exceeded. It is equal to the planned peak
where whatever is freed before something else is taken at the planned times is so under every
timing. Where it is above the limit, the states in which the rank can be are gone through one by one
(`cuts`).
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from stretto.compiler.diagnostics.diagnostic import Diagnostic, Label
from stretto.compiler.problem.spec import NONE, Limit
from stretto.compiler.program.program import Compute, Program
from stretto.compiler.proof.cuts import most_held
from stretto.compiler.proof.ledger import PartTable, RankTrace
from stretto.compiler.proof.messages import Wording, size
from stretto.compiler.proof.parts import PartObligations


class HeldAmount(NamedTuple):
    """Grains that a rank holds, from the start of an operation to the last end of others, which are
    given by their numbers."""

    grains: int
    taken_by: int
    freed_by: tuple[int, ...]


def amounts(parts: PartObligations, rank: int) -> list[HeldAmount]:
    """All that the rank ever holds."""
    return [
        HeldAmount(one.grains, one.taken_by + m, tuple(f + m for f in one.freed_by))
        for one in parts.amounts.get(rank, ())
        for m in range(one.microbatches)
    ]


def planned(
    trace: RankTrace,
    held: Sequence[HeldAmount],
    began: Sequence[int],
    table: PartTable,
    limit: Limit | None,
) -> RankTrace:
    """The trace with the peak at the planned times, and where the rank first holds more than it
    may."""
    changes: list[tuple[Moment, int]] = []
    for grains, taken_by, freed_by in held:
        changes.append(((began[taken_by], 1, table.placed[taken_by], 0), grains))
        changes.append((max(_end(number, began, table) for number in freed_by), -grains))
    changes.sort()
    now = peak = over = 0
    over_at = NONE
    for k, ((_, _, place, _), grains) in enumerate(changes):
        now += grains
        if now > peak and (k + 1 == len(changes) or changes[k + 1][0] != changes[k][0]):
            peak = now
            if limit is not None and over_at == NONE and peak > limit.grains:
                over, over_at = peak, place
    return trace._replace(activations=peak, over=over, over_at=over_at)


Moment = tuple[int, int, int, int]
"""An instant; 0 for what ends there, 1 for the others, these by place in the list, start, end."""


def _end(number: int, began: Sequence[int], table: PartTable) -> Moment:
    if table.lasting[number]:
        return began[number] + table.lasting[number], 0, 0, 0
    return began[number], 1, table.placed[number], 1


def at_any_speed(
    program: Program,
    rank: int,
    held: Sequence[HeldAmount],
    table: PartTable,
    limit: Limit,
    words: Wording,
) -> Iterator[Diagnostic]:
    """Where the rank may hold more than its limit, if streams run faster or slower than planned.
    Its planned peak is within it."""
    streams = program.streams[rank]
    bound, at = _bound(streams, held, table)
    if bound <= limit.grains:
        return
    most = most_held(streams, held, table, limit.grains)
    if most is not None and most <= limit.grains:
        return
    one = program.ranks[rank][at]
    assert isinstance(one, Compute)
    spec = program.spec
    if most is None:
        text = f"no way was found to show that {size(spec, limit.grains)}, the limit, is enough"
    else:
        text = f"the rank would hold {size(spec, most)}; the limit is {size(spec, limit.grains)}"
    finding = words.finding(
        "over-limit",
        (rank, at),
        f"where streams run faster or slower than planned, {text}",
        notes=[
            "nothing makes it wait for all that frees memory before it at the planned times: "
            "stream order and `await`s of the rank must"
        ],
    )
    label = Label(spec.spans[limit.at], f"the limit is {size(spec, limit.grains)}")
    yield Diagnostic(finding.code, finding.message, (*finding.labels, label), finding.notes)


def _bound(streams: Sequence[int], held: Sequence[HeldAmount], table: PartTable) -> tuple[int, int]:
    """The most that can be held, and the place of the operation that takes it; see the module."""
    taken: dict[int, int] = {}
    for grains, taken_by, _ in held:
        taken[taken_by] = taken.get(taken_by, 0) + grains
    takers = sorted(taken, key=table.placed.__getitem__)
    taking = {streams[table.placed[taker]] for taker in takers}
    views = {stream: _FreedBefore(streams, held, table) for stream in taking}
    total, most, at = 0, 0, NONE
    for taker in takers:
        place = table.placed[taker]
        total += taken[taker]
        holds = total - views[streams[place]].freed(table.heard[taker])
        if holds > most:
            most, at = holds, place
    return most, at


class _FreedBefore:
    """What is certainly free before what one stream does next."""

    def __init__(self, streams: Sequence[int], held: Iterable[HeldAmount], table: PartTable):
        self.queues: dict[int, list[tuple[int, int]]] = {}  # by stream: place, index of the amount
        self.left, self.grains, self.sum = list[int](), list[int](), 0
        for k, (grains, _, freed_by) in enumerate(held):
            self.left.append(len(freed_by))
            self.grains.append(grains)
            for number in freed_by:
                place = table.placed[number]
                self.queues.setdefault(streams[place], []).append((place, k))
        for queue in self.queues.values():
            queue.sort(reverse=True)

    def freed(self, heard: Sequence[int]) -> int:
        """Grains that are free where so much of every stream has ended."""
        for stream, queue in self.queues.items():
            while queue and queue[-1][0] <= heard[stream]:
                _, k = queue.pop()
                self.left[k] -= 1
                if not self.left[k]:
                    self.sum += self.grains[k]
        return self.sum
