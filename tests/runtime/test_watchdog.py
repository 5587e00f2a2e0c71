"""Ranks that wait too long at the same moment all ask where the others are: each report names the
rank that is to blame, whoever is first."""

import threading
import time

import pytest
import torch.distributed as dist

from stretto.runtime.coordination.peers import Peers
from stretto.runtime.coordination.questions import Questions
from stretto.runtime.coordination.stall import Answer, is_at_work, stall_report
from stretto.runtime.coordination.store import Store
from stretto.runtime.coordination.watchdog import Position, Watchdog

pytestmark = pytest.mark.xdist_group("ranks")  # it measures time


class Waiting:
    """Four ranks of which rank 1 is stopped, 0 and 2 wait for it, and 3 waits for 2. Each begins to
    wait `skew` seconds after the one before it."""

    def __init__(self, skew: float):
        store = dist.HashStore()  # type: ignore[attr-defined]
        self.reports: dict[int, str] = {}
        self.watchdogs = []
        for rank, peer in ((0, 1), (2, 1), (3, 2)):
            self.watchdogs.append(self.watched(Peers(rank, 4, Store(store, ""), 0.3), peer))
            time.sleep(skew)

    def watched(self, peers: Peers, peer: int) -> Watchdog:
        here = Position((1, 5), f"waits for rank {peer}", (peer,), True)

        def reported(report: str) -> None:
            self.reports[peers.rank] = report

        return Watchdog(peers, lambda: here, reported)

    def end(self) -> None:
        for watchdog in self.watchdogs:
            watchdog.stop()


def test_whoever_reports_names_the_rank_that_stands_still() -> None:
    """At skews from 0 to 10 ms between ranks: nobody is blamed who answers."""
    begun = [Waiting(skew / 1000) for skew in (0, 0, 0, 0.5, 1, 1, 2, 2, 2, 3, 5, 5, 7, 10, 10, 10)]
    end = time.monotonic() + 60
    while time.monotonic() < end and not all(len(group.reports) == 3 for group in begun):
        time.sleep(0.1)
    for group in begun:
        group.end()
    for group in begun:
        assert len(group.reports) == 3, group.reports
        whole = [r for r in group.reports.values() if r.startswith("the step stands still: rank ")]
        assert len(whole) == 1
        lines = whole[0].splitlines()
        assert lines[1] == "  rank 1: no answer, the process is stopped or gone"
        assert len(lines) == 4  # the others have answered
        for report in group.reports.values():
            assert "\n  rank 1: no answer" in report  # who is told by the first quotes that


def test_a_question_is_not_lost_to_one_that_comes_at_the_same_time() -> None:
    """Many ask at once: each has an answer of every rank, though a rank answers but once."""
    store = dist.HashStore()  # type: ignore[attr-defined]
    world, asked = 8, threading.Barrier(8)
    found: dict[int, int] = {}

    def rank(number: int) -> None:
        questions = Questions(Store(store, ""), number)
        here = Answer("waits", (0,), True, 1.0, 1.0)
        asked.wait()
        question = questions.ask()
        questions.answer(lambda: here)

        def pause() -> None:
            questions.answer(lambda: here)
            time.sleep(0.001)

        answers = questions.await_answers(question, range(world), pause)
        found[number] = len(answers)
        while len(found) < world:
            pause()

    threads = [threading.Thread(target=rank, args=(r,), daemon=True) for r in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == dict.fromkeys(range(world), world)


def answer(*waiting_for: int, seconds: float = 61, idle: float = 61) -> Answer:
    return Answer("waits" if waiting_for else "computes", waiting_for, True, seconds, idle)


def test_who_is_at_work() -> None:
    idle, computing = answer(), answer(idle=3)
    assert not is_at_work(0, {0: answer(1), 1: idle}, 60)
    assert is_at_work(0, {0: answer(1), 1: answer(seconds=5, idle=5)}, 60)
    assert is_at_work(0, {0: answer(1), 1: computing}, 60)  # one operation takes this long
    assert not is_at_work(0, {0: answer(1), 1: answer(seconds=301, idle=0)}, 60)  # too long
    assert not is_at_work(0, {0: answer(1)}, 60)  # no answer
    assert not is_at_work(0, {0: answer(1), 1: answer(0)}, 60)  # each waits for the other
    assert is_at_work(0, {0: answer(1, idle=2), 1: answer(0)}, 60)  # but a message is on its way
    assert is_at_work(0, {0: answer(1), 1: answer(2), 2: computing}, 60)
    every = {r: answer(*{0, 1, 2} - {r})._replace(patient=True) for r in range(3)}
    assert is_at_work(0, every, 60)  # at a checkpoint, on a slow disk
    assert not is_at_work(0, {0: every[0], 1: every[1]}, 60)  # one of them does not answer
    assert not is_at_work(0, {**every, 2: answer(seconds=301, idle=0)}, 60)  # or does not come


def test_a_report_begins_with_the_culprit() -> None:
    told = {0: answer(2), 1: answer(0), 2: answer(3), 3: answer()}
    report = stall_report(0, 4, told, lambda rank: "")
    assert [line.split()[1] for line in report.splitlines()[1:]] == ["3", "2", "1"]
    del told[3]
    for seen, words in (("", "or gone"), ("stopped", "(it is stopped)"), ("running", "runs")):
        second = stall_report(0, 4, told, lambda rank, seen=seen: seen).splitlines()[1]  # type: ignore[misc]
        assert second.startswith("  rank 3: no answer") and words in second
