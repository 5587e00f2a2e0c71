"""Which of the ranks that this one waits for will never come, because their processes have ended
between two steps: a script that was over or raised an exception, or a rank that was killed. Inside
a step a connection breaks; where ranks wait for each other to begin one, none does."""

import time
from collections.abc import Sequence

from stretto.runtime.coordination.neighbours import LEFT
from stretto.runtime.coordination.peers import Peers
from stretto.runtime.describe import ranks

CERTAIN = 2.0  # seconds after which what a rank had sent before its end has arrived


class Departures:
    """As one rank sees them: on its own machine by the processes themselves, on others by what they
    leave in the store."""

    def __init__(self, peers: Peers):
        self.peers = peers
        self.place: tuple[int, ...] = ()  # where this rank was when it saw that somebody has gone
        self.since = 0.0

    def leave(self) -> None:
        """This process ends in the ordinary way, whatever others wait for. Raises `StoreLost`."""
        near = self.peers.neighbours
        if near is not None:
            near.own.leave()
        if near is None or len(near.known) + 1 < self.peers.world:
            self.peers.store.post(f"left/{self.peers.rank}", True)

    def told(self, waited: Sequence[int], place: tuple[int, ...]) -> str:
        """What is to be said of those of these ranks that have gone, empty where none has, or this
        one has not been at the `place` for long enough since. Raises `StoreLost`."""
        near = self.peers.neighbours
        here = near.known if near is not None else {}
        gone = near.gone(rank for rank in waited if rank in here) if near is not None else []
        left = [r for r in waited if r not in here and self.peers.store.read(f"left/{r}")]
        if not gone and not left:
            self.place = ()
        elif self.place != place:
            self.place, self.since = place, time.monotonic()
        elif time.monotonic() - self.since > CERTAIN:
            words = [near.obituary(gone)] if near is not None and gone else []
            return "; ".join(words + ([f"{ranks(left)}: ended {LEFT}"] if left else []))
        return ""
