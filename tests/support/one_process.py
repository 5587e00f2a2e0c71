"""A training in one process, as a user writes it without stretto: the whole model, micro-batch
after micro-batch. What ranks do together is compared with it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from stretto.compiler.plan.plan import Plan
from tests.support.training import ROWS, Layer, loss, seed_of, spec_of

SCHEDULES: list[Any] = [
    ("one_f_one_b", {"ranks": 3, "microbatches": 4}),
    ("interleaved_1f1b", {"ranks": 2, "microbatches": 4}),
    ("zb_h1", {"ranks": 3, "microbatches": 4}),
    ("dualpipe", {"ranks": 4, "microbatches": 8}),
]
"""Whole backwards, several stages on a rank, split backwards, copies."""

NAMES = [name for name, _ in SCHEDULES]


def in_order(name: str) -> bool:
    """Whether the schedule adds gradients in the order of the micro-batches: then what it does is
    what one process does, bit for bit."""
    return name != "dualpipe"


def whole_model(plan: Plan, make: Callable[[int], nn.Module] = Layer) -> nn.Sequential:
    """All stages of the plan's first pipeline in a row."""
    spec = spec_of(plan)
    stages = range(len(spec.pipelines[0].stages))
    return nn.Sequential(*(make(seed_of(spec, 0, s)) for s in stages))


def add_gradients(
    whole: nn.Module,
    x: Tensor,
    target: Tensor,
    change: Callable[[Tensor], Tensor] = lambda loss: loss,
    forward: Callable[[nn.Module, Tensor, Tensor], Tensor] = lambda m, x, y: loss(m(x), y),
) -> list[Tensor]:
    """The backwards of all micro-batches, of the mean of their losses; `change` is what is done to
    each loss before its backward. Returns the losses."""
    many, losses = len(x.split(ROWS)), []
    for part, wanted in zip(x.split(ROWS), target.split(ROWS), strict=True):
        one = forward(whole, part, wanted)
        losses.append(one.detach())
        change(one / many).backward()
    return losses


def alike(name: str, ours: Tensor, theirs: Tensor) -> bool:
    """Equal: bit for bit where the schedule adds in the order of the micro-batches."""
    return torch.equal(ours, theirs) if in_order(name) else torch.allclose(ours, theirs, atol=1e-4)
