"""What each stream of a rank knows to have ended on the others, by stream order and `await`s: a
clock of whole numbers for each stream, one number for each stream of the rank (a vector clock)."""

from collections.abc import Iterable

StreamPlace = tuple[int, int]
"""A computation of a rank: its stream, and which one of the stream's it is, from 0."""


class StreamKnowledge:
    """How far the streams of one rank were followed, and what each knows. `now[a][b]` is how many
    computations of stream b have ended for all that stream a knows."""

    def __init__(self, streams: int):
        self.now = [[0] * streams for _ in range(streams)]
        self._ended: list[list[tuple[int, ...]]] = [[] for _ in range(streams)]

    def has(self, stream: int, place: StreamPlace) -> bool:
        """Whether the stream knows that this computation has ended."""
        return self.now[stream][place[0]] > place[1]

    def compute(self, stream: int) -> None:
        """The next computation of the stream runs."""
        self.now[stream][stream] += 1
        self._ended[stream].append(tuple(self.now[stream]))

    def ended(self, place: StreamPlace) -> tuple[int, ...]:
        """What was known at the end of this computation, which was followed already."""
        return self._ended[place[0]][place[1]]

    def tell(self, stream: int, place: StreamPlace) -> None:
        """The stream waits for a computation that was followed already: it knows what that one
        knew."""
        self.now[stream] = list(map(max, self.now[stream], self.ended(place)))

    def missing(self, stream: int, places: Iterable[StreamPlace]) -> list[StreamPlace]:
        """The fewest of these computations, which were followed already, for which the stream has
        to wait so that it knows of all: of each stream the last, and none that another of them
        comes after. By stream."""
        last: dict[int, int] = {}
        for a, k in places:
            if self.now[stream][a] <= k and last.get(a, -1) < k:
                last[a] = k
        return [
            (a, k)
            for a, k in sorted(last.items())
            if not any(b != a and self._ended[b][other][a] > k for b, other in last.items())
        ]
