"""A loss that is no number is told at once, by all ranks alike, with the first tensor that led to
it; whatever else has infinities is no matter."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stretto.runtime import Executor, NonFiniteError, PipelineError
from tests.support.ranks import run
from tests.support.specs import both_ways, linear, one_f_one_b, ordered, random_order
from tests.support.steps import executors
from tests.support.training import (
    ROWS,
    Layer,
    batch,
    built,
    compiled,
    loss,
    plan_of,
    spec_of,
)

NAN, INF = float("nan"), float("inf")
PLANS: dict[str, Any] = {
    "one_f_one_b": compiled("one_f_one_b", ranks=3, microbatches=4),
    "interleaved_1f1b": compiled("interleaved_1f1b", ranks=2, microbatches=4),
    "zb_h1": compiled("zb_h1", ranks=3, microbatches=4),
    "dualpipe": compiled("dualpipe", ranks=4, microbatches=8),
}


def messages(
    plan: Any, x: Any, target: Any, make: Any = Layer, before: Any = None, **kw: Any
) -> Any:
    """What each rank says of the second of three steps, and what the optimizer would see after."""

    def body(executor: Executor) -> Any:
        executor.step(*batch(spec_of(plan))[:1], target=batch(spec_of(plan))[1])
        if before is not None:
            before(executor)
        losses: list[Tensor] = []
        with pytest.raises(NonFiniteError) as stopped:
            executor.step(x, target=target, losses=losses)
        return str(stopped.value), losses

    return executors(plan, body, make, on_nonfinite="stop", **kw)


class Wild(Layer):
    """Gives a number that is none, for a micro-batch whose first entry says so."""

    value = NAN

    def __init__(self, seed: int):
        super().__init__(seed)
        self.wild = seed == 1

    def forward(self, x: Tensor, /, *others: Tensor) -> Tensor:
        found = super().forward(x, *others)
        if self.wild and x.abs().max() > 50:
            found = found + torch.tensor([0.0, 0, 0, 0, 0, self.value])
        return found


@pytest.mark.parametrize("name", PLANS)
def test_the_stage_that_made_it_is_named(name: str) -> None:
    """For the first of the model's micro-batches, whatever the order of the plan."""
    plan = PLANS[name]
    spec = spec_of(plan)
    x, target = batch(spec)
    for m in (2, 3):
        x[m * ROWS, 0] = 100.0
    found = messages(plan, x, target, Wild)
    assert len({words for words, _ in found}) == 1
    first, last = (spec.pipelines[0].stages[s].rank for s in (1, -1))
    line = spec.pipelines[0].name
    assert found[0][0] == (
        f"step 2: the loss of micro-batch 2 of `{line}` is nan on rank {last}, one of 2 that are "
        f"not finite; the first number that is NaN is in the output of `F {line}[1, 2]` on rank "
        f"{first}"
    )
    losses = [one for _, own in found for one in own]
    assert sum(not one.isfinite() for one in losses) == 2 and len(losses) == spec.microbatches


class Divided:
    """A loss that is none from the second step on."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        self.calls += 1
        return loss(output, target) / (self.calls <= 4)


def test_other_ways_to_a_loss_that_is_none() -> None:
    plan = PLANS["one_f_one_b"]
    x, target = batch(spec_of(plan))

    def weight(executor: Executor) -> None:
        if executor.rank == 1:
            with torch.no_grad():
                next(iter(executor.stages.values())).module.get_parameter("down.weight")[1, 2] = INF

    bad_x, bad_target = x.clone(), target.clone()
    bad_x[ROWS, 1], bad_target[3 * ROWS, 1] = -INF, NAN
    for given, before, loss_fn, words in (
        ((bad_x, target), None, loss, "infinite is in x of micro-batch 1 of `main`, as rank 0 was"),
        ((bad_x, target), None, loss, "the first NaN in the output of `F main[0, 1]` on rank 0"),
        ((x, bad_target), None, loss, "NaN is in the target of micro-batch 3 of `main`, as rank 2"),
        ((x, target), weight, loss, "infinite is in `down.weight` of `main[1]` on rank 1"),
        ((x, target), None, Divided(), "what the last stage gave is finite: the loss function"),
    ):
        found = messages(plan, *given, before=before, loss_fn=loss_fn)
        assert all(words in told for told, _ in found), found


class Masking(nn.Module):
    """Hands on a mask with infinities, as attention does, which is right."""

    def __init__(self, seed: int):
        super().__init__()
        self.layer, self.seed = Layer(seed), seed

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Any:
        if mask is None:
            mask = torch.full((len(x), 6), -INF).triu(1)
        found = self.layer(x) + mask.exp()
        return found if self.seed == 2 else (found, mask)


def test_infinities_that_do_no_harm_are_no_matter_and_nothing_is_cast() -> None:
    plan = PLANS["one_f_one_b"]
    x, target = batch(spec_of(plan))

    def step(executor: Executor) -> Any:
        return executor.step(x, target=target)

    watched = executors(plan, step, Masking, on_nonfinite="stop")
    plain = executors(plan, step, Masking)
    assert torch.equal(watched[2], plain[2])


def test_a_warning_comes_once_and_the_executor_goes_on() -> None:
    plan = PLANS["dualpipe"]
    x, target = batch(spec_of(plan))
    bad = x.clone()
    bad[0, 0] = NAN
    told: list[str] = []

    def body(executor: Executor) -> Any:
        executor.step(bad, target=target)
        assert executor.watch is not None
        executor.activity.called = "step 7"
        executor.step(bad, target=target)
        for parameter in executor.parameters():
            parameter.grad = None
        executor.step(x, target=target)
        return [p.grad for p in executor.parameters()]

    found = executors(plan, body, on_nonfinite=told.append)
    assert [words.split(":")[0] for words in told] == ["step 1", "step 7"]
    assert all(grad.isfinite().all() for grads in found for grad in grads)
    with (
        pytest.warns(RuntimeWarning, match="step 1: the loss of micro-batch 0 of `down` is nan"),
        pytest.warns(RuntimeWarning, match="step 7"),
    ):
        executors(plan, body, on_nonfinite="warn")


def test_a_loss_without_weight_is_no_matter() -> None:
    """As a mean over no tokens."""
    plan = PLANS["one_f_one_b"]
    x, target = batch(spec_of(plan))
    target[ROWS : 2 * ROWS] = NAN

    def body(executor: Executor) -> Any:
        losses: list[Tensor] = []
        executor.step(x, target=target, losses=losses)
        return losses

    weights = {"scale_loss": lambda t: (~t.isnan()).sum(), "on_nonfinite": "stop"}
    losses = executors(plan, body, **weights)[2]
    assert [bool(one.isfinite()) for one in losses] == [True, False, True, True]


def test_what_else_it_could_be_is_refused() -> None:
    with pytest.raises(PipelineError, match='on_nonfinite is \'stpo\': it can be "stop", "warn"'):
        executors(PLANS["one_f_one_b"], lambda _: None, on_nonfinite="stpo")


def test_of_a_random_order_it_names_the_first_stage_on_the_way() -> None:
    """Though all later ones have it too, and other micro-batches ran before."""
    from random import Random

    spec = random_order(both_ways(3, 6), Random(5))
    x, target = batch(spec)
    x[4 * ROWS, 0] = 100.0
    found = messages(plan_of(spec), x, target, Wild)
    assert all("in the output of `F up[1, 1]` on rank 1" in words for words, _ in found)


def as_process(rank: int) -> str:
    plan = plan_of(ordered(linear(2, 2), one_f_one_b))
    x, target = batch(spec_of(plan))
    x[0, 0] = NAN
    executor = Executor(plan, built(spec_of(plan), rank), loss, timeout=30, on_nonfinite="stop")
    with pytest.raises(NonFiniteError) as stopped:
        executor.step(x, target=target)
    executor.close()
    return str(stopped.value)


@pytest.mark.xdist_group("ranks")
def test_processes_say_the_same() -> None:
    first, second = run(2, as_process).results
    assert first == second and "NaN is in x of micro-batch 0 of `main`, as rank 0" in first
