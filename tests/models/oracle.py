"""What one process computes: the stages one after another, a micro-batch at a time, in plain
PyTorch. It knows of a plan only in which order it adds weight gradients, so that sums can be equal
bit for bit."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from stretto.compiler.plan.plan import Plan
from stretto.compiler.program.program import Compute
from tests.models.zoo import Batch, Entry

Gradients = list[dict[str, Tensor | None]]
"""By stage and name."""


class Orders(NamedTuple):
    """In which order a plan adds: for every stage, for each of its copies (as they are summed), the
    micro-batches of the whole step."""

    stages: int
    microbatches: int
    copies: list[list[list[int]]]


def orders(plan: Plan) -> Orders:
    """Those of a plan of one model."""
    program = plan.programs["train"]
    spec = program.spec
    found: dict[tuple[int, int], list[int]] = {}
    for rank in program.ranks:
        for one in rank:
            if isinstance(one, Compute) and one.operation.kind in "BW":
                _, p, s, m, *_ = one.operation
                found.setdefault((p, s), []).append(spec.pipelines[p].first + m)
    stages = len(spec.pipelines[0].stages)
    copies: list[list[list[int]]] = [[found[0, s]] for s in range(stages)]
    for reduction in program.reductions:
        copies[reduction.copies[0].stage] = [found[c.pipeline, c.stage] for c in reduction.copies]
    return Orders(stages, sum(p.microbatches for p in spec.pipelines), copies)


class Alone(NamedTuple):
    """A step in one process: gradients, the losses and outputs of the micro-batches."""

    gradients: Gradients
    losses: list[Tensor]
    outputs: list[Any]


def pieces(value: Any, count: int) -> list[Any]:
    """A tensor, or a dict of tensors, in equal pieces; a list is in pieces already."""
    if isinstance(value, list):
        return value
    if isinstance(value, dict):
        cut = {key: pieces(item, count) for key, item in value.items()}
        return [{key: item[k] for key, item in cut.items()} for k in range(count)]
    return list(torch.as_tensor(value).chunk(count))


def forward(stages: Sequence[nn.Module], x: Any, every: dict[str, Tensor]) -> Any:
    """The stages one after another."""
    for stage in stages:
        x = stage(*x, **every) if isinstance(x, tuple) else stage(x, **every)
    return x


def step(
    stages: Sequence[nn.Module],
    entry: Entry,
    batch: Batch,
    order: Orders,
    weights: Sequence[float] | None = None,
    before: Gradients | None = None,
) -> Alone:
    """One step. `weights`: each micro-batch's share of the loss, by default all the same;
    `before`: the gradients of earlier steps. To these a stage that is there once adds as it goes;
    copies add theirs up first."""
    many = order.microbatches
    parts = zip(
        pieces(batch.x, many),
        pieces(batch.every_stage, many) if batch.every_stage else [{}] * many,
        pieces(batch.target, many),
        strict=True,
    )
    single: list[Gradients] = []
    losses, outputs = [], []
    for m, (x, every, target) in enumerate(parts):
        for stage in stages:
            stage.zero_grad(set_to_none=True)
        output = forward(stages, x, every)
        loss = entry.loss(output, target)
        share = loss / many if weights is None else loss * weights[m]
        share.backward()
        single.append([_gradients(stage) for stage in stages])
        losses.append(loss.detach())
        outputs.append(output.detach())
    summed = [
        _in_order(single, s, copies, None if before is None else before[s])
        for s, copies in enumerate(order.copies)
    ]
    return Alone(summed, losses, outputs)


def _gradients(stage: nn.Module) -> dict[str, Tensor | None]:
    named = stage.named_parameters()
    return {name: None if p.grad is None else p.grad.clone() for name, p in named}


def _in_order(
    single: list[Gradients],
    stage: int,
    copies: list[list[int]],
    before: dict[str, Tensor | None] | None,
) -> dict[str, Tensor | None]:
    found: dict[str, Tensor | None] = {}
    for name in single[0][stage]:
        start = [] if before is None else [before[name]]
        sums = [[single[m][stage][name] for m in copy] for copy in copies]
        if len(copies) == 1:
            found[name] = total(start + sums[0])
        else:
            found[name] = total([*start, total([total(one) for one in sums])])
    return found


def total(tensors: Sequence[Tensor | None]) -> Tensor | None:
    """The sum from left to right of those that are there."""
    there = [t for t in tensors if t is not None]
    if not there:
        return None
    found = there[0].clone()
    for tensor in there[1:]:
        found += tensor
    return found
