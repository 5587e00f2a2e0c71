"""How the ranks come to the same shapes before a step. A rank that is given the batch knows its
shapes; one that is not is told them. What was agreed for some shapes holds whenever they come
again; for new ones the ranks agree anew."""

from collections.abc import Mapping
from typing import Any

from stretto.runtime.batch import Arguments, signature
from stretto.runtime.coordination.peers import Peers
from stretto.runtime.coordination.store import MissingKeys
from stretto.runtime.errors import PipelineError
from stretto.runtime.given import input_label
from stretto.runtime.microbatches import PipelineMicrobatches
from stretto.runtime.rank_context import RankContext
from stretto.runtime.stage_outputs import StageOutputs, agree_on_outputs


class ShapeAgreement:
    """One rank's memory of what was agreed. `announced` has the pipelines whose shapes are posted
    at every step, since some rank is not given their batch; None before the first step."""

    def __init__(self, peers: Peers, context: RankContext):
        self.peers, self.context, self.graph = peers, context, context.plan.graph
        self.agreed: dict[str, StageOutputs] = {}
        self.announced: list[int] | None = None

    def outputs(self, microbatches: Mapping[int, PipelineMicrobatches], step: int) -> StageOutputs:
        """The stages' outputs for these micro-batches, by pipeline, at this step (from 1).

        Raises `PipelineError` where ranks are given batches of different shapes, a stage cannot run
        on them, or another rank does not come to this step.
        """
        own = {p: _signature(microbatches[p]) for p in self.graph.originals()}
        if self.announced is None:
            self.announced = self._compare_batches(own)
        for p in self.announced:
            if self._announcer(p) == self.peers.rank:
                self._announce(p, own[p], step)
        lacking = [p for p in self.announced if own[p] is None]
        told = self._wait([_key(step, p) for p in lacking])
        own.update(zip(lacking, told, strict=True))
        key = repr(own)
        if key not in self.agreed:
            try:
                self.agreed[key] = agree_on_outputs(
                    self.peers, self.context, microbatches, len(self.agreed)
                )
            except MissingKeys as missing:
                raise self._absent(missing) from None
        return self.agreed[key]

    def _compare_batches(self, own: dict[int, str | None]) -> list[int]:
        """At the first step every rank says which batches it is given; those of a pipeline must
        have one shape everywhere. Returns the pipelines to announce at every step."""
        self.peers.store.post(f"given/{self.peers.rank}", list(own.values()))
        cards = self._wait([f"given/{rank}" for rank in range(self.peers.world)])
        announced = []
        for k, p in enumerate(own):
            theirs = cards[self._announcer(p)][k]
            if None not in (theirs, own[p]) and theirs != own[p]:
                raise PipelineError(
                    f"{input_label(self.graph, 'x', p)} has micro-batches of {own[p]} on rank "
                    f"{self.peers.rank}, but of {theirs} on rank {self._announcer(p)}"
                )
            if theirs is not None and any(card[k] is None for card in cards):
                announced.append(p)
        return announced

    def _announce(self, pipeline: int, shapes: str | None, step: int) -> None:
        self.peers.store.post(_key(step, pipeline), shapes)
        old = step - 4 * self.peers.world - 16  # no rank is that far behind
        if old > 0:
            self.peers.store.forget(_key(old, pipeline))

    def _announcer(self, pipeline: int) -> int:
        """The rank that is given the pipeline's batch, since it has its first stage."""
        return self.context.plan.spec.pipelines[pipeline].stages[0].rank

    def _wait(self, keys: list[str]) -> list[Any]:
        try:
            return self.peers.wait(keys) if keys else []
        except MissingKeys as missing:
            raise self._absent(missing) from None

    def _absent(self, missing: MissingKeys) -> PipelineError:
        return PipelineError(
            f"rank {self.peers.rank} waited {self.peers.timeout:g} s for what other ranks know of "
            f"this step ({missing}): does every rank call it, each time, with x "
            "where it was given x before?"
        )


def _key(step: int, pipeline: int) -> str:
    return f"shape/{step}/{pipeline}"


def _signature(microbatches: PipelineMicrobatches) -> str | None:
    return signature(Arguments(microbatches.x[0].args)) if microbatches.x else None
