"""The ranks of a plan, as one of them sees them."""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from stretto.runtime.coordination.neighbours import RanksHere
from stretto.runtime.coordination.questions import Questions
from stretto.runtime.coordination.stall import absence, others_at_work
from stretto.runtime.coordination.store import MissingKeys, Store


class Peers(NamedTuple):
    """This `rank` of `world` ranks, the `store` that they share, and the `timeout`: how many
    seconds one waits for another. `neighbours`: those of this machine, where they are known."""

    rank: int
    world: int
    store: Store
    timeout: float
    neighbours: RanksHere | None = None

    def wait(self, keys: Sequence[str]) -> list[Any]:
        """The value of each key, once other ranks have posted them. Raises `MissingKeys` where
        none came within the timeout and no other rank is at work, which tells where they are;
        `PipelineError` where a rank fails meanwhile."""
        while True:
            try:
                return self.store.wait(keys, self.timeout)
            except MissingKeys as missing:
                questions = self.questions()
                everyone = range(self.world)
                answers = questions.await_answers(questions.ask(), everyone, self._pause)
                if not others_at_work(self.rank, answers, self.timeout):
                    others = [other for other in everyone if other != self.rank]
                    why = absence(others, answers, self.timeout)
                    raise MissingKeys(missing.keys, why) from None

    def questions(self) -> Questions:
        """To ask where the others are, or to answer."""
        seen = self.neighbours.state if self.neighbours else lambda _: ""
        return Questions(self.store, self.rank, seen)

    def _pause(self) -> None:
        if self.store.on_wait is not None:
            self.store.on_wait()
        time.sleep(0.05)
