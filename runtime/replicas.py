"""Stages that several ranks hold: they start with the same weights, and their gradients are summed
once per step. Every copy adds the same numbers in the same order, the reduction's, so that copies
stay equal bit for bit."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from stretto.compiler.program.program import Copy, Reduction
from stretto.runtime.coordination.peers import Peers
from stretto.runtime.errors import PipelineError
from stretto.runtime.rank_context import RankContext
from stretto.runtime.rank_program import RankPlan
from stretto.runtime.stage.gradients import (
    Holder,
    give,
    gradient_holders,
    gradient_of,
    key_of,
    plain,
)
from stretto.runtime.topology import StageId
from stretto.runtime.transport import P2PLane, Pending


def lanes(plan: RankPlan) -> list[P2PLane]:
    """All lanes of the plan: one for each channel, then those between the copies of a stage."""
    found = [P2PLane(channel.source, channel.target) for channel in plan.channels]
    for reduction in plan.reductions:
        found += _between(reduction)
    return found


class Replicas:
    """The reductions that this rank takes part in, over the lanes between the copies."""

    def __init__(self, context: RankContext):
        self.context, self.rank = context, context.plan.rank
        self.set_aside: list[tuple[Holder, Tensor]] = []
        self.lanes: dict[tuple[int, int, int], int] = {}  # by reduction, source, target
        for number, reduction in enumerate(context.plan.reductions):
            for source, target in _between(reduction):
                key = number, source, target
                self.lanes[key] = len(context.plan.channels) + len(self.lanes)  # as `lanes` does

    def broadcast_weights(self, peers: Peers) -> None:
        """Gives all copies the parameters and buffers of the first. Raises `PipelineError` where
        their modules are not alike, `MissingKeys` where another rank does not come."""
        for number, reduction in enumerate(self.context.plan.reductions):
            own = list(self._own(reduction))
            if not own:
                continue
            first, *others = reduction.copies
            for copy in own:
                peers.store.post(_key(copy), _table(self._module(copy)))
            (expected,) = peers.wait([_key(first)])
            for copy in own:
                self._compare(first, expected, copy)
            begun: list[Pending] = []
            for copy in others:
                if self.rank == first.rank:
                    begun += self._give(number, first, copy)
                elif copy.rank == self.rank:
                    self._take(number, first, copy)
            for pending in begun:
                pending.wait()

    def _give(self, number: int, first: Copy, copy: Copy) -> Sequence[Pending]:
        source = _state(self._module(first))
        if copy.rank == first.rank:
            _copy(source, _state(self._module(copy)))
            return ()
        return self.context.transport.send(self.lanes[number, first.rank, copy.rank], source)

    def _take(self, number: int, first: Copy, copy: Copy) -> None:
        target = _state(self._module(copy))
        buffers = [torch.empty_like(tensor) for tensor in target]
        lane = self.lanes[number, first.rank, copy.rank]
        for pending in self.context.transport.receive(lane, buffers):
            pending.wait()
        _copy(buffers, target)

    def set_gradients_aside(self) -> None:
        """Takes away the gradients of earlier steps, which are sums over the copies already;
        `sum` adds them again."""
        self.set_aside = []
        for reduction in self.context.plan.reductions:
            for copy in self._own(reduction):
                for parameter in gradient_holders(self._module(copy)):
                    if parameter.grad is not None:
                        self.set_aside.append((parameter, parameter.grad))
                        parameter.grad = None

    def sum(self, number: int) -> None:
        """Replaces each own copy's gradients by the sum over all copies of the reduction."""
        reduction = self.context.plan.reductions[number]
        own = {copy: _gradients(self._module(copy)) for copy in self._own(reduction)}
        every: dict[Copy, _CopyGradients] = dict(own)
        begun: list[Pending] = []
        for copy in reduction.copies:
            if copy not in own:
                buffers = [torch.empty_like(tensor) for tensor in next(iter(own.values())).flat]
                lane = self.lanes[number, copy.rank, self.rank]
                begun += self.context.transport.receive(lane, buffers)
                every[copy] = _CopyGradients(buffers[0], buffers[1:])
        others = dict.fromkeys(copy.rank for copy in reduction.copies if copy not in own)
        for gradients in own.values():
            for rank in others:
                lane = self.lanes[number, self.rank, rank]
                begun += self.context.transport.send(lane, gradients.flat)
        for pending in begun:
            pending.wait()
        in_order = [every[copy] for copy in reduction.copies]
        for copy in own:
            for at, parameter in enumerate(gradient_holders(self._module(copy))):
                give(parameter, _total([g.tensors[at] for g in in_order if g.there[at]]))
        holders = [p for copy in own for p in gradient_holders(self._module(copy))]
        self._add_set_aside({key_of(p) for p in holders})

    def _add_set_aside(self, which: set[int]) -> None:
        for parameter, before in self.set_aside:
            if key_of(parameter) in which:
                if parameter.grad is not None:
                    before.add_(parameter.grad)
                parameter.grad = before
        self.set_aside = [(p, gradient) for p, gradient in self.set_aside if key_of(p) not in which]

    def _own(self, reduction: Reduction) -> Iterator[Copy]:
        return (copy for copy in reduction.copies if copy.rank == self.rank)

    def _module(self, copy: Copy) -> nn.Module:
        return self.context.stages[StageId(copy.pipeline, copy.stage)].module

    def _compare(self, first: Copy, expected: Sequence[Sequence[object]], copy: Copy) -> None:
        found = _table(self._module(copy))
        if found == [list(row) for row in expected]:
            return
        graph = self.context.plan.graph
        a = graph.label(StageId(first.pipeline, first.stage))
        b = graph.label(StageId(copy.pipeline, copy.stage))
        rows = [list(row) for row in expected]
        here = next((row for row in found if row not in rows), None)
        there = next((row for row in rows if row not in found), None)
        raise PipelineError(
            f"`{b}` on rank {copy.rank} is a copy of `{a}` on rank {first.rank}, but their modules "
            f"differ: {_row(here)} here, {_row(there)} there"
        )


class _CopyGradients(NamedTuple):
    """One copy's gradients by parameter, zeros where there are none, and which of them there are
    (a vector of 0 and 1)."""

    there: Tensor
    tensors: list[Tensor]

    @property
    def flat(self) -> list[Tensor]:
        return [self.there, *self.tensors]


def _between(reduction: Reduction) -> list[P2PLane]:
    ranks = sorted({copy.rank for copy in reduction.copies})
    return [P2PLane(a, b) for a in ranks for b in ranks if a != b]


def _gradients(module: nn.Module) -> _CopyGradients:
    """Those of a sparse embedding as dense tensors: messages have a size that both ends know."""
    parameters = gradient_holders(module)
    tensors = [gradient_of(p) for p in parameters]
    there = torch.tensor([p.grad is not None for p in parameters], dtype=torch.uint8)
    return _CopyGradients(there.to(tensors[0].device) if tensors else there, tensors)


def _total(gradients: Sequence[Tensor]) -> Tensor | None:
    """The sum from left to right, in memory of its own; None of an empty list."""
    if not gradients:
        return None
    total = gradients[0].clone()
    for gradient in gradients[1:]:
        total += gradient
    return total


def _state(module: nn.Module) -> list[Tensor]:
    return [plain(tensor) for tensor in [*module.parameters(), *module.buffers()]]


def _copy(source: Sequence[Tensor], target: Sequence[Tensor]) -> None:
    for old, new in zip(target, source, strict=True):
        old.copy_(new)


def _table(module: nn.Module) -> list[list[object]]:
    """Name, shape and dtype of every parameter and buffer."""
    named = [*module.named_parameters(), *module.named_buffers()]
    return [[name, list(tensor.shape), str(tensor.dtype)] for name, tensor in named]


def _row(row: Sequence[object] | None) -> str:
    return "nothing" if row is None else f"{row[0]} of {tuple(row[1])} {row[2]}"  # type: ignore[arg-type]


def _key(copy: Copy) -> str:
    return f"weights/{copy.pipeline}/{copy.stage}"
