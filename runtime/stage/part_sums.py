"""The gradients of parameters that several parts of a stage use. In the whole stage a micro-batch's
contributions to such a parameter are added up first, those of later parts before those of earlier
ones, and their sum is added to `.grad` once. Here each part contributes when it runs, so the sum is
kept aside until the last of them has.

In come the parameters that each part was seen to use; out come sums of the same terms in the same
order, as long as the parts run in that order, from the last to the first."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

Seeds = tuple[tuple[GradientEdge, ...], tuple[Tensor, ...]]
"""Where a run of autograd starts besides its roots, and with what: with the sum so far."""


@dataclass
class PendingSum:
    """A parameter's sum for one micro-batch, and the parts that have not contributed yet."""

    parameter: Tensor
    missing: set[int]
    total: Tensor | None = None


class SharedSums:
    """Those of one chain. `users`: by the `id` of a parameter the parts that were seen to use it,
    `reached`: by micro-batch and part what that one has reached."""

    def __init__(self) -> None:
        self.users: dict[int, set[int]] = {}
        self.reached: dict[tuple[int, int], list[Tensor]] = {}
        self.pending: dict[tuple[int, int], PendingSum] = {}  # by micro-batch and `id`

    def note(self, microbatch: int, part: int, parameters: Sequence[Tensor]) -> None:
        """A forward of the part has reached these."""
        self.reached[microbatch, part] = list(parameters)
        for parameter in parameters:
            self.users.setdefault(id(parameter), set()).add(part)

    @contextmanager
    def aside(self, microbatch: int, part: int, last: bool) -> Iterator[Seeds]:
        """Around a backward of the part, which begins with the seeds too; `last` where none of the
        part follows for the micro-batch. What it adds to shared parameters goes into their sums."""
        own = [p for p in self.reached[microbatch, part] if len(self.users[id(p)]) > 1]
        sums = [self._sum(microbatch, parameter) for parameter in own]
        before = [parameter.grad for parameter in own]
        seeded = [
            one for one in sums if one.total is not None and not one.parameter._backward_hooks
        ]
        seeds = [one.total for one in seeded if one.total is not None]
        for parameter in own:
            parameter.grad = None
        for one in seeded:
            one.total = None
        yield tuple(get_gradient_edge(one.parameter) for one in seeded), tuple(seeds)
        for one, kept in zip(sums, before, strict=True):
            one.total, one.parameter.grad = _added(one.total, one.parameter.grad), kept
            if last:
                one.missing.discard(part)
            if not one.missing:
                del self.pending[microbatch, id(one.parameter)]
                one.parameter.grad = _added(kept, one.total)
        if last:
            del self.reached[microbatch, part]

    def _sum(self, microbatch: int, parameter: Tensor) -> PendingSum:
        key = microbatch, id(parameter)
        if key not in self.pending:
            parts = [
                part
                for (m, part), reached in list(self.reached.items())
                if m == microbatch and any(parameter is other for other in reached)
            ]
            self.pending[key] = PendingSum(parameter, set(parts))
        return self.pending[key]

    def clear(self) -> None:
        """Drops what a step that failed has left."""
        self.reached.clear()
        self.pending.clear()


def _added(sum_: Tensor | None, more: Tensor | None) -> Tensor | None:
    """In place where there is a sum, as the engine does."""
    if sum_ is None or more is None:
        return more if sum_ is None else sum_
    with torch.no_grad():
        return sum_.add_(more)
