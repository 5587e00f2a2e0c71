"""Stages that several ranks hold: they start with the same weights, and their gradients are summed
once per step. Every copy adds the same numbers in the same order, the reduction's, so that copies
stay equal bit for bit."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from stretto.compiler.program.program import Copy, Reduction
from stretto.runtime.errors import Stopped
from stretto.runtime.rank_program import Part
from stretto.runtime.stage.stage import Stage
from stretto.runtime.store import Board
from stretto.runtime.topology import Place, place_in_words
from stretto.runtime.transport import Lane, Pending, Transport


class Replicas:
    """The reductions that this rank takes part in, over lanes of their own that follow the
    channels'."""

    def __init__(self, part: Part, transport: Transport, stages: dict[Place, Stage]):
        self.part, self.transport, self.stages = part, transport, stages
        self.kept: list[tuple[nn.Parameter, Tensor]] = []
        self.lanes: dict[tuple[int, int, int], int] = {}  # by reduction, source, target
        for number, reduction in enumerate(part.reductions):
            for source, target in _between(reduction):
                key = number, source, target
                self.lanes[key] = len(part.channels) + len(self.lanes)  # as `lanes` lists them

    def own(self, reduction: Reduction) -> list[Copy]:
        return [copy for copy in reduction.copies if copy.rank == self.part.rank]

    def equalize(self, board: Board, seconds: float) -> None:
        """Gives all copies the parameters and buffers of the first. Raises `Stopped` where they
        are not made alike."""
        for number, reduction in enumerate(self.part.reductions):
            if not self.own(reduction):
                continue
            first, *others = reduction.copies
            for copy in self.own(reduction):
                board.post(_key(copy), _table(self._module(copy)))
            (expected,) = board.wait([_key(first)], seconds)
            for copy in self.own(reduction):
                self._compare(first, expected, copy)
            begun: list[Pending] = []
            for copy in others:
                if self.part.rank == first.rank:
                    source = _state(self._module(first))
                    if copy.rank == first.rank:
                        _copy(source, _state(self._module(copy)))
                    else:
                        begun += self.transport.send(
                            self.lanes[number, first.rank, copy.rank], source
                        )
                elif copy.rank == self.part.rank:
                    target = _state(self._module(copy))
                    buffers = [torch.empty_like(tensor) for tensor in target]
                    lane = self.lanes[number, first.rank, copy.rank]
                    for pending in self.transport.receive(lane, buffers):
                        pending.wait()
                    _copy(buffers, target)
            for pending in begun:
                pending.wait()

    def begin(self) -> None:
        """Sets aside the gradients of earlier steps, which are sums over the copies already."""
        self.kept = []
        for reduction in self.part.reductions:
            for copy in self.own(reduction):
                for parameter in self._module(copy).parameters():
                    if parameter.grad is not None:
                        self.kept.append((parameter, parameter.grad))
                        parameter.grad = None

    def sum(self, number: int) -> None:
        """Replaces each own copy's gradients by the sum over all copies."""
        reduction = self.part.reductions[number]
        own = {copy: _gradients(self._module(copy)) for copy in self.own(reduction)}
        shares: dict[Copy, _Share] = dict(own)
        begun: list[Pending] = []
        for copy in reduction.copies:
            if copy not in own:
                buffers = [torch.empty_like(tensor) for tensor in next(iter(own.values())).flat]
                lane = self.lanes[number, copy.rank, self.part.rank]
                begun += self.transport.receive(lane, buffers)
                shares[copy] = _Share(buffers[0], buffers[1:])
        others = dict.fromkeys(copy.rank for copy in reduction.copies if copy not in own)
        for share in own.values():
            for rank in others:
                lane = self.lanes[number, self.part.rank, rank]
                begun += self.transport.send(lane, share.flat)
        for pending in begun:
            pending.wait()
        in_order = [shares[copy] for copy in reduction.copies]
        for copy in own:
            for at, parameter in enumerate(self._module(copy).parameters()):
                parameter.grad = _total([s.tensors[at] for s in in_order if s.there[at]])
        self._add_kept({id(p) for copy in own for p in self._module(copy).parameters()})

    def _add_kept(self, which: set[int]) -> None:
        for parameter, before in self.kept:
            if id(parameter) in which:
                if parameter.grad is not None:
                    before.add_(parameter.grad)
                parameter.grad = before
        self.kept = [(parameter, g) for parameter, g in self.kept if id(parameter) not in which]

    def _module(self, copy: Copy) -> nn.Module:
        return self.stages[Place(copy.pipeline, copy.stage)].module

    def _compare(self, first: Copy, expected: Sequence[Sequence[object]], copy: Copy) -> None:
        found = _table(self._module(copy))
        if found == [list(row) for row in expected]:
            return
        spec = self.part.spec
        a = place_in_words(spec, Place(first.pipeline, first.stage))
        b = place_in_words(spec, Place(copy.pipeline, copy.stage))
        rows = [list(row) for row in expected]
        here = next((row for row in found if row not in rows), None)
        there = next((row for row in rows if row not in found), None)
        raise Stopped(
            f"`{b}` on rank {copy.rank} is a copy of `{a}` on rank {first.rank}, but their modules "
            f"differ: {_row(here)} here, {_row(there)} there"
        )


class _Share(NamedTuple):
    """One copy's gradients by parameter, and which of them there are."""

    there: Tensor
    tensors: list[Tensor]

    @property
    def flat(self) -> list[Tensor]:
        return [self.there, *self.tensors]


def lanes(part: Part) -> list[Lane]:
    """All lanes of the plan: one for each channel, then those between the copies."""
    found = [Lane(channel.source, channel.target) for channel in part.channels]
    for reduction in part.reductions:
        found += _between(reduction)
    return found


def _between(reduction: Reduction) -> list[Lane]:
    ranks = sorted({copy.rank for copy in reduction.copies})
    return [Lane(a, b) for a in ranks for b in ranks if a != b]


def _gradients(module: nn.Module) -> _Share:
    """Those of a sparse embedding as ordinary tensors: messages have a size that both ends know."""
    parameters = list(module.parameters())
    tensors = [
        torch.zeros_like(p) if p.grad is None else p.grad.to_dense() if p.grad.is_sparse else p.grad
        for p in parameters
    ]
    there = torch.tensor([p.grad is not None for p in parameters], dtype=torch.uint8)
    return _Share(there.to(tensors[0].device) if tensors else there, tensors)


def _total(gradients: Sequence[Tensor]) -> Tensor | None:
    """The sum from left to right, in memory of its own; None of nothing."""
    if not gradients:
        return None
    total = gradients[0].clone()
    for gradient in gradients[1:]:
        total += gradient
    return total


def _state(module: nn.Module) -> list[Tensor]:
    return [tensor.detach() for tensor in [*module.parameters(), *module.buffers()]]


def _copy(source: Sequence[Tensor], target: Sequence[Tensor]) -> None:
    for old, new in zip(target, source, strict=True):
        old.copy_(new)


def _table(module: nn.Module) -> list[list[object]]:
    named = [*module.named_parameters(), *module.named_buffers()]
    return [[name, list(tensor.shape), str(tensor.dtype)] for name, tensor in named]


def _row(row: Sequence[object] | None) -> str:
    return "nothing" if row is None else f"{row[0]} of {tuple(row[1])} {row[2]}"  # type: ignore[arg-type]


def _key(copy: Copy) -> str:
    return f"weights/{copy.pipeline}/{copy.stage}"
