"""Losses that count by a weight of their target, as in a mean over tokens; metrics beside them."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from stretto.runtime import Executor, PipelineError
from stretto.runtime.topology import StageId
from stretto.runtime.train.verify import Verdict, verify
from tests.support.specs import gpipe, linear, ordered, zb_h1
from tests.support.steps import double, executors
from tests.support.training import Layer, batch, compiled, plan_of, spec_of, there
from tests.support.training import loss as mean_square

VOCABULARY, LENGTH, PADDING = 6, 5, -100  # as wide as a layer
ZERO_BUBBLE = plan_of(ordered(linear(3, 4), zb_h1))
BOTH_WAYS = compiled("dualpipe", ranks=4, microbatches=8)
PLANS = [(ZERO_BUBBLE, 3, 4), (BOTH_WAYS, 4, 8)]
IDS = ["zb_h1", "dualpipe"]


class Words(nn.Module):
    """A layer over [rows, length, vocabulary]."""

    def __init__(self, seed: int):
        super().__init__()
        self.layer = Layer(seed % 100, torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def token_mean(output: Tensor, target: Tensor) -> Tensor:
    """Not a number where there is no token."""
    return cross_entropy(output.flatten(0, 1), target.flatten(), ignore_index=PADDING)


def tokens(target: Tensor) -> Tensor:
    return (target != PADDING).sum()


def padded(rows: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rows of unlike length, the first micro-batch with the fewest tokens."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, LENGTH, VOCABULARY, generator=draw, dtype=torch.float64)
    target = torch.randint(0, VOCABULARY, (rows, LENGTH), generator=draw)
    for row in range(rows):
        target[row, 1 + (row * 3) % LENGTH :] = PADDING
    return x, target


def whole(stages: int, *batches: tuple[Tensor, Tensor]) -> list[list[Tensor]]:
    """The gradients of the mean over all tokens of all batches, in one backward."""
    modules = [Words(seed) for seed in range(stages)]
    x, target = (torch.cat(parts) for parts in zip(*batches, strict=True))
    token_mean(nn.Sequential(*modules)(x), target).backward()
    return [[there(p.grad) for p in module.parameters()] for module in modules]


def taken(plan: Any, body: Callable[[Executor], Any], **options: Any) -> list[Any]:
    options = {"make": Words, "loss_fn": token_mean, "scale_loss": tokens, **options}
    return executors(plan, body, **options)


def gradients_after(
    plan: Any, body: Callable[[Executor], Any], **options: Any
) -> dict[str, list[Tensor | None]]:
    def step(executor: Executor) -> Any:
        body(executor)
        found = executor.stages.values()
        return {stage.name: [p.grad for p in stage.module.parameters()] for stage in found}

    return {k: v for part in taken(plan, step, **options) for k, v in part.items()}


def assert_close(found: dict[str, list[Tensor | None]], expected: list[list[Tensor]]) -> None:
    for name, ours in found.items():
        for one, other in zip(ours, expected[int(name[-2])], strict=True):
            assert (there(one) - other).abs().max() <= 1e-13 * other.abs().max(), name


@pytest.mark.parametrize(("plan", "stages", "count"), PLANS, ids=IDS)
def test_gradients_are_those_of_the_mean_over_the_whole_padded_batch(
    plan: Any, stages: int, count: int
) -> None:
    x, target = padded(2 * count)
    found = gradients_after(plan, lambda executor: executor.step(x, target=target))
    assert_close(found, whole(stages, (x, target)))
    plain = gradients_after(plan, lambda e: e.step(x, target=target), scale_loss=True)
    with pytest.raises(AssertionError):  # a mean of means is another number
        assert_close(plain, whole(stages, (x, target)))


@pytest.mark.parametrize(("plan", "stages", "count"), PLANS, ids=IDS)
def test_steps_that_accumulate_share_a_total(plan: Any, stages: int, count: int) -> None:
    batches = [padded(2 * count, seed) for seed in range(2)]
    batches[1][1][: 2 * count - 3] = PADDING  # the second has few tokens
    total = sum(tokens(target) for _, target in batches)

    def body(executor: Executor) -> None:
        for x, target in batches:
            executor.step(x, target=target, weight_total=total)

    assert_close(gradients_after(plan, body), whole(stages, *batches))


def test_replicas_share_a_total() -> None:
    """Gradients that are averaged over two replicas afterwards: the total is half of all tokens."""
    batches = [padded(8, seed) for seed in range(2)]
    total = sum(tokens(target) for _, target in batches) / 2
    one, two = (
        gradients_after(ZERO_BUBBLE, lambda e, b=b: e.step(b[0], target=b[1], weight_total=total))  # type: ignore[misc]
        for b in batches
    )
    mean: dict[str, list[Tensor | None]] = {
        k: [(there(a) + there(b)) / 2 for a, b in zip(one[k], two[k], strict=True)] for k in one
    }
    assert_close(mean, whole(3, *batches))


def test_without_weights_a_total_is_a_number_of_microbatches() -> None:
    x, target = padded(8)
    half = gradients_after(
        ZERO_BUBBLE, lambda e: e.step(x, target=target, weight_total=8), scale_loss=True
    )
    full = gradients_after(ZERO_BUBBLE, lambda e: e.step(x, target=target), scale_loss=True)
    for name, gradients in full.items():
        for a, b in zip(gradients, half[name], strict=True):
            assert torch.equal(there(a), 2 * there(b))


@pytest.mark.parametrize(("plan", "stages", "count"), PLANS, ids=IDS)
def test_a_microbatch_without_tokens_adds_zeros_though_its_loss_is_not_a_number(
    plan: Any, stages: int, count: int
) -> None:
    """Also where its loss would have given the whole batch no number."""
    x, target = padded(2 * count)
    target[:2] = PADDING
    losses: dict[int, list[Tensor]] = {}

    def sum_over_count(output: Tensor, target: Tensor) -> Tensor:
        mask = target != PADDING
        some = cross_entropy(output.flatten(0, 1), target.clamp(0).flatten(), reduction="none")
        return (some * mask.flatten()).sum() / mask.sum()

    def body(executor: Executor) -> None:
        losses[executor.rank] = []
        executor.step(x, target=target, losses=losses[executor.rank])
        share = {k: [s.weight for s in shares] for k, shares in executor.shares.items()}
        assert not share or min(map(min, share.values())) >= 0

    found = gradients_after(plan, body, loss_fn=sum_over_count)
    assert_close(found, whole(stages, (x, target)))
    assert sum(math.isnan(loss) for own in losses.values() for loss in own) == 1


def test_a_batch_without_tokens_gives_zeros() -> None:
    """The stated rule: all weights are 0, and so is every gradient."""
    x, target = padded(8)
    target[:] = PADDING
    found = gradients_after(ZERO_BUBBLE, lambda e: e.step(x, target=target))
    assert all(there(g).abs().max() == 0 for gradients in found.values() for g in gradients)


def test_only_ranks_with_a_last_stage_need_the_target() -> None:
    x, target = padded(16)

    def body(executor: Executor) -> None:
        ends = executor.rank in (0, 3)
        executor.step(x if ends else None, target=target if ends else None)

    assert_close(gradients_after(BOTH_WAYS, body), whole(4, (x, target)))


# Verified ----------------------------------------------------------------------------------------


def verified(plan: Any, x: Any, target: Any, loss_fn: Any = token_mean, **step: Any) -> Verdict:
    options = {"scale_loss": tokens} if loss_fn is token_mean else {}

    def body(executor: Executor) -> Any:
        def build(stage: StageId) -> nn.Module:
            return Words(stage.stage)

        whole = plan if executor.rank == 0 else None
        return verify(executor, whole, build, loss_fn, x, target, {}, **step)

    return taken(plan, body, **{"loss_fn": loss_fn, "scale_loss": True, **options})[0]


@pytest.mark.parametrize(("plan", "stages", "count"), PLANS, ids=IDS)
def test_one_process_with_the_same_weights_has_the_same_bits(
    plan: Any, stages: int, count: int
) -> None:
    x, target = padded(2 * count)
    target[2:4] = PADDING
    verdict = verified(plan, x, target)
    assert verdict.equal, str(verdict)
    verdict = verified(plan, x, target, weight_total=1000)
    assert verdict.equal, str(verdict)


# Metrics -----------------------------------------------------------------------------------------


def with_metrics(output: Tensor, target: Tensor, *, smoothing: float = 0.0) -> Any:
    loss = cross_entropy(output.flatten(0, 1), target.flatten(), label_smoothing=smoothing)
    return loss, {"tokens": int(tokens(target)), "logits": output.square().mean()}


@pytest.mark.parametrize(("plan", "stages", "count"), PLANS, ids=IDS)
def test_metrics_come_in_the_order_of_the_microbatches(plan: Any, stages: int, count: int) -> None:
    x, target = padded(2 * count)

    def body(executor: Executor) -> Any:
        metrics: list[Any] = ["stale"]
        losses: list[Tensor] = []
        by_name: dict[str, Any] = {}
        executor.step(
            x, target=target, losses=losses, metrics=metrics, loss_kwargs={"smoothing": 0.1}
        )
        executor.eval(x, target=target, metrics=by_name)
        return losses, metrics, by_name

    found = taken(plan, body, loss_fn=with_metrics, scale_loss=True)
    order = [found[2]] if plan is ZERO_BUBBLE else [found[3], found[0]]
    losses = [loss for own, _, _ in order for loss in own]
    metrics = [one for _, own, _ in order for one in own]
    again = [one for _, _, by_name in order for own in by_name.values() for one in own]
    model = nn.Sequential(*(Words(seed) for seed in range(stages)))
    for m, (part, wanted) in enumerate(zip(x.chunk(count), target.chunk(count), strict=True)):
        loss, expected = with_metrics(model(part), wanted, smoothing=0.1)
        assert torch.allclose(losses[m], loss)
        assert metrics[m]["tokens"] == again[m]["tokens"] == expected["tokens"]
        assert torch.allclose(metrics[m]["logits"], expected["logits"])
        assert not metrics[m]["logits"].requires_grad
    assert verified(plan, x, target, with_metrics, loss_kwargs={"smoothing": 0.1}).equal


def test_what_is_no_loss_with_metrics_is_refused() -> None:
    x, target = padded(4)
    plan = plan_of(ordered(linear(1, 2), gpipe))

    def told(given: Any) -> str:
        def body(executor: Executor) -> Any:
            executor.step(x, target=target)

        with pytest.raises(PipelineError) as caught:
            taken(plan, body, loss_fn=lambda output, target: given(output), scale_loss=True)
        return str(caught.value)

    assert "gave a tuple of Tensor, int: it must give" in told(lambda y: (y.mean(), 3))
    assert "must give a tensor with one number" in told(lambda y: (y, {"a": 3}))


def test_weights_of_several_models_are_given_by_pipeline() -> None:
    """One model counts by its rows' weights, the other's micro-batches count alike."""
    plan = compiled("two_models", ranks=2, microbatches=4)
    x, target = batch(spec_of(plan), torch.float64)
    first, second = (pipeline.name for pipeline in spec_of(plan).pipelines)

    def weight(target: Tensor) -> float:
        return float(target[0, 0] > 0) + 1

    def gradients(**options: Any) -> dict[str, list[Tensor | None]]:
        def body(executor: Executor) -> None:
            executor.step(x, target=target)

        return gradients_after(plan, body, **{"make": double, "loss_fn": mean_square, **options})

    plain = gradients(scale_loss=True)
    by_model = gradients(scale_loss={first: weight})
    for name, ours in by_model.items():
        for a, b in zip(ours, plain[name], strict=True):
            assert torch.equal(there(a), there(b)) == name.startswith(f"{second}[")
    for wrong, words in (
        ({"third": weight}, "scale_loss has third, and this plan has"),
        ("mean", "scale_loss is a str: give True, False, or a function of the target"),
    ):
        with pytest.raises(PipelineError, match=words):
            gradients(scale_loss=wrong)
