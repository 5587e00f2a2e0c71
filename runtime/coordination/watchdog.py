"""Watches over one rank's steps from a thread of its own. It answers when another rank asks where
this one is; it asks the others when this one has waited too long; and it ends this rank's wait when
another has failed or the step stands still."""

import atexit
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from stretto.runtime.coordination.departures import Departures
from stretto.runtime.coordination.failure import (
    KEY,
    Failure,
    failure_elsewhere,
    stopped_by,
)
from stretto.runtime.coordination.peers import Peers
from stretto.runtime.coordination.signs import SignsOfWork
from stretto.runtime.coordination.stall import Answer, is_at_work, stall_report
from stretto.runtime.coordination.store import StoreLost

GRACE = 3.0  # seconds that a rank has to end by itself when another has failed


class Position(NamedTuple):
    """Where a rank is. `key` changes whenever it moves on; the others are those of `Answer`.
    `several`: it may compute on one stream while it waits on another. `patient`: it may take as
    long as it likes, if only its process lives, as where a disk is written."""

    key: tuple[int, ...]
    where: str
    waiting_for: tuple[int, ...]
    busy: bool
    several: bool = False
    patient: bool = False


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
        self.seen: tuple[int, ...] | None = None
        self.since = self.moved = time.monotonic()
        self.worked = 0.0  # when it was last seen at work
        self.signs: SignsOfWork | None = None
        self.questions = peers.questions()
        self.departures = Departures(peers)
        self.failed_since = 0.0
        self.over, self.leaves = threading.Event(), False
        self.thread = threading.Thread(target=self._watch, name="stretto-watchdog", daemon=True)
        self.threads = [self.thread]
        if peers.store.port:
            lookout = threading.Thread(target=self._look_out, name="stretto-lookout", daemon=True)
            self.threads.append(lookout)
        for thread in self.threads:
            thread.start()
        atexit.register(self._await_end)

    def stop(self) -> None:
        """Ends the threads."""
        self.over.set()
        if _joined(self.threads, within=2):
            atexit.unregister(self._await_end)

    def _await_end(self) -> None:
        """Before the interpreter's teardown, which a thread of ours that is inside torch would turn
        into an abort: torch then asks for an interpreter that is gone. It is inside when the store
        answers late, and also in its last moment, if it is the last that holds the store. Others
        may wait for this rank, which has not closed its executor."""
        self.leaves = True
        self.over.set()
        _joined(self.threads, within=self.peers.timeout)

    def _watch(self) -> None:
        lost = 0.0  # since when the store is
        while not self.over.wait(self.tick):
            now = self.position()
            if now is None:
                return
            if not lost:
                try:
                    self._look(now)
                except StoreLost:
                    lost = time.monotonic()
            elif now.busy and time.monotonic() - lost > GRACE:  # what it waits for may have ended
                self._leave(now)
        if self.leaves and not lost:
            with suppress(StoreLost):
                self.departures.leave()

    def _look_out(self) -> None:
        """The store may also be silent for ever, where its machine is gone or the way to it is
        cut: who asks it then waits, the watching thread too."""
        while not self.over.wait(self.tick):
            now = self.position()
            if now is None:
                return
            late = time.monotonic() - self.peers.timeout
            calls = dict(self.peers.store.calls)
            watching = calls.pop(self.thread.ident or 0, late)
            if any(since < late for since in calls.values()) or (now.busy and watching < late):
                self._leave(now)

    def _leave(self, now: Position) -> None:
        """Ends this rank, which has lost the store."""
        self.over.set()
        rank, store = self.peers.rank, self.peers.store
        report = f"rank {rank} {now.where}, and stops: {store.lost()}"
        store.on_end()
        self.abort(report)

    def _look(self, now: Position) -> None:
        if now.key != self.seen:
            self.seen = now.key
            self.since = self.moved = time.monotonic()
            self.signs = None
        else:
            self._look_for_work(now)
        failure = failure_elsewhere(self.peers.store, self.peers.rank)
        if failure is not None and now.busy:
            self._give_up(failure)
            return
        self.questions.answer(lambda: self._answer(now))
        waited = time.monotonic() - self.since
        if now.busy and now.waiting_for:
            if told := self.departures.told(now.waiting_for, now.key):
                self._stop(f"rank {self.peers.rank} {now.where}, and has lost {told}")
            elif waited > self.peers.timeout:
                self._investigate(now)

    def _look_for_work(self, now: Position) -> None:
        """A rank that does not move on may compute for long, or wait for a large message."""
        if self.signs is None:
            self.signs = SignsOfWork(self.peers.store.port)
        elif self.signs.seen(waiting=bool(now.waiting_for) and not now.several):
            self.worked = time.monotonic()

    def _give_up(self, failure: Failure) -> None:
        """The rank's own wait mostly ends by itself, when the connection closes."""
        if not self.failed_since:
            self.failed_since = time.monotonic()
        elif time.monotonic() - self.failed_since > GRACE:
            self.over.set()
            self.peers.store.on_end()
            short = "\n".join(failure.message.splitlines()[:2])  # of a stall, who waits for whom
            self.abort(str(stopped_by(self.peers.rank, failure._replace(message=short))))

    def _answer(self, now: Position) -> Answer:
        moment = time.monotonic()
        idle = moment - max(self.moved, self.worked)
        for_so_long = moment - self.moved
        return Answer(now.where, now.waiting_for, now.busy, for_so_long, idle, now.patient)

    def _investigate(self, now: Position) -> None:
        """Asks all ranks where they are; ends the step if it stands still."""
        rank = self.peers.rank

        def pause() -> None:
            time.sleep(min(0.1, self.tick))
            self.questions.answer(lambda: self._answer(now))

        question = self.questions.ask()
        self.questions.answer(lambda: self._answer(now))
        answers = self.questions.await_answers(question, range(self.peers.world), pause)
        here = self.position()
        moved = here is None or here.key != now.key
        if moved or is_at_work(rank, answers, self.peers.timeout):
            self.since = time.monotonic() - self.peers.timeout / 2
            return
        known = (near.state, near.last) if (near := self.peers.neighbours) else ()
        self._stop(stall_report(rank, self.peers.world, answers, *known))

    def _stop(self, report: str) -> None:
        """Ends the step, unless another rank did."""
        if self.peers.store.post_first(KEY, Failure(self.peers.rank, report)):
            self.over.set()
            self.peers.store.on_end()
            self.abort(report)


def _joined(threads: list[threading.Thread], within: float) -> bool:
    """Whether these have ended, in so many seconds."""
    last = time.monotonic() + within
    for thread in threads:
        if thread is not threading.current_thread():
            thread.join(timeout=max(0.0, last - time.monotonic()))
    return not any(thread.is_alive() for thread in threads)
