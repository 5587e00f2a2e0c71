"""Timeline of a Program with streams → how much of the time that a rank spends on other streams
than `compute` lies under its computation: what communication costs is what is not hidden."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Literal, NamedTuple

from stretto.compiler.analysis.idle import Idle
from stretto.compiler.problem.spec import NONE
from stretto.compiler.program.timeline import Timed, Timeline


class HiddenTime(NamedTuple):
    """In ticks: the `time` of all parts of a rank on other streams than `compute`, and how much of
    it is `hidden`, under a part on `compute`."""

    time: int
    hidden: int

    @property
    def share(self) -> float | None:
        """The part that is hidden; None where there is no time."""
        return self.hidden / self.time if self.time else None


class RankHidden(NamedTuple):
    """Of one rank: over the whole step, inside its steady state (from the start of its first I or B
    part to the end of its last F part) and in the ramps, outside of that."""

    all: HiddenTime
    steady: HiddenTime
    ramps: HiddenTime


def hidden(timeline: Timeline) -> list[RankHidden | None]:
    """Rank by rank; None where no time is spent on other streams."""
    return [_of_rank(row) for row in timeline.ranks]


Exposure = Literal["own", "away", "order", "memory", "channel", "done"]


def exposed(row: Sequence[Timed], idle: Iterable[Idle]) -> Counter[Exposure]:
    """Of one rank, with its idle stretches: the ticks of parts on other streams than `compute` that
    are not hidden, by what `compute` does meanwhile: it waits for a result of the rank's `own`
    other streams or of another rank (`away`), has another cause to be idle, or is done. Together
    they are `time - hidden`."""
    beside: dict[int, list[tuple[int, int]]] = {}
    for one in row:
        if one.stream:
            beside.setdefault(one.stream, []).append((one.start, one.end))
    covers = [_Cover(sorted(stretches)) for stretches in beside.values()]
    found: Counter[Exposure] = Counter()
    for gap in idle:
        if gap.stream:
            continue
        why: Exposure
        if gap.cause == "data":
            why = "own" if gap.waits_for == gap.rank else "away"
        elif gap.cause == "channel" and gap.waits_for != NONE:
            why = "away"
        else:
            why = gap.cause
        found[why] += sum(cover.length(gap.start, gap.end) for cover in covers)
    return +found


def _of_rank(row: Sequence[Timed]) -> RankHidden | None:
    beside = [one for one in row if one.stream]
    computing = sorted((one.start, one.end) for one in row if not one.stream)
    begun = [one.start for one in row if one.operation.kind in "IB"]
    ended = [one.end for one in row if one.operation.kind == "F"]
    steady = (min(begun), max(ended)) if begun and ended else (0, 0)
    under = _Cover(computing)
    found = HiddenTime(
        sum(one.end - one.start for one in beside),
        sum(under.length(one.start, one.end) for one in beside),
    )
    if not found.time:
        return None
    time = covered = 0
    for one in beside:
        start, end = max(one.start, steady[0]), min(one.end, steady[1])
        if start < end:
            time += end - start
            covered += under.length(start, end)
    inside = HiddenTime(time, covered)
    return RankHidden(found, inside, HiddenTime(found.time - time, found.hidden - covered))


class _Cover:
    """Stretches that do not overlap, by start, and how much of a stretch they cover."""

    def __init__(self, stretches: Sequence[tuple[int, int]]):
        self.stretches = stretches
        self.starts = [start for start, _ in stretches]
        self.sums = [0, *accumulate(end - start for start, end in stretches)]

    def length(self, start: int, end: int) -> int:
        """How much of the time from `start` to `end` is covered."""
        return self._before(end) - self._before(start)

    def _before(self, moment: int) -> int:
        """How much of all the time before the moment."""
        many = bisect_right(self.starts, moment)
        if not many:
            return 0
        start, end = self.stretches[many - 1]
        return self.sums[many - 1] + min(end, moment) - start
