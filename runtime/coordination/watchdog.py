"""Watches over one rank's steps from a thread of its own. It answers when another rank asks where
this one is; it asks the others when this one has waited too long; and it ends this rank's wait when
another has failed or the step stands still."""

import atexit
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from stretto.runtime.coordination.failure import (
    KEY,
    Failure,
    failure_elsewhere,
    stopped_by,
)
from stretto.runtime.coordination.peers import Peers
from stretto.runtime.coordination.stall import Answer, is_at_work, stall_report

ANSWER = 3.0  # seconds within which a rank that runs at all answers
GRACE = 3.0  # seconds that a rank has to end by itself when another has failed


class Position(NamedTuple):
    """Where a rank is. `key` changes whenever it moves on; the others are those of `Answer`."""

    key: tuple[int, int]
    where: str
    waiting_for: tuple[int, ...]
    busy: bool


class Watchdog:
    """`position` is called from the thread, and gives None once there is nothing to watch;
    `abort` ends this rank's wait and is given the reason."""

    def __init__(
        self,
        peers: Peers,
        position: Callable[[], Position | None],
        abort: Callable[[str], None],
    ):
        self.peers, self.position, self.abort = peers, position, abort
        self.tick = min(1.0, max(peers.timeout / 4, 0.05))
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
        """Ends the thread."""
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
        failure = failure_elsewhere(self.peers.store, self.peers.rank)
        if failure is not None and now.busy:
            self._give_up(failure)
            return
        question = self.peers.store.read("question")
        if question is not None and question["number"] > self.answered:
            self._answer(now, question["number"])
        waited = time.monotonic() - self.since
        late = now.busy and now.waiting_for and waited > self.peers.timeout
        if late and time.monotonic() - self.asked > ANSWER + 1:  # nobody else is on it
            self._investigate(now)

    def _give_up(self, failure: Failure) -> None:
        """The rank's own wait mostly ends by itself, when the connection closes."""
        if not self.failed_since:
            self.failed_since = time.monotonic()
        elif time.monotonic() - self.failed_since > GRACE:
            self.over.set()
            first_line = failure._replace(message=failure.message.splitlines()[0])
            self.abort(str(stopped_by(self.peers.rank, first_line)))

    def _answer(self, now: Position, question: int) -> None:
        self.answered, self.asked = question, time.monotonic()
        seconds = time.monotonic() - self.moved
        answer = Answer(now.where, now.waiting_for, now.busy, seconds)
        self.peers.store.post(f"answer/{question}/{self.peers.rank}", answer)

    def _investigate(self, now: Position) -> None:
        """Asks all ranks where they are; ends the step if it stands still. Of two ranks that ask,
        the later one is answered."""
        store, rank = self.peers.store, self.peers.rank
        question = store.count("questions")
        store.post("question", {"number": question, "by": rank})
        self._answer(now, question)
        answers, newer = self._answers(now, question)
        here = self.position()
        moved = here is None or here.key != now.key
        if newer or moved or is_at_work(rank, answers, self.peers.timeout):
            self.since = time.monotonic() - self.peers.timeout / 2
            return
        report = stall_report(rank, self.peers.world, answers)
        if store.first(KEY):
            store.post(KEY, Failure(rank, report))
            self.over.set()
            self.abort(report)

    def _answers(self, now: Position, question: int) -> tuple[dict[int, Answer], bool]:
        """The answers that come in time, and whether another rank has asked meanwhile, who then is
        answered instead."""
        answers: dict[int, Answer] = {}
        end = time.monotonic() + ANSWER
        while len(answers) < self.peers.world and time.monotonic() < end:
            time.sleep(min(0.1, self.tick))
            latest = self.peers.store.read("question")["number"]
            if latest > question:
                self._answer(now, latest)
                return answers, True
            for rank in range(self.peers.world):
                if rank not in answers:
                    told = self.peers.store.read(f"answer/{question}/{rank}")
                    if told is not None:
                        answers[rank] = Answer(*told)
        return answers, False
