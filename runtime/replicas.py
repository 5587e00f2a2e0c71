"""Parameters that stand in several places: stages that several ranks hold, and ties of the model.
They start with the same weights, and their gradients are summed once per step. Every holder adds
the same numbers in the same order, so that all stay equal bit for bit."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from stretto.compiler.program.program import Copy
from stretto.runtime.coordination.peers import Peers
from stretto.runtime.errors import PipelineError
from stretto.runtime.holders import Holders, Summand, between, copies, twins
from stretto.runtime.parameters import some_values
from stretto.runtime.parcels import ParcelLayout, layout_of
from stretto.runtime.rank_context import RankContext
from stretto.runtime.rank_program import RankPlan
from stretto.runtime.stage.gradients import (
    Holder,
    as_flags,
    give,
    gradient_of,
    key_of,
)
from stretto.runtime.topology import StageId
from stretto.runtime.transport import NOTHING, P2PLane, Pending, absent, plain

DRIFT = (
    "the holders of `{0}`, which is one parameter, have different values: something has moved them "
    "differently, as optimizers do whose groups have other settings for one of them, by its name "
    "for instance (`named_parameters()` calls it `{0}` on all ranks), or schedulers that are not "
    "the same on every rank"
)

SetAside = dict[int, tuple[Holder, Tensor]]
"""By `key_of` a holder, and its gradient of earlier steps."""


def lanes(plan: RankPlan) -> list[P2PLane]:
    """All lanes of the plan: one for each channel, then one each way between ranks that hold the
    same parameters. All that go one way are in the order of the sums, which is that of both."""
    found = [P2PLane(channel.source, channel.target) for channel in plan.channels]
    return found + between(plan.graph)


class Replicas:
    """The sums that this rank takes part in, over the lanes between the holders."""

    def __init__(self, context: RankContext):
        self.context, self.rank = context, context.plan.rank
        self.holders = Holders(context)
        self.set_aside: SetAside = {}
        self.summands: dict[int, list[Summand]] = {}  # in a step, by the reduction's number
        self.under_way: dict[int, _SumUnderWay] = {}  # likewise
        self.layouts: dict[int, ParcelLayout] = {}  # of the last messages, likewise
        first = len(context.plan.channels)
        self.lanes = {lane: first + k for k, lane in enumerate(between(context.plan.graph))}

    # Weights --------------------------------------------------------------------------------------

    def broadcast_weights(self, peers: Peers) -> None:
        """Gives all copies the parameters and buffers of the first, then all holders of a tie its
        first one's. Raises `PipelineError` where modules of copies are not alike, `MissingKeys`
        where another rank does not come."""
        graph = self.context.plan.graph
        for family in copies(graph):
            own = [copy for copy in family if copy.rank == self.rank]
            for copy in own:
                peers.store.post(_key(copy), _table(self.holders.module(copy)))
            if own:
                (expected,) = peers.wait([_key(family[0])])
                for copy in own:
                    self._compare(family[0], expected, copy)
                self._spread([(copy.rank, self.holders.state(copy)) for copy in family])
        for tie in graph.spec.ties:
            weights = self.holders.weights(tie)
            if any(rank == self.rank for rank, _ in weights):
                self._spread(weights)

    def _spread(self, holders: Sequence[tuple[int, list[Tensor]]]) -> None:
        """Copies the tensors of the first holder into the others'."""
        (first, source), *others = holders
        begun: list[Pending] = []
        for rank, target in others:
            if rank == first == self.rank:
                _copy(source, target)
            elif first == self.rank:
                lane = self.lanes[P2PLane(first, rank)]
                begun += self.context.transport.send(lane, [plain(t) for t in source])
            elif rank == self.rank:
                buffers = [_buffer(tensor) for tensor in target]
                self._receive(first, buffers)
                _copy(buffers, target)
        for pending in begun:
            pending.wait()

    def _receive(self, source: int, buffers: Sequence[Tensor]) -> None:
        lane = self.lanes[P2PLane(source, self.rank)]
        for pending in self.context.transport.receive(lane, buffers):
            pending.wait()

    # Gradients ------------------------------------------------------------------------------------

    def set_gradients_aside(self) -> None:
        """Takes away the gradients of earlier steps, which are sums over the holders already; `sum`
        adds them again. Raises `PipelineError` where what was one parameter is no more."""
        self.set_aside, self.under_way = {}, {}
        for tie in self.context.plan.spec.ties:
            self.holders.look_at(tie)
        for number, reduction in enumerate(self.context.plan.reductions):
            summands = self.summands[number] = self.holders.of(reduction)
            own = [one for one in summands if one.rank == self.rank]
            for first, twin in twins(own):
                twin.grad = None if first.grad is None else first.grad.clone()
            for summand in own:
                for parameter in summand.gradients:
                    if parameter.grad is not None:
                        self.set_aside[key_of(parameter)] = parameter, parameter.grad
                        parameter.grad = None

    def sum(self, number: int, *behind: int) -> None:
        """Replaces each own holder's gradients by the sum over all that the reduction names. Those
        that stand right `behind` it are begun too, so that their messages travel meanwhile. Raises
        `PipelineError` where holders of a tie have come apart."""
        for one in (number, *behind):
            if one not in self.under_way:
                self.under_way[one] = self._begin(one)
        self._finish(number, self.under_way.pop(number))

    def _begin(self, number: int) -> "_SumUnderWay":
        transport = self.context.transport
        summands, tied = self.summands[number], bool(self.context.plan.reductions[number].tie)
        own = {
            k: _gradients(summand.gradients, tied)
            for k, summand in enumerate(summands)
            if summand.rank == self.rank
        }
        every: dict[int, _HolderGradients] = dict(own)
        arriving: dict[int, Sequence[Pending]] = {}
        begun: list[Pending] = []
        like = next(iter(own.values())).flat
        for k, summand in enumerate(summands):
            if k not in own:
                message, flat = (
                    _buffers(like)
                    if transport.tells
                    else _layout(self.layouts, number, like).buffers()
                )
                lane = self.lanes[P2PLane(summand.rank, self.rank)]
                arriving[k] = transport.receive(lane, message)
                every[k] = _HolderGradients(flat[0], flat[1:], [])
        others = dict.fromkeys(one.rank for one in summands if one.rank != self.rank)
        for gradients in own.values() if others else ():
            flat = gradients.flat
            leaving = (
                gradients.known
                if transport.tells
                else _layout(self.layouts, number, flat).packed(flat)
            )
            for rank in others:
                begun += transport.send(self.lanes[P2PLane(self.rank, rank)], leaving)
        return _SumUnderWay(summands, list(own), every, arriving, begun)

    def _finish(self, number: int, begun: "_SumUnderWay") -> None:
        tie, every = self.context.plan.reductions[number].tie, begun.every
        for pending in [*begun.leaving, *(one for of in begun.arriving.values() for one in of)]:
            pending.wait()
        for k, received in begun.arriving.items():
            every[k] = every[k].arrived(received if self.context.transport.tells else None)
        in_order = [every[k] for k in range(len(every))]
        if tie and any(not torch.equal(g.beside, in_order[0].beside) for g in in_order):
            raise PipelineError(DRIFT.format(tie))
        for k in begun.own:
            holders = begun.summands[k].gradients
            for holder, total in zip(holders, _totals(in_order), strict=True):
                give(holder, total)
            if self.set_aside:
                _add_again(self.set_aside, holders)

    def _compare(self, first: Copy, expected: Sequence[Sequence[object]], copy: Copy) -> None:
        found = _table(self.holders.module(copy))
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


class _HolderGradients(NamedTuple):
    """One holder's gradients by parameter, zeros where there are none, and which of them there are.
    `head` travels before them: the same as a vector of 0 and 1 and, of a tie, the bytes of some of
    its weight's entries."""

    head: Tensor
    tensors: list[Tensor]
    there: list[bool]

    @property
    def flat(self) -> list[Tensor]:
        """As a message."""
        return [self.head, *self.tensors]

    @property
    def known(self) -> list[Tensor]:
        """As a message over a transport that tells what is not there."""
        pairs = zip(self.tensors, self.there, strict=True)
        return [self.head, *(tensor if there else NOTHING for tensor, there in pairs)]

    @property
    def beside(self) -> Tensor:
        """The entries of the weight."""
        return self.head[len(self.tensors) :]

    def arrived(self, told: Sequence[Pending] | None) -> "_HolderGradients":
        """Once the message has come: what there is of it as `told` by the transport, else as the
        head says it, for which the process must look at what is on the device."""
        if told is None:
            return self._replace(there=list(map(bool, self.head.tolist()[: len(self.tensors)])))
        missing = absent(told)
        return self._replace(there=[at not in missing for at in range(1, len(self.flat))])


class _SumUnderWay(NamedTuple):
    """A sum whose messages were begun: its `summands`, which of them are this rank's `own`, the
    gradients of `every` one, and what to wait for."""

    summands: Sequence[Summand]
    own: list[int]
    every: dict[int, _HolderGradients]
    arriving: dict[int, Sequence[Pending]]
    leaving: list[Pending]


def _gradients(parameters: Sequence[Holder], tied: bool) -> _HolderGradients:
    """Those of a sparse embedding as dense tensors: messages have a size that both ends know.
    Nothing here waits for a device, but what is looked at of a tie."""
    tensors = [plain(gradient_of(p)) for p in parameters]
    there = [p.grad is not None for p in parameters]
    head = as_flags(there, next(iter(tensors), None), torch.uint8)
    if tied and type(parameters[0]) is nn.Parameter:
        some = some_values(parameters[0]).resolve_conj().contiguous()
        head = torch.cat([head, some.view(torch.uint8).to(head.device)])
    return _HolderGradients(head, tensors, there)


def _layout(known: dict[int, ParcelLayout], number: int, tensors: Sequence[Tensor]) -> ParcelLayout:
    """Of the reduction's messages, mostly that of the last step, which is `known`."""
    found = known.get(number)
    if found is None or not found.fits(tensors):
        found = known[number] = layout_of(tensors)
    return found


def _buffers(like: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """For each tensor by itself, as transports take them that tell which are not there."""
    found = [torch.empty_like(tensor) for tensor in like]
    return found, found


def _buffer(tensor: Tensor) -> Tensor:
    """For a message with such a tensor."""
    return torch.empty_like(tensor, memory_format=torch.contiguous_format)


def _add_again(set_aside: SetAside, holders: Sequence[Holder]) -> None:
    """Adds the sums, which the holders have, to their gradients of earlier steps; those of plain
    tensors in one call."""
    old, new = list[Tensor](), list[Tensor]()
    for holder in holders:
        _, before = set_aside.pop(key_of(holder), (holder, None))
        if before is None:
            continue
        if (found := holder.grad) is not None:
            before = before.to_dense() if before.is_sparse else before
            if type(before) is Tensor is type(found):
                old.append(before)
                new.append(found)
            else:
                before.add_(found)
        holder.grad = before
    if old:
        torch._foreach_add_(old, new)  # pyright: ignore[reportPrivateImportUsage]


def _totals(of: Sequence[_HolderGradients]) -> list[Tensor | None]:
    """By parameter the sum over all holders that have a gradient, as `_total`; where all have each
    of them, it is two calls for all parameters."""
    if len(of) > 1 and of[0].there and all(all(one.there) for one in of):
        first, second, *more = (one.tensors for one in of)
        totals = list(torch._foreach_add(first, second))  # pyright: ignore[reportPrivateImportUsage]
        for tensors in more:
            torch._foreach_add_(totals, tensors)  # pyright: ignore[reportPrivateImportUsage]
        return list[Tensor | None](totals)
    return [
        _total([one.tensors[at] for one in of if one.there[at]]) for at in range(len(of[0].tensors))
    ]


def _total(gradients: Sequence[Tensor]) -> Tensor | None:
    """The sum from left to right, in memory of its own; None of an empty list."""
    if not gradients:
        return None
    if len(gradients) == 1:
        return gradients[0].clone()
    total = gradients[0] + gradients[1]
    for gradient in gradients[2:]:
        total += gradient
    return total


def _copy(source: Sequence[Tensor], target: Sequence[Tensor]) -> None:
    for old, new in zip(target, source, strict=True):
        old.copy_(new)


def _key(copy: Copy) -> str:
    return f"weights/{copy.pipeline}/{copy.stage}"


def _table(module: nn.Module) -> list[list[object]]:
    """Name, shape and dtype of every parameter and buffer."""
    named = [*module.named_parameters(), *module.named_buffers()]
    return [[name, list(tensor.shape), str(tensor.dtype)] for name, tensor in named]


def _row(row: Sequence[object] | None) -> str:
    return "nothing" if row is None else f"{row[0]} of {tuple(row[1])} {row[2]}"  # type: ignore[arg-type]
