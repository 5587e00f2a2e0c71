"""Modules that write on what they are given, or on what they have handed on."""

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stretto.runtime import Executor, PipelineError
from tests.support.specs import gpipe, linear, one_f_one_b, ordered, random_order, vee, zb_h1
from tests.support.steps import executors
from tests.support.training import (
    ROWS,
    WIDTH,
    Layer,
    batch,
    loss,
    plan_of,
    spec_of,
    there,
    trained,
)
from tests.support.verified import verified


class Adds(Layer):
    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        x.add_(1)
        return super().forward(x)


class Rectifies(Layer):
    def __init__(self, seed: int):
        super().__init__(seed)
        self.first = nn.ReLU(inplace=True)

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        return super().forward(self.first(x))


class WritesItem(Layer):
    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        x[:, 0] = self.norm.weight[0]
        return super().forward(x)


class WritesView(Layer):
    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        x.view(-1)[1::3].mul_(2)
        x[0].copy_(self.norm.bias)
        return super().forward(x)


class WritesWithoutGraph(Layer):
    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        with torch.no_grad():
            x.clamp_(-0.5, 0.5)
        return super().forward(x)


class ReturnsWhatItWrote(Layer):
    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        return x.mul_(self.norm.weight)


WRITERS = (Adds, Rectifies, WritesItem, WritesView, WritesWithoutGraph, ReturnsWhatItWrote)


def alone(
    make: Callable[[int], nn.Module], x: Tensor, target: Tensor, stages: int, many: int
) -> Any:
    """Modules, outputs: one process whose stages each get a copy."""
    modules = [make(s) for s in range(stages)]
    outputs = []
    for m in range(many):
        value = x[m * ROWS : (m + 1) * ROWS]
        for module in modules:
            value = module(value.clone())
        outputs.append(value.detach())
        (loss(value, target[m * ROWS : (m + 1) * ROWS]) / many).backward()
    return modules, torch.cat(outputs)


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("order", [one_f_one_b, zb_h1])
def test_a_stage_may_write_on_its_input(order: Any, kind: Callable[[int], nn.Module]) -> None:
    spec = ordered(linear(3, 4), order)
    x, target = batch(spec)
    before = x.clone()
    found = trained(plan_of(spec), x, target, kind)
    assert torch.equal(x, before), "the user's batch"
    modules, output = alone(kind, x, target, 3, 4)
    assert torch.equal(found.outputs[2], output)
    for s, module in enumerate(modules):
        for ours, theirs in zip(found.gradients("main", s), module.parameters(), strict=True):
            assert (ours is None) == (theirs.grad is None)
            assert ours is None or torch.equal(ours, there(theirs.grad))


def test_a_stage_of_the_same_rank_may_write_too() -> None:
    """The bottom of a V hands over within the rank, and needs its output for its own backward."""

    class Squashes(Adds):
        def forward(self, x: Tensor, *others: Tensor) -> Tensor:
            return super().forward(x).tanh()  # a node that saves its result

    spec = random_order(vee(2, 4), Random(0))
    verdict = verified(plan_of(spec), Squashes)
    assert verdict.equal, str(verdict)


def test_an_evaluation_does_not_write_on_the_batch_either() -> None:
    plan = plan_of(random_order(vee(2, 4), Random(0)))
    x, target = batch(spec_of(plan))
    before = x.clone()
    found = executors(plan, lambda e: [e.eval(x) for _ in range(2)], Adds)[0]
    assert torch.equal(x, before) and torch.equal(found[0], found[1])
    assert torch.equal(found[0], alone(Adds, x, target, 4, 4)[1])


class KeepsItsOutput(Layer):
    """Writes every output into one buffer, and if `again` returns that."""

    again = True

    def __init__(self, seed: int):
        super().__init__(seed)
        self.register_buffer("kept", torch.zeros(ROWS, WIDTH))

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        found = super().forward(x, *others)
        kept = self.get_buffer("kept")
        with torch.no_grad():
            kept.copy_(found)
        return kept if self.again else found


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize("stage", [0, 1])
def test_an_output_that_changes_later_is_refused(stage: int, step: int) -> None:
    """In an evaluation a stage returns one buffer for all micro-batches: the first, whose outputs
    are being sent by then, or the last, whose are kept for the user."""
    plan = plan_of(ordered(linear(2, 3), gpipe))
    x, _ = batch(spec_of(plan))
    words = rf"the output of `F main\[{stage}, 0\]` was changed in place"

    def body(executor: Executor) -> None:
        modules = [own.module for own in executor.stages.values()]
        for k in range(1, step + 1):
            for module in modules:
                if isinstance(module, KeepsItsOutput):
                    module.again = k == step
            executor.eval(x)

    with pytest.raises(PipelineError, match=words):
        executors(plan, body, lambda s: (KeepsItsOutput if s == stage else Layer)(s))


def test_losses_that_are_one_buffer_are_told_apart() -> None:
    running = torch.zeros(())

    def judge(output: Tensor, target: Tensor) -> Tensor:
        with torch.no_grad():
            running.copy_(loss(output, target))
        return running

    plan = plan_of(ordered(linear(2, 3), gpipe))
    x, target = batch(spec_of(plan))

    def body(executor: Any) -> Any:
        found: list[Tensor] = []
        executor.eval(x, target=target, losses=found)
        return found

    ours = executors(plan, body, Layer, judge)[1]
    expected = executors(plan, body)[1]
    assert ours == expected and len(set(map(float, ours))) == 3
