"""How a training goes. In come the losses of every step, out come lines on stderr and, at the end,
one line that sums it up."""

import sys
import time
from typing import Any

import torch
from torch import Tensor

from stretto.runtime.batch import tensors
from stretto.runtime.executor import Executor
from stretto.runtime.stage.judge import LossShare

INTERVAL = 0.2  # seconds between two lines


class ProgressLog:
    """Collects on rank 0 the losses of all pipelines' last stages, over the ranks' store, and
    prints how `steps` steps go; `losses` has the mean loss of every step."""

    def __init__(self, steps: int, executor: Executor):
        self.spec, self.steps, self.peers = executor.plan.spec, steps, executor.peers
        self.losses: list[float] = []
        self.begun = self.printed = self.first_done = time.monotonic()
        self.amount, self.unit = 0, "samples"
        self.executor, graph = executor, executor.plan.graph
        self.judged = graph.judged()
        self.models = len({graph.original(p) for p in self.judged})

    def add(self, step: int, x: Any, losses: dict[str, list[Tensor]]) -> None:
        """After a step (from 1), on every rank: x is the whole batch, `losses` are the rank's own,
        by pipeline's name. Raises `MissingKeys` where a rank does not come."""
        for name, found in losses.items():
            key = f"loss/{step}/{name}"
            numbers = torch.stack(found).double().tolist()
            self.peers.store.post(key, weighted(numbers, self.executor.shares[name]))
        if self.peers.rank != 0:
            return
        keys = [f"loss/{step}/{self.spec.pipelines[p].name}" for p in self.judged]
        self.losses.append(sum(self._fetch(keys)) / self.models)
        amount, self.unit = _amount(x)
        now = time.monotonic()
        if step == 1:
            self.first_done = now  # it agrees on shapes and fills caches: its speed says nothing
        else:
            self.amount += amount
        if step in (1, self.steps) or now - self.printed > INTERVAL:
            self.printed = now
            print(
                f"step {step}/{self.steps}  loss {self.losses[-1]:.4f}  {self._speed()}".rstrip(),
                file=sys.stderr,
                flush=True,
            )

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

    def _fetch(self, keys: list[str]) -> list[float]:
        found = self.peers.wait(keys)
        for key in keys:
            self.peers.store.forget(key)
        return found

    def _speed(self) -> str:
        took = time.monotonic() - self.first_done
        return f"{self.amount / took:,.0f} {self.unit}/s" if self.amount and took > 0 else ""


def weighted(losses: list[float], shares: list[LossShare]) -> float:
    """What these micro-batches add to the loss of the step; nothing where they have no weight."""
    pairs = zip(losses, shares, strict=True)
    return sum(loss * share.weight / share.total for loss, share in pairs if share.weight)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _amount(x: Any) -> tuple[int, str]:
    """How much a batch holds, and in which unit: whole numbers in two dimensions are tokens, else
    rows are counted as samples."""
    found = list(tensors(x))
    if found and not found[0].is_floating_point() and found[0].dim() == 2:
        return found[0].numel(), "tokens"
    return (found[0].shape[0] if found and found[0].dim() else 0), "samples"
