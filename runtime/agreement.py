"""How the ranks come to the same edges before a step. A rank that is given the batch knows its
shapes; one that is not is told them. What was agreed once for some shapes holds whenever they come
again; for new ones the ranks agree anew."""

from collections.abc import Mapping
from typing import Any

import torch

from stretto.runtime.batch import signature
from stretto.runtime.errors import Stopped
from stretto.runtime.microbatches import Share, words
from stretto.runtime.rank_program import Part
from stretto.runtime.stage.stage import Stage
from stretto.runtime.stage_outputs import Edges, agree
from stretto.runtime.store import Board, Missing
from stretto.runtime.topology import Place, streams


class Agreement:
    """One rank's memory of what was agreed. `told` has the pipelines whose shapes are posted at
    every step, since some rank is not given their batch."""

    def __init__(
        self,
        board: Board,
        seconds: float,
        part: Part,
        stages: dict[Place, Stage],
        device: torch.device,
    ):
        self.board, self.seconds, self.part = board, seconds, part
        self.stages, self.device = stages, device
        self.agreed: dict[str, Edges] = {}
        self.told: list[int] | None = None

    def edges(self, shares: Mapping[int, Share], step: int) -> Edges:
        """The edges for these micro-batches. Raises `Stopped`."""
        own = {p: _signature(shares[p]) for p in streams(self.part.spec)}
        if self.told is None:
            self.told = self._introduce(own)
        for p in self.told:
            if self._teller(p) == self.part.rank:
                self._tell(p, own[p], step)
        lacking = [p for p in self.told if own[p] is None]
        own.update(zip(lacking, self._wait([f"shape/{step}/{p}" for p in lacking]), strict=True))
        key = repr(own)
        if key not in self.agreed:
            first = {p: share.x[0] for p, share in shares.items() if share.x}
            try:
                self.agreed[key] = agree(
                    self.board,
                    self.seconds,
                    self.part,
                    self.stages,
                    first,
                    self.device,
                    len(self.agreed),
                )
            except Missing as missing:
                raise self._absent(missing) from None
        return self.agreed[key]

    def _introduce(self, own: dict[int, str | None]) -> list[int]:
        """At the first step every rank says which batches it is given; those of a pipeline must
        have one shape everywhere. Returns what must be told at every step."""
        self.board.post(f"given/{self.part.rank}", list(own.values()))
        cards = self._wait([f"given/{rank}" for rank in range(self.part.spec.ranks)])
        told = []
        for k, p in enumerate(own):
            theirs = cards[self._teller(p)][k]
            if None not in (theirs, own[p]) and theirs != own[p]:
                raise Stopped(
                    f"{words(self.part.spec, 'x', p)} has micro-batches of {own[p]} on rank "
                    f"{self.part.rank}, but of {theirs} on rank {self._teller(p)}"
                )
            if theirs is not None and any(card[k] is None for card in cards):
                told.append(p)
        return told

    def _tell(self, pipeline: int, sign: str | None, step: int) -> None:
        self.board.post(f"shape/{step}/{pipeline}", sign)
        old = step - 4 * self.part.spec.ranks - 16  # no rank is that far behind
        if old > 0:
            self.board.forget(f"shape/{old}/{pipeline}")

    def _teller(self, pipeline: int) -> int:
        return self.part.spec.pipelines[pipeline].stages[0].rank

    def _wait(self, keys: list[str]) -> list[Any]:
        try:
            return self.board.wait(keys, self.seconds) if keys else []
        except Missing as missing:
            raise self._absent(missing) from None

    def _absent(self, missing: Missing) -> Stopped:
        return Stopped(
            f"rank {self.part.rank} waited {self.seconds:g} s for what other ranks know of this "
            f"step ({', '.join(missing.keys)}): does every rank call it, each time, with x where "
            "it was given x before?"
        )


def _signature(share: Share) -> str | None:
    return signature(share.x[0]) if share.x else None
