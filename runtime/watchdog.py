"""Watches over one rank's steps from a thread of its own. It answers when another rank asks where
this one is; it asks the others when this one has waited too long; and it ends this rank's wait when
another has failed. A report names who waits, at which operation and line, for whom, and what that
one is doing."""

import atexit
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from stretto.runtime.rank_program import ranks
from stretto.runtime.store import Board

ANSWER = 3.0  # seconds within which a rank that runs at all answers
GRACE = 3.0  # seconds that a rank has to end by itself when another has failed


class Position(NamedTuple):
    """Where a rank is. `key` changes whenever it moves on. `words` follow `rank 2 `; `peers` are
    the ranks it waits for, none where it computes; not `busy` where it is between steps."""

    key: tuple[int, int]
    words: str
    peers: tuple[int, ...]
    busy: bool


class Watchdog:
    """`position` is asked from the thread; `abort` ends this rank's wait and is told why."""

    def __init__(
        self,
        board: Board,
        rank: int,
        world: int,
        seconds: float,
        position: Callable[[], Position | None],
        abort: Callable[[str], None],
    ):
        self.board, self.rank, self.world, self.seconds = board, rank, world, seconds
        self.position, self.abort = position, abort
        self.tick = min(1.0, max(seconds / 4, 0.05))
        self.seen: tuple[int, int] | None = None
        self.since = self.moved = time.monotonic()
        self.answered = 0
        self.asked = float("-inf")  # when this rank last answered a question
        self.failed_since = 0.0
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._watch, name="stretto-watchdog", daemon=True)
        self.thread.start()
        atexit.register(self.stop)

    def stop(self) -> None:
        self.over.set()
        if threading.current_thread() is not self.thread:
            self.thread.join(timeout=2)
        atexit.unregister(self.stop)

    def _watch(self) -> None:
        while not self.over.wait(self.tick):
            try:
                now = self.position()
                if now is None:
                    return
                self._look(now)
            except Exception:  # the store is gone: the job is coming down
                return

    def _look(self, now: Position) -> None:
        if now.key != self.seen:
            self.seen = now.key
            self.since = self.moved = time.monotonic()
        failure = self.board.read("failed")
        if failure is not None and failure["rank"] != self.rank and now.busy:
            self._give_up(failure)
            return
        question = self.board.read("question")
        if question is not None and question["number"] > self.answered:
            self._answer(now, question["number"])
        late = now.busy and now.peers and time.monotonic() - self.since > self.seconds
        if late and time.monotonic() - self.asked > ANSWER + 1:  # nobody else is on it
            self._investigate(now)

    def _give_up(self, failure: dict[str, Any]) -> None:
        """The rank's own wait mostly ends by itself, when the connection closes."""
        if not self.failed_since:
            self.failed_since = time.monotonic()
        elif time.monotonic() - self.failed_since > GRACE:
            self.over.set()
            self.abort(f"rank {self.rank} stops: {failure['words'].splitlines()[0]}")

    def _answer(self, now: Position, number: int) -> None:
        self.answered, self.asked = number, time.monotonic()
        told = {
            "words": now.words,
            "peers": now.peers,
            "busy": now.busy,
            "seconds": time.monotonic() - self.moved,
        }
        self.board.post(f"answer/{number}/{self.rank}", told)

    def _investigate(self, now: Position) -> None:
        """Asks all ranks where they are; ends the step if it stands still. Of two ranks that ask,
        the later one is answered."""
        number = self.board.count("questions")
        self.board.post("question", {"number": number, "by": self.rank})
        self._answer(now, number)
        answers: dict[int, dict[str, Any]] = {}
        end = time.monotonic() + ANSWER
        while len(answers) < self.world and time.monotonic() < end:
            time.sleep(min(0.1, self.tick))
            newer = self.board.read("question")["number"]
            if newer > number:
                self._answer(now, newer)
                break
            for rank in range(self.world):
                told = None if rank in answers else self.board.read(f"answer/{number}/{rank}")
                if told is not None:
                    answers[rank] = told
        here = self.position()
        if newer > number or here is None or here.key != now.key or self._patient(answers):
            self.since = time.monotonic() - self.seconds / 2
            return
        report = self._report(answers)
        if self.board.first("failed"):
            self.board.post("failed", {"rank": self.rank, "words": report})
            self.over.set()
            self.abort(report)

    def _chain(self, answers: dict[int, dict[str, Any]]) -> list[int]:
        """From this rank to the one for which, in the end, it waits."""
        chain = [self.rank]
        while True:
            told = answers.get(chain[-1])
            if told is None or not told["peers"]:
                return chain
            absent = [peer for peer in told["peers"] if peer not in answers]
            following = (absent or told["peers"])[0]
            if following in chain:
                return [*chain, following]
            chain.append(following)

    def _patient(self, answers: dict[int, dict[str, Any]]) -> bool:
        """Whether the rank at the end of the chain has been at work for less than the limit."""
        told = answers.get(self._chain(answers)[-1])
        return told is not None and not told["peers"] and told["seconds"] < self.seconds

    def _report(self, answers: dict[int, dict[str, Any]]) -> str:
        chain = list(dict.fromkeys(self._chain(answers)))
        silent = [rank for rank in range(self.world) if rank not in answers]
        lines = [f"the step stands still: {_told(self.rank, answers[self.rank])}"]
        if silent:
            lines.append(f"  {ranks(silent)}: no answer, the process is stopped or gone")
        others = [rank for rank in [*chain[1:], *sorted(answers)] if rank != self.rank]
        known = [rank for rank in dict.fromkeys(others) if rank in answers]
        lines += [f"  {_told(rank, answers[rank])}" for rank in known[:16]]
        return "\n".join(lines)


def _told(rank: int, answer: dict[str, Any]) -> str:
    return f"rank {rank} {answer['words']}, for {answer['seconds']:.0f} s"
