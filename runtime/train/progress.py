"""How a training goes. In come the losses of every step, out come lines on stderr and, at the end,
one line that sums it up."""

import math
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stretto.runtime.aloud import say
from stretto.runtime.batch import tensors
from stretto.runtime.coordination.store import MissingKeys
from stretto.runtime.errors import PipelineError
from stretto.runtime.executor import Executor
from stretto.runtime.stage.judge import LossShare
from stretto.runtime.train.job import TrainingJob

INTERVAL = 0.2  # seconds between two lines


class BatchLosses(NamedTuple):
    """A rank's losses of one batch, and how much of the loss of the step each is; by pipeline's
    name, in the order of its micro-batches."""

    losses: dict[str, list[Tensor]]
    shares: dict[str, list[LossShare]]


class ProgressLog:
    """Collects on rank 0 the losses of all pipelines' last stages, over the ranks' store, and
    prints how the steps of the job go; `losses` has the mean loss of every step."""

    def __init__(self, job: TrainingJob, executor: Executor):
        self.job, self.executor = job, executor
        self.spec, self.peers = executor.plan.spec, executor.peers
        self.losses: list[float] = []
        self.begun = self.printed = self.first_done = time.monotonic()
        self.amount, self.unit = 0, "samples"
        graph = executor.plan.graph
        self.judged = graph.judged()
        self.models = len({graph.original(p) for p in self.judged})
        self.first: int | None = None  # the first step that was taken here
        self.waiting: list[Sequence[BatchLosses]] = []  # of steps that were not told yet

    def add(self, step: int, losses: Sequence[BatchLosses], xs: Sequence[Any]) -> None:
        """After a step (from 1), on every rank: its own losses of the batches of the step, and
        their x. Ranks tell each other the losses when a line is due. Raises `PipelineError` where a
        rank does not come."""
        self.waiting.append(losses)
        self.first = step if self.first is None else self.first
        amounts = [_amount(x) for x in xs]
        self.unit = amounts[0][1]
        if step == self.first:  # it agrees on shapes and fills caches: its speed says nothing
            self.first_done = time.monotonic()
        else:
            self.amount += sum(amount for amount, _ in amounts)
        every = self.job.log_every
        last = step == self.job.steps
        if not last and every is not None and step != self.first and step % every:
            return
        own = {
            name: [sum(weighted(one, name) for one in batches) for batches in self.waiting]
            for name in losses[0].losses
        }
        self.waiting = []
        found = self._collect(f"loss/{step}", own)
        self.losses += [sum(parts) / self.models for parts in zip(*found.values(), strict=True)]
        now = time.monotonic()
        due = every is not None or step == self.first or last or now - self.printed > INTERVAL
        if self.losses and due:
            self.printed = now
            self._print(step, f"loss {self.losses[-1]:.4f}  {self._speed()}")

    def add_evaluation(self, step: int, losses: Sequence[BatchLosses]) -> None:
        """After an evaluation that followed the step, on every rank, as `add`."""
        own = {name: list(_sums(losses, name)) for name in losses[0].losses}
        found, graph = self._collect(f"eval/{step}", own), self.executor.plan.graph
        means = []
        for model in {graph.original(p) for p in self.judged} if found else ():
            names = [self.spec.pipelines[p].name for p in graph.topology.copies(model)]
            total, weight = (sum(found[name][k] for name in names) for k in (0, 1))
            means.append(total / weight if weight else math.nan)
        if means:
            self._print(step, f"eval loss {sum(means) / len(means):.4f}")

    def _print(self, step: int, what: str) -> None:
        say(f"step {step}/{self.job.steps}  {what}".rstrip())

    def summary(self) -> str:
        """One line for the whole training; empty where no step was taken."""
        if not self.losses:
            return ""
        some = min(10, max(1, len(self.losses) // 2))
        first = sum(self.losses[:some]) / some
        last = sum(self.losses[-some:]) / some
        means = f" (means of {some} steps)" if some > 1 else ""
        took = time.monotonic() - self.begun
        return (
            f"{self.spec.name} on {_count(self.spec.ranks, 'rank')}: "
            f"{_count(len(self.losses), 'step')} in {took:.1f} s, "
            f"loss {first:.4f} -> {last:.4f}{means}, {self._speed()}"
        ).removesuffix(", ")

    def _collect(self, key: str, own: dict[str, list[float]]) -> dict[str, list[float]]:
        """The numbers of all pipelines, of which each rank has its own, by name; on rank 0,
        elsewhere nothing."""
        for name, numbers in own.items():
            self.peers.store.post(f"{key}/{name}", numbers)
        if self.peers.rank != 0:
            return {}
        names = [self.spec.pipelines[p].name for p in self.judged]
        keys = [f"{key}/{name}" for name in names]
        try:
            found = self.peers.wait(keys)
        except MissingKeys:
            raise PipelineError(
                f"rank 0 waited {self.peers.timeout:g} s for the losses of other ranks, after its "
                "own step was over"
            ) from None
        for one in keys:
            self.peers.store.forget(one)
        return dict(zip(names, found, strict=True))

    def _speed(self) -> str:
        took = time.monotonic() - self.first_done
        return f"{self.amount / took:,.0f} {self.unit}/s" if self.amount and took > 0 else ""


def weighted(batch: BatchLosses, name: str) -> float:
    """What the pipeline's micro-batches of the batch add to the loss of the step; nothing where
    they have no weight."""
    pairs = zip(_numbers(batch, name), batch.shares[name], strict=True)
    return sum(loss * share.weight / share.total for loss, share in pairs if share.weight)


def _sums(batches: Sequence[BatchLosses], name: str) -> tuple[float, float]:
    """Of the pipeline's micro-batches of all batches the weighted losses, and the weights."""
    pairs = [
        (loss, share.weight)
        for batch in batches
        for loss, share in zip(_numbers(batch, name), batch.shares[name], strict=True)
    ]
    return (
        math.fsum(loss * weight for loss, weight in pairs if weight),
        math.fsum(weight for _, weight in pairs),
    )


def _numbers(batch: BatchLosses, name: str) -> list[float]:
    found: list[float] = torch.stack(batch.losses[name]).double().tolist()
    return found


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _amount(x: Any) -> tuple[int, str]:
    """How much a batch holds, and in which unit: whole numbers in two dimensions are tokens, else
    rows are counted as samples."""
    found = list(tensors(x))
    if found and not found[0].is_floating_point() and found[0].dim() == 2:
        return found[0].numel(), "tokens"
    return (found[0].shape[0] if found and found[0].dim() else 0), "samples"
