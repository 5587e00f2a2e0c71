"""How the ranks begin a step together. Before any data travel each posts its card; rank 0 judges,
and posts its verdict for all. So either every rank takes the step, knowing the signature of every
micro-batch, or none does, and all can try again with another batch.

It takes one write and one read of the store for each rank and step. How long a rank may wait for
another here is judged by the watchdog, which knows whether that one is at work.
"""

from collections.abc import Callable, Sequence

from stretto.runtime.coordination.peers import Peers
from stretto.runtime.errors import StepRefused
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

    def agree(self, number: int, card: StepCard) -> tuple[StepSignatures, bool]:
        """What holds for step `number` (from 1, with those that were refused), and whether all
        ranks have completed the steps before. Raises `StepRefused`, on every rank."""
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
        if verdict.signatures not in self.read:
            if len(self.read) > 64:
                self.read.clear()
            self.read[verdict.signatures] = read_signatures(verdict.signatures, self.graph)
        return self.read[verdict.signatures], verdict.complete

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
