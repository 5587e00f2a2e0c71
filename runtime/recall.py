"""A step like one before, agreed without the store: every rank sends rank 0 a digest of its card,
and where rank 0 knows these digests of an earlier step, its answer is the number of the verdict of
that step. Else all go to the store, as for a step that is new. Both are messages of two numbers,
the step's and the digest or answer, of which 0 says "the store".

A rank that waits here must not wait inside a backend, where no failure of another rank would reach
it. So it looks at the memory into which the message will come, and waits for the message when that
has changed: for transports that show it (`Transport.shows`).

Every rank sends one message for every step that it begins, also one that it then refuses. Who did
not read it then finds it before that of a later step, and leaves it.
"""

import json
import time
from collections.abc import Callable, Iterable, Sequence
from ctypes import c_int64
from hashlib import blake2s

import torch

from stretto.runtime.coordination.peers import Peers
from stretto.runtime.coordination.store import OFTEN, SELDOM
from stretto.runtime.errors import PipelineError
from stretto.runtime.signatures import StepCard, StepVerdict
from stretto.runtime.transport import P2PLane, Pending, Transport

STORE = 0
"""In the place of a digest or an answer: look in the store."""

FIRST_PAUSE = 0.00003  # seconds between two looks, at first
MOST = 64  # verdicts that are remembered


class StepRecall:
    """One rank's part. `notice` is told for which ranks it waits. All ranks make theirs together,
    and `learn` the same verdicts in the same order."""

    def __init__(self, peers: Peers, transport: Transport, notice: Callable[[Sequence[int]], None]):
        self.peers, self.transport, self.notice = peers, transport, notice
        self.verdicts: list[StepVerdict] = []
        self.numbers: dict[str, int] = {}  # of verdicts, by their signatures
        self.known: dict[tuple[int, ...], int] = {}  # on rank 0, by the digests of all ranks
        self.asked: tuple[int, ...] = ()  # the digests of the step that is agreed in the store
        self.card: StepCard | None = None
        self.digest = STORE
        self.sending: list[Pending] = []
        others = range(1, peers.world)
        lanes = [P2PLane(*pair) for r in others for pair in ((r, 0), (0, r))]
        first = transport.open(lanes)
        self.lanes = {lane: first + k for k, lane in enumerate(lanes)}

    def ask(self, number: int, card: StepCard) -> StepVerdict | None:
        """The verdict on step `number`; None where it is in the store. Raises what is raised where
        another rank fails."""
        own = self._digest(card)
        if self.peers.rank:
            self._send(0, number, own)
            answer = STORE
            if own != STORE:
                self.notice([0])
                (answer,) = self._hear([0], number)
        else:
            answer = self._answer(number, own)
            for other in range(1, self.peers.world):
                self._send(other, number, answer)
        return None if answer == STORE else self.verdicts[answer - 1]

    def learn(self, verdict: StepVerdict) -> None:
        """The store had this verdict, that the step can begin, for the step that was asked for."""
        if verdict.signatures not in self.numbers:
            if len(self.verdicts) == MOST:
                self.verdicts.clear()
                self.numbers.clear()
                self.known.clear()
            self.verdicts.append(verdict)
            self.numbers[verdict.signatures] = len(self.verdicts)
        if self.asked:
            self.known[self.asked] = self.numbers[verdict.signatures]

    def _answer(self, number: int, own: int) -> int:
        """On rank 0: which verdict it is. One that cannot begin does not wait for the others."""
        self.asked = ()
        if own == STORE:
            return STORE
        digests = (own, *self._hear(range(1, self.peers.world), number))
        if STORE in digests:
            return STORE
        self.asked = digests
        return self.known.get(digests, STORE)

    def _digest(self, card: StepCard) -> int:
        if card.fault:
            return STORE
        if card != self.card:
            told = blake2s(json.dumps(card).encode(), digest_size=8).digest()
            self.card, self.digest = card, int.from_bytes(told, "big") >> 1 or 1
        return self.digest

    def _send(self, other: int, number: int, code: int) -> None:
        """Begins to; who has lost the other rank learns it where it waits."""
        try:
            lane = self.lanes[P2PLane(self.peers.rank, other)]
            message = torch.tensor([number, code], device="cpu")
            self.sending += self.transport.send(lane, [message])
        except RuntimeError as error:
            if isinstance(error, PipelineError):
                raise

    def _hear(self, others: Iterable[int], number: int) -> list[int]:
        """What each of these ranks says of the step."""
        awaited = {other: _Hearing(self, other) for other in others}
        codes = dict.fromkeys(awaited, STORE)
        pause, begun = FIRST_PAUSE, time.monotonic()
        while True:
            for other, hearing in list(awaited.items()):
                heard = hearing.heard()
                while heard is not None:
                    if heard[0] == number:
                        codes[other] = heard[1]
                        del awaited[other]
                        break
                    hearing = awaited[other] = _Hearing(self, other)
                    heard = hearing.heard()
            if not awaited:
                return list(codes.values())
            if pause >= OFTEN:
                if self.peers.store.on_wait is not None:
                    self.peers.store.on_wait()
                self.notice(list(awaited))
            time.sleep(pause)
            pause = min(2 * pause, max(OFTEN, 0.01 * (time.monotonic() - begun)), SELDOM)


class _Hearing:
    """A message that is awaited from a rank."""

    __slots__ = ("buffer", "cell", "pending")

    def __init__(self, recall: StepRecall, other: int):
        self.buffer = torch.zeros(2, dtype=torch.int64, device="cpu")
        self.cell = c_int64.from_address(self.buffer.data_ptr())
        self.pending: Sequence[Pending] = ()
        lane = recall.lanes[P2PLane(other, recall.peers.rank)]
        try:
            self.pending = recall.transport.receive(lane, [self.buffer])
        except RuntimeError as error:  # it is gone: whoever watches says so
            if isinstance(error, PipelineError):
                raise

    def heard(self) -> tuple[int, int] | None:
        """The number of a step and what is said of it; None where nothing has come."""
        if not self.cell.value:
            return None
        for pending in self.pending:
            pending.wait()
        number, code = self.buffer.tolist()
        return number, code
