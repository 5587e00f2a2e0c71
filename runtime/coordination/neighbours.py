"""The ranks of this machine, as each sees the others: whether their processes still run, and what
they did last. A rank that was killed cannot say that itself; its neighbours do."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from stretto.runtime.coordination.board import Board, board_of
from stretto.runtime.coordination.processes import Process, state, this_process
from stretto.runtime.coordination.store import Store
from stretto.runtime.describe import ranks
from stretto.runtime.whereabouts import LastPlace, Whereabouts, of_other

LEFT = "though others wait for it (its script was over, or has failed)"


class Neighbour(NamedTuple):
    """Another rank of this machine."""

    process: Process
    page: Whereabouts | None


class RanksHere:
    """This rank's page is `own`, and `board` the one on which all write; None where rank 0 is not
    known to be here. `tell(rank, place)` is what another does at a place, to follow `rank 2 `."""

    def __init__(
        self, store: Store, rank: int, own: Whereabouts, tell: Callable[[int, LastPlace], str]
    ):
        self.store, self.rank, self.own, self.tell = store, rank, own, tell
        self.here = this_process()
        self.key = f"machine/{self.here.machine}"
        self.known: dict[int, Neighbour] = {}
        self.board: Board | None = None

    def announce(self) -> None:
        """Lets the others find this rank."""
        if self.rank == 0:
            self.board = Board()
        number, board = self.store.count(self.key), self.board.file if self.board else -1
        self.store.post(f"{self.key}/{number}", [self.rank, self.own.file, board, *self.here])

    def look(self) -> None:
        """Finds who has announced itself. To be called when all have, and while they run."""
        for number in range(1, self.store.counted(self.key) + 1):
            told = self.store.read(f"{self.key}/{number}")
            if told is not None and told[0] not in (self.rank, *self.known):
                process = Process(*told[3:])
                page = of_other(process.number, told[1])
                self.known[told[0]] = Neighbour(process, page)
                if told[0] == 0:
                    self.board = board_of(process.number, told[2])
        if self.board is not None:
            self.board.enter(self.rank)

    def state(self, rank: int) -> str:
        """As `processes.state`; empty where the rank is on another machine."""
        found = self.known.get(rank)
        return state(found.process) if found else ""

    def last(self, rank: int) -> str:
        """What the rank did last, to follow `rank 2 `; empty where nobody here knows."""
        found = self.known.get(rank)
        if found is None or found.page is None:
            return ""
        try:
            return self.tell(rank, found.page.read())
        except Exception:  # half written, or of a plan that is not there any more
            return ""

    def gone(self, among: Iterable[int] | None = None) -> list[int]:
        """The ranks whose processes have ended, and have not told why."""
        return [rank for rank in self.ended(among) if not self.told(rank)]

    def ended(self, among: Iterable[int] | None = None) -> list[int]:
        """The ranks whose processes have ended."""
        asked = self.known if among is None else among
        return sorted(rank for rank in asked if self.state(rank) == "gone")

    def told(self, rank: int) -> bool:
        """Whether the rank is here and has told why it ends."""
        page = found.page if (found := self.known.get(rank)) else None
        return page is not None and page.read().told

    def _left(self, rank: int) -> bool:
        page = self.known[rank].page
        return page is not None and page.read().left

    def silent(self) -> str:
        """What is to be said of ranks that are stopped or gone, and a `; ` behind it."""
        gone, stopped = self.gone(), [r for r in self.known if self.state(r) == "stopped"]
        told = [self.obituary(gone)] if gone else []
        told += [f"rank {r} is stopped where it {self.last(r)}" for r in stopped]
        return "".join(f"{words}; " for words in told)

    def obituary(self, gone: list[int]) -> str:
        """One line on ranks whose processes have ended, with what each did last."""
        left = [rank for rank in gone if self._left(rank)]
        killed = [rank for rank in gone if rank not in left]
        if left and killed:
            return f"{self.obituary(killed)}; {self.obituary(left)}"
        told = [f"rank {rank} {last}" for rank in gone if (last := self.last(rank))]
        end = "its process has" if len(gone) == 1 else "their processes have"
        why = LEFT if left else "without a word (killed, or out of memory?)"
        words = f"{ranks(gone)}: {end} ended {why}"
        return f"{words}; the last that was seen: {', '.join(told)}" if told else words
