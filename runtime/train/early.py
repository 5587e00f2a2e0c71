"""A rank between its start and its executor: it imports the user's model, builds stages and loads
weights, which may take long. Others that ask where it is are answered, and it ends when another
fails."""

import atexit
import threading
from collections.abc import Callable

from stretto.runtime.coordination.neighbours import RanksHere
from stretto.runtime.coordination.peers import Peers
from stretto.runtime.coordination.store import Store
from stretto.runtime.coordination.watchdog import Position, Watchdog
from stretto.runtime.executor import Executor
from stretto.runtime.leave import leave
from stretto.runtime.train.start import RankStart

LOOK = 0.5  # seconds from one look at the other ranks' processes to the next


class EarlyWatch:
    """Of the ranks of this `start`, over the store that the executor will have."""

    def __init__(self, start: RankStart, own: Store):
        self.start = start
        doing = "builds its stages"
        if start.peers.neighbours is not None:
            start.peers.neighbours.own.say(doing)
        here = Position((0, 0), doing, (), True)
        peers = Peers(start.peers.rank, start.peers.world, own, start.peers.timeout)
        near = start.peers.neighbours
        if near is not None:
            own.on_lost, own.on_end = near.silent, near.own.end
            own.keeper_told = lambda: near.told(0)
        self.watchdog = Watchdog(peers, lambda: here, leave)
        self.over = threading.Event()
        self.looking: threading.Thread | None = None
        if near is not None:
            self.looking = threading.Thread(target=self._look, args=(near,), daemon=True)
            self.looking.name = "stretto-lookout"
            self.looking.start()
            atexit.register(self._await_end)

    def _look(self, near: RanksHere) -> None:
        """No connection breaks yet where a rank is killed: its process is watched."""
        while not self.over.wait(LOOK):
            if gone := near.gone():
                near.own.end()
                leave(near.obituary(gone))

    def _await_end(self) -> None:
        """Lets the thread end. It may be inside torch's store, in which the interpreter's teardown
        must not find it."""
        self.over.set()
        if self.looking is not None and self.looking is not threading.current_thread():
            self.looking.join(self.start.peers.timeout)
            if not self.looking.is_alive():
                atexit.unregister(self._await_end)

    def built(self) -> None:
        """The stages are there, and the executor is made next: its own watchdog takes over."""
        self.watchdog.stop()

    def made(self, executor: Executor) -> None:
        """The executor is there: it knows the plan as it is run."""
        self._await_end()
        near, its = self.start.peers.neighbours, executor.peers.neighbours
        if near is not None and its is not None:
            near.tell = its.tell


def told_by_a_signal(start: RankStart | None, tell: Callable[[str], None]) -> None:
    """A signal has come, as torchrun sends it to all when one rank has ended. Those that have ended
    without a word are named."""
    near = start.peers.neighbours if start is not None else None
    if near is not None and (gone := near.gone()):
        tell(near.obituary(gone))
