"""Steps that are like one before, on every rank. In comes what a rank says of a step, its card; out
come the signatures by which the ranks took a step of the same cards, without that cards or verdicts
travel.

Every rank numbers its cards, and all number the verdicts by which they took a step, which are the
same on all. Before a step each writes the number of its card on a page that all ranks see. Rank 0
knows which numbers have come together, and writes the number of the verdict, or 0: then the cards
are posted and judged. A rank that cannot begin has number 0, and a card that is new one that has
come together with no others yet.
"""

import json
import time
from collections.abc import Callable, Iterable, Sequence

from stretto.runtime.coordination.board import Board
from stretto.runtime.coordination.store import OFTEN, SELDOM
from stretto.runtime.signatures import StepCard

BITS = 20  # of a card's number, on the page below the step's
MOST = 1 << 12  # cards and verdicts that are numbered
FIRST = 0.00005  # seconds to the second look


class KnownSteps:
    """One rank's part. `look` is called with the ranks that have not come when this one waits for
    long, again and again, and may raise."""

    def __init__(self, board: Board, rank: int, world: int, look: Callable[[Sequence[int]], None]):
        self.board, self.rank, self.world, self.look = board, rank, world, look
        self.last: tuple[StepCard | None, int] = None, 0  # a card, and its number
        self.numbers: dict[str, int] = {}  # of this rank's cards
        self.came: tuple[int, ...] = ()  # at rank 0 the numbers of the step's cards
        self.together: dict[tuple[int, ...], int] = {}  # of such the verdict's number
        self.verdicts: list[str] = []

    def ask(self, step: int, card: StepCard) -> str:
        """The signatures of the verdict that the ranks had of these cards; empty where they had
        none, and the cards of step number `step` must be judged. Raises what `look` raises."""
        own = self._number(card)
        if self.rank:
            self._write(step, own)
            (verdict,) = self._await(step, [0])
        else:
            self.came = () if card.fault else (own, *self._await(step, range(1, self.world)))
            verdict = self.together.get(self.came, 0)
            self._write(step, verdict)
        return self.verdicts[verdict - 1] if verdict else ""

    def learn(self, card: StepCard, signatures: str) -> None:
        """The cards were judged, and the ranks take the step, all of them."""
        if number := self._number(card):
            self.numbers[json.dumps(card)] = number
        if len(self.verdicts) < MOST:
            self.verdicts.append(signatures)
            if self.came and all(self.came):
                self.together[self.came] = len(self.verdicts)

    def _number(self, card: StepCard) -> int:
        """Of a card that is new the next one, which it keeps if it is learned."""
        if card == self.last[0]:
            return self.last[1]
        number = 0 if card.fault else self.numbers.get(json.dumps(card), len(self.numbers) + 1)
        self.last = card, number if number <= MOST else 0
        return self.last[1]

    def _write(self, step: int, number: int) -> None:
        self.board.numbers[self.rank] = step << BITS | number

    def _await(self, step: int, ranks: Iterable[int]) -> list[int]:
        """What these ranks have written of the step, as soon as all have."""
        numbers, pause, begun = self.board.numbers, FIRST, time.monotonic()
        awaited = list(ranks)
        while lacking := [rank for rank in awaited if numbers[rank] >> BITS != step]:
            if pause >= OFTEN:
                self.look(lacking)
            time.sleep(pause)
            waited = time.monotonic() - begun
            pause = min(max(FIRST, waited / 4), max(OFTEN, waited / 100), SELDOM)
        return [numbers[rank] & (1 << BITS) - 1 for rank in awaited]
