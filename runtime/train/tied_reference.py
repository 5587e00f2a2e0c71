"""What one process makes of parameters that stand in several places. In come the gradients of each
micro-batch, stage by stage, as if every place had a parameter of its own; out come the sums, in the
order of the plan: each holder of a tie adds what its places contribute as its rank's list has it,
then the holders are added. Beside it the plain sum: what one parameter in one process adds up,
micro-batch after micro-batch."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from stretto.compiler.plan.plan import Plan
from stretto.compiler.program.program import NONE, Compute, Tie, TiedPlace
from stretto.runtime.topology import StageGraph, StageId, numbered

GradientList = list[Tensor | None]
"""A module's gradients, in the order of its parameters; None where there is none."""


class WeightGradient(NamedTuple):
    """A stage, or one part of it, adds to gradients of weights for a micro-batch; `part` is -1
    where stages are not cut."""

    stage: StageId
    microbatch: int
    part: int


RankOrders = list[list[WeightGradient]]
"""By rank all that add to gradients of weights, as its list computes them."""

PartUsers = Mapping[StageId, Sequence[Collection[int]]]
"""By stage and parameter the parts that use it; empty where stages are not cut."""


def turns(
    order: Sequence[WeightGradient], adds: Callable[[WeightGradient], bool]
) -> list[tuple[StageId, int]]:
    """The stages and micro-batches in the order in which the last of those that add has added."""
    last = {(one.stage, one.microbatch): at for at, one in enumerate(order) if adds(one)}
    return sorted(last, key=lambda turn: last[turn])


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


class StageSums:
    """The sums of one stage's gradients: parameters that the same parts use come in one order,
    others in another. `order` is that of the stage, which `module` is."""

    def __init__(self, order: Sequence[WeightGradient], module: nn.Module, users: PartUsers):
        many = len(list(module.parameters()))
        parts = users[order[0].stage] if users and order else [(NONE,)] * many
        alike: dict[tuple[int, ...], list[int]] = {}
        for at, own in enumerate(parts):
            alike.setdefault(tuple(own), []).append(at)
        self.many = many
        self.sums = [
            (places, OrderedSum(turns(order, lambda one, own=own: one.part in own)))  # type: ignore[misc]
            for own, places in alike.items()
        ]

    def come(self, key: tuple[StageId, int], gradients: GradientList) -> None:
        """Those of one micro-batch are there."""
        for places, one in self.sums:
            one.come(key, [gradients[at] for at in places])

    def total(self) -> GradientList:
        """What has been added."""
        found: GradientList = [None] * self.many
        for places, one in self.sums:
            for at, gradient in zip(places, one.total or [None] * len(places), strict=True):
                found[at] = gradient
        return found


class TiedReference:
    """The sums of all ties. `plain`: by the tie's name."""

    def __init__(
        self,
        graph: StageGraph,
        modules: Mapping[StageId, nn.Module],
        orders: RankOrders,
        users: PartUsers,
    ):
        self.ties: tuple[Tie, ...] = graph.spec.ties
        self.names = {
            stage: [name for name, _ in module.named_parameters()]
            for stage, module in modules.items()
        }
        self.plain: dict[str, GradientList] = {tie.name: [None] for tie in self.ties}
        self.sums: dict[tuple[TiedPlace, ...], OrderedSum] = {}
        for places in (places for tie in self.ties for places in tie.holders):
            adding: dict[StageId, set[int]] = {}
            for place in places:
                stage = StageId(*place[:2])
                at = self.names[stage].index(place.name)
                adding.setdefault(stage, set()).update(users[stage][at] if users else (NONE,))
            order = orders[graph.topology.rank_of(places[0][:2])]
            own = turns(order, lambda one, own=adding: one.part in own.get(one.stage, ()))  # type: ignore[misc]
            self.sums[places] = OrderedSum(own)

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
    """What the plan says; a slice counts as a micro-batch. Of parts on other streams than `compute`
    it is I that adds."""
    spec = plan.programs["train"].spec
    return [
        [
            WeightGradient(
                StageId(*one.operation[1:3]),
                numbered(spec, one.operation).microbatch,
                one.operation.part,
            )
            for one in instructions
            if isinstance(one, Compute)
            and (one.operation.kind in "BW" or (one.operation.kind == "I" and one.stream))
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
