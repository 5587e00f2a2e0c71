"""How the ranks begin a step together. Before any data travel each posts its card; rank 0 judges,
and posts its verdict for all. So either every rank takes the step, knowing the signature of every
micro-batch, or none does, and all can try again with another batch.

It takes one write and one read of the store for each rank and step. A step of the same cards as one
before is begun without the store where all ranks are on one machine (`known_steps`). How long a
rank may wait for another here is judged by the watchdog, which knows whether that one is at work.
"""

from collections.abc import Callable, Sequence

from stretto.runtime.coordination.board import Board
from stretto.runtime.coordination.peers import Peers
from stretto.runtime.errors import StepRefused
from stretto.runtime.known_steps import KnownSteps
from stretto.runtime.signatures import (
    StepCard,
    StepSignatures,
    StepVerdict,
    judge,
    read_signatures,
)
from stretto.runtime.topology import StageGraph


class StepAgreement:
    """One rank's part. `notice` is told for which ranks it waits."""

    def __init__(self, peers: Peers, graph: StageGraph, notice: Callable[[Sequence[int]], None]):
        self.peers, self.graph, self.notice = peers, graph, notice
        self.compared = False  # the contents of the batch, at the first step
        self.read: dict[str, StepSignatures] = {}
        self.old: list[str] = []  # keys of this rank that all have read
        self.known: KnownSteps | None = None  # where all ranks see one board

    def agree(self, number: int, card: StepCard) -> tuple[StepSignatures, bool]:
        """What holds for step `number` (from 1, with those that were refused), and whether all
        ranks have completed the steps before. Raises `StepRefused`, on every rank."""
        if self.known is not None and (signatures := self.known.ask(number, card)):
            self._forget()
            return self._read(signatures), True
        verdict = self._verdict(number, card)
        if card.fault:
            raise StepRefused(card.fault)
        if verdict.fault:
            if verdict.by < 0:
                raise StepRefused(f"the step cannot begin: {verdict.fault}")
            raise StepRefused(
                f"rank {self.peers.rank} stops: rank {verdict.by} cannot begin the step: "
                f"{verdict.fault}"
            )
        self.compared = True
        if self.known is not None:
            self.known.learn(card, verdict.signatures)
        elif verdict.near and self.board is not None:
            self.known = KnownSteps(self.board, self.peers.rank, self.peers.world, self._look)
        return self._read(verdict.signatures), verdict.complete

    @property
    def board(self) -> Board | None:
        """That of the ranks of this machine."""
        return self.peers.neighbours.board if self.peers.neighbours else None

    def _look(self, lacking: Sequence[int]) -> None:
        """These have not come for long."""
        self.notice(lacking)
        if self.peers.store.on_wait is not None:
            self.peers.store.on_wait()

    def _read(self, signatures: str) -> StepSignatures:
        if signatures not in self.read:
            if len(self.read) > 64:
                self.read.clear()
            self.read[signatures] = read_signatures(signatures, self.graph)
        return self.read[signatures]

    def _verdict(self, number: int, card: StepCard) -> StepVerdict:
        store, key = self.peers.store, f"verdict/{number}"
        if self.peers.world == 1:
            return judge([card], self.graph)
        if self.peers.rank:
            mine = f"card/{number}/{self.peers.rank}"
            store.post(mine, card)
            self._forget()
            self.notice([0])
            verdict = StepVerdict(*store.await_values([key])[0])
            self.old.append(mine)
        elif card.fault:  # the others need not come for that
            verdict = judge([card], self.graph)
            store.post(key, verdict)
            self.old.append(key)
        else:
            verdict = judge([card, *self._others(number)], self.graph)
            if self.board is not None:
                verdict = verdict._replace(near=self.board.is_whole(self.peers.world))
            store.post(key, verdict)
            self._forget()
            self.old.append(key)
        return verdict

    def _others(self, number: int) -> list[StepCard]:
        ranks = range(1, self.peers.world)
        keys = [f"card/{number}/{rank}" for rank in ranks]

        def lacking(absent: Sequence[int]) -> None:
            self.notice([ranks[k] for k in absent])

        return [StepCard(*told) for told in self.peers.store.await_values(keys, lacking)]

    def _forget(self) -> None:
        for key in self.old:
            self.peers.store.forget(key)
        self.old.clear()
