"""What cannot travel between stages is refused in words that name it, on every rank; who is only
slow is waited for. All ranks are threads of this process."""

import time
from typing import Any

import pytest
import torch
from torch import Tensor

from stretto.compiler.plan.plan import Plan
from stretto.runtime import Executor, PipelineError, StepRefused
from tests.support.one_by_one import alone, same
from tests.support.specs import (
    gpipe,
    linear,
    one_f_one_b,
    ordered,
)
from tests.support.steps import executors
from tests.support.training import (
    WIDTH,
    Layer,
    batch,
    plan_of,
    spec_of,
    trained,
)


def refusal(plan: Plan, make: Any, x: Tensor, target: Tensor) -> str:
    """The first error of a step; all ranks must end."""
    with pytest.raises(PipelineError) as stopped:
        trained(plan, x, target, make)
    return str(stopped.value)


class Changing(Layer):
    """In its third micro-batch gives something else."""

    how = ""

    def forward(self, x: Tensor, *others: Tensor) -> Any:
        self.count = getattr(self, "count", 0) + 1
        y = super().forward(x)
        if self.count < 3:
            return y
        if self.how == "type":
            return y.double()
        if self.how == "number":
            return y, y
        return y.detach() if self.how == "gradient" else y[:1]


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("rows", "`F main[0, 2]` gives (1, 6) float32 where `F main[0, 0]` gave (2, 6) float32"),
        ("type", "`F main[0, 2]` gives (2, 6) float64 where `F main[0, 0]` gave (2, 6) float32"),
        ("number", "gives (2, 6) float32, (2, 6) float32 where `F main[0, 0]` gave (2, 6) float32"),
        ("gradient", "`F main[0, 2]` gives (2, 6) float32 (output 0) with no gradient where `F ma"),
    ],
)
def test_a_stage_that_gives_something_else_is_refused_where_it_does(how: str, words: str) -> None:
    kind = type("Changing", (Changing,), {"how": how})
    plan = plan_of(ordered(linear(2, 4), one_f_one_b))
    told = refusal(plan, lambda s: kind(s) if s == 0 else Layer(s), *batch(spec_of(plan)))
    assert words in told


def test_outputs_that_cannot_be_sent_are_refused() -> None:
    class Sparse(Layer):
        def forward(self, x: Tensor, *others: Tensor) -> Any:
            return super().forward(x).to_sparse()

    plan = plan_of(ordered(linear(2, 2), gpipe))
    told = refusal(plan, lambda s: Sparse(s) if s == 0 else Layer(s), *batch(spec_of(plan)))
    assert "`F main[0, 0]` gives a sparse_coo tensor, which cannot be sent" in told


def test_a_wrong_result_is_its_producers() -> None:
    class Wide(Layer):
        def forward(self, x: Tensor, *others: Tensor) -> Any:
            return torch.cat([super().forward(x), x, x[:, :5]], 1)

    plan = plan_of(ordered(linear(3, 2), one_f_one_b))
    told = refusal(plan, lambda s: Wide(s) if s == 0 else Layer(s), *batch(spec_of(plan)))
    assert "rank 1 computes `F main[1, 0]` (made.pipe:2), on (2, 17) float32 that" in told
    assert (
        "that `F main[0, 0]` of rank 0 has made, and fails at step 1: RuntimeError: Given norm"
        in told
    )


def bad_batches() -> list[Any]:
    """For rank 0 and rank 1: what they call with what, and what both are told."""
    x = torch.randn(8, WIDTH, generator=torch.Generator().manual_seed(3))
    return [
        (("step", x[:7], None), ("step", None, x), "rank 0 cannot begin the step: x has 7 rows"),
        (("step", None, None), ("step", None, x), "rank 0 has the first stage of `main`: give it"),
        (("step", x, None), ("step", None, None), "rank 1 ends `main` with the loss: give it"),
        (("step", x, None), ("step", None, x[:3]), "rank 1 cannot begin the step: target has 3"),
        (("step", x, x), ("step", x[:4], x[:4]), "micro-batches of (1, 6) float32 on rank 1, but"),
        (("step", x, x), ("eval", x, x), "rank 1 evaluates while rank 0 trains"),
        (("eval", x[:5], None), ("eval", None, None), "rank 0 cannot begin the step: x has 5"),
        (("step", x, None), ("step", None, "words"), "rank 1 cannot begin the step: "),
    ]


def test_a_batch_that_is_wrong_is_told_to_all_and_another_is_taken() -> None:
    plan = plan_of(ordered(linear(2, 4), one_f_one_b))
    x, target = batch(spec_of(plan))
    told: dict[int, list[str]] = {0: [], 1: []}

    def body(executor: Executor) -> Any:
        losses: list[Tensor] = []
        for case in bad_batches():
            name, inputs, wanted = case[executor.rank]
            with pytest.raises(StepRefused) as refused:
                getattr(executor, name)(inputs, target=wanted)
            told[executor.rank].append(str(refused.value))
            executor.eval(x if executor.rank == 0 else None)
        executor.step(x, target=target, losses=losses)
        (stage,) = executor.stages.values()
        return [p.grad for p in stage.module.parameters()], losses

    results = executors(plan, body)
    for at, (*_, words) in enumerate(bad_batches()):
        for rank in (0, 1):
            own = words.removeprefix(f"rank {rank} cannot begin the step: ")
            assert own in told[rank][at], (at, rank, told[rank][at])
    gradients, losses = alone([Layer(0), Layer(1)], x.chunk(4), target.chunk(4))
    assert same(results[0][0], gradients[0]) and same(results[1][0], gradients[1])
    assert results[1][1] == losses


def test_batches_with_other_contents_are_told_at_the_first_step() -> None:
    plan = plan_of(ordered(linear(2, 4), one_f_one_b))
    x, target = batch(spec_of(plan))

    def body(executor: Executor) -> str:
        with pytest.raises(StepRefused) as refused:
            executor.step(x + executor.rank, target=target)
        executor.step(x, target=target)
        return str(refused.value)

    for told in executors(plan, body):
        assert "x has other contents on rank 1 than on rank 0: every rank must be given" in told


def test_a_rank_that_is_slow_in_its_first_forward_is_awaited() -> None:
    class Slow(Layer):
        def forward(self, x: Tensor, *others: Tensor) -> Tensor:
            end = time.monotonic() + 2.5
            while time.monotonic() < end and not hasattr(self, "ran"):
                pass
            self.ran = True
            return super().forward(x)

    plan = plan_of(ordered(linear(2, 2), gpipe))
    x, target = batch(spec_of(plan))
    make = {0: Slow, 1: Layer}
    trained(plan, x, target, lambda seed: make[seed](seed), timeout=1.0)
