"""Slots of results that are made on a rank and may be read on several of its streams: where each is
freed, and which one is filled when. A slot is filled only where its last `free` comes before, by
stream order and `await`s."""

from bisect import bisect_left

from stretto.compiler.order.earliest_start import Earliest
from stretto.compiler.problem.spec import NONE
from stretto.compiler.program.known import StreamKnowledge, StreamPlace
from stretto.compiler.program.messages import Output


def releases(times: Earliest, lane: int, output: Output) -> tuple[int, int, bool]:
    """On which lane the slot of a result is freed that other lanes use too, and behind which unit
    or (`True`) before which. `lane` is the one that makes the result."""
    assert output.elsewhere
    readers = list(output.elsewhere.items())
    if output.last != NONE:
        readers.append((lane, output.last))
    if output.messages:
        return lane, _behind(times, lane, max(output.send_wait, output.last + 1), readers), True
    where, unit = max(readers, key=lambda one: (times.end[one[0]][one[1]], one))
    if len(readers) == 1:
        return where, unit, False
    return where, _behind(times, where, unit + 1, readers), True


def _behind(times: Earliest, lane: int, unit: int, readers: list[StreamPlace]) -> int:
    """The first unit of the lane, not before `unit`, that starts when all readers have ended."""
    end = max(times.end[a][k] for a, k in readers)
    place = max(times.place[a][k] for a, k in readers)
    unit = max(unit, bisect_left(times.start[lane], end))
    return max(unit, bisect_left(times.place[lane], place))


class OutputSlots:
    """The slots of one rank's results. `first` is the rank's first lane, `known` what its streams
    know, `many` how many slots there are already, for other things."""

    def __init__(self, times: Earliest, first: int, known: StreamKnowledge, many: int):
        self.times, self.first, self.known, self.many = times, first, known, many
        self.free: dict[int, StreamPlace] = {}  # by slot: what its `free` is before

    def give(self, stream: int, slot: int) -> None:
        """The slot is freed on the stream, before its next computation."""
        self.free[slot] = stream, self.known.now[stream][stream]

    def take(self, stream: int, i: int, needs: list[StreamPlace]) -> tuple[int, list[StreamPlace]]:
        """A slot for the result of operation i, which waits for `needs`; and what else it has to
        wait for to have it."""
        knows = list(self.known.now[stream])
        for place in self.known.missing(stream, needs):
            knows = list(map(max, knows, self.known.ended(place)))
        for slot, (a, k) in sorted(self.free.items()):
            if a == stream or knows[a] > k:
                del self.free[slot]
                return slot, []
        for slot, place in sorted(self.free.items()):
            if self._has_ended(place, i):
                del self.free[slot]
                return slot, [place]
        self.many += 1
        return self.many - 1, []

    def _has_ended(self, place: StreamPlace, i: int) -> bool:
        """Whether by the clock the computation has ended when operation i starts, and stands before
        it in the list."""
        times, lane, k = self.times, self.first + place[0], place[1]
        if k >= len(times.start[lane]):
            return False
        own, at = times.lane[i], times.index[i]
        ended = times.end[lane][k] <= times.start[own][at]
        return ended and times.place[lane][k] < times.place[own][at]
