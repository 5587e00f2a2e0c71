"""The question "where are you?", which a rank asks of all when it has waited too long. Asking is
counting up one number, so that ranks that ask at the same time cannot undo each other's question;
an answer to a later question answers all before it too."""

import time
from collections.abc import Callable, Iterable

from stretto.runtime.coordination.stall import Answer, Answers
from stretto.runtime.coordination.store import Store

ANSWER = 3.0  # seconds within which a rank that runs at all answers
BUSY_ANSWER = 15.0  # seconds that are left to a process of this machine which runs, yet is silent
QUESTIONS = "questions"


class Questions:
    """One rank's part of asking and answering: of rank `rank`, over the store. `seen` says what
    this machine's kernel knows of a rank's process, as `processes.state`."""

    def __init__(self, store: Store, rank: int, seen: Callable[[int], str] = lambda _: ""):
        self.store, self.rank, self.seen = store, rank, seen
        self.answered = 0

    def ask(self) -> int:
        """Asks all ranks; the question's number, from 1."""
        return self.store.count(QUESTIONS)

    def answer(self, here: Callable[[], Answer]) -> None:
        """Answers what was asked and not answered yet."""
        latest = self.store.counted(QUESTIONS)
        if latest > self.answered:
            self.answered = latest
            self.store.post(f"answer/{self.rank}", [latest, *here()])

    def read(self, number: int, ranks: Iterable[int]) -> dict[int, Answer]:
        """The answers to this question that these ranks have given so far."""
        posted = {rank: self.store.read(f"answer/{rank}") for rank in ranks}
        return {
            rank: Answer(told[1], tuple(told[2]), *told[3:])
            for rank, told in posted.items()
            if told is not None and told[0] >= number
        }

    def await_answers(
        self,
        number: int,
        ranks: Iterable[int],
        pause: Callable[[], object],
        seconds: float = ANSWER,
    ) -> Answers:
        """The answers of these ranks, or of those that answer in time; between two looks `pause`
        is called. A silent rank is left more time while its process can be seen to run."""
        begun = time.monotonic()
        silent, answers = set(ranks), dict[int, Answer]()
        while silent:
            answers |= self.read(number, silent)
            silent -= answers.keys()
            waited = time.monotonic() - begun
            states = {self.seen(rank) for rank in silent}
            if not states - {"stopped", "gone"} or waited > BUSY_ANSWER:
                break
            if waited > seconds and "running" not in states:
                break
            pause()
        return answers
