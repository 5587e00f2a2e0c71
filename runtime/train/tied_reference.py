"""What one process makes of parameters that stand in several places. In come the gradients of each
micro-batch, stage by stage, as if every place had a parameter of its own; out come the sums, in the
order of the plan: each holder of a tie adds what its places contribute as its rank's list has it,
then the holders are added. Beside it the plain sum: what one parameter in one process adds up,
micro-batch after micro-batch."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from stretto.compiler.plan.plan import Plan
from stretto.compiler.program.program import Compute, Tie, TiedPlace
from stretto.runtime.topology import StageGraph, StageId, numbered

GradientList = list[Tensor | None]
"""A module's gradients, in the order of its parameters; None where there is none."""

RankOrders = list[list[tuple[StageId, int]]]
"""By rank the stage and micro-batch of each weight gradient, as its list computes them."""


class OrderedSum:
    """Adds lists of gradients in an order that is given, whenever they come. `total`: the sum of
    those whose turn has come; empty before the first."""

    def __init__(self, order: Sequence[Any]):
        self.left = list(order)[::-1]
        self.waiting: dict[Any, GradientList] = {}
        self.total: GradientList = []

    def come(self, key: Any, gradients: GradientList) -> None:
        """One is there."""
        self.waiting[key] = gradients
        while self.left and self.left[-1] in self.waiting:
            following = self.waiting.pop(self.left.pop())
            self.total = self.total or [None] * len(following)
            add(self.total, following)


class TiedReference:
    """The sums of all ties. `plain`: by the tie's name."""

    def __init__(self, graph: StageGraph, modules: Mapping[StageId, nn.Module], orders: RankOrders):
        self.ties: tuple[Tie, ...] = graph.spec.ties
        self.names = {
            stage: [name for name, _ in module.named_parameters()]
            for stage, module in modules.items()
        }
        self.plain: dict[str, GradientList] = {tie.name: [None] for tie in self.ties}
        self.sums: dict[tuple[TiedPlace, ...], OrderedSum] = {}
        for places in (places for tie in self.ties for places in tie.holders):
            stages = {StageId(*place[:2]) for place in places}
            order = orders[graph.topology.rank_of(places[0][:2])]
            self.sums[places] = OrderedSum([one for one in order if one[0] in stages])

    def microbatch(self, m: int, found: Mapping[StageId, GradientList]) -> None:
        """The gradients of one micro-batch, of the stages that it went through together."""
        for tie in self.ties:
            once: GradientList = [None]
            for places in tie.holders:
                for stage in sorted({StageId(*place[:2]) for place in places}, reverse=True):
                    if stage in found:
                        own: GradientList = [None]
                        for place in places:
                            if place[:2] == stage:
                                at = self.names[stage].index(place.name)
                                add(own, [found[stage][at]])
                        self.sums[places].come((stage, m), own)
                        add(once, own)
            add(self.plain[tie.name], once)

    def total(self, tie: Tie) -> Tensor | None:
        """The sum over the holders of the tie."""
        total: GradientList = [None]
        for places in tie.holders:
            add(total, self.sums[places].total)
        return total[0]

    def put(self, stage: StageId, sums: GradientList, plain: GradientList) -> None:
        """Puts the sums of ties in place of the stage's own, in both lists."""
        for tie in self.ties:
            for place in tie.places:
                if place[:2] == stage:
                    at = self.names[stage].index(place.name)
                    sums[at], plain[at] = self.total(tie), self.plain[tie.name][0]


def rank_orders(plan: Plan) -> RankOrders:
    """What the plan says; a slice counts as a micro-batch."""
    spec = plan.programs["train"].spec
    return [
        [
            (StageId(*one.operation[1:3]), numbered(spec, one.operation).microbatch)
            for one in instructions
            if isinstance(one, Compute) and one.operation.kind in "BW"
        ]
        for instructions in plan.programs["train"].ranks
    ]


def add(total: GradientList, more: GradientList) -> None:
    """Adds to `total` as autograd accumulates."""
    for k, gradient in enumerate(more):
        if gradient is not None:
            before = total[k]
            total[k] = gradient.clone() if before is None else _sum(before, gradient)


def _sum(before: Tensor, gradient: Tensor) -> Tensor:
    """In place where that can be; of a sparse and a dense gradient the dense one."""
    if before.is_sparse and not gradient.is_sparse:
        return torch.add(gradient, before)
    return before.add_(gradient)
