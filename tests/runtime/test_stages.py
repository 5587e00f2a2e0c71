"""Stages and batches as users give them, and what is refused of both."""

from collections.abc import Iterator
from random import Random
from re import escape
from typing import Any

import pytest
import torch
from msgspec.structs import replace
from torch import Tensor, nn

from stretto.runtime import Executor, PipelineError, Stopped, run_local
from stretto.runtime.transport.local import Local
from tests.support.specs import (
    interleaved,
    interleaved_1f1b,
    linear,
    one_f_one_b,
    ordered,
    random_order,
    vee,
)
from tests.support.steps import executors
from tests.support.training import (
    ROWS,
    WIDTH,
    Layer,
    batch,
    built,
    compiled,
    loss,
    plan_of,
    spec_of,
    trained,
)


def test_stages_as_a_list_by_number_or_as_torch_makes_them() -> None:
    class PipelineStage:
        """What is used of torch's."""

        def __init__(self, submod: nn.Module, stage_index: int):
            self.submod, self.stage_index = submod, stage_index

    plan = plan_of(ordered(interleaved(2, 2, 2), interleaved_1f1b))
    spec = spec_of(plan)
    x, target = batch(spec)

    def as_list(own: dict[Any, nn.Module]) -> Any:
        return [own[key] for key in sorted(own)]

    def by_number(own: dict[Any, nn.Module]) -> Any:
        return {s: module for (_, s), module in own.items()}

    def as_torch(own: dict[Any, nn.Module]) -> Any:
        return [PipelineStage(module, s) for (_, s), module in reversed(own.items())]

    outputs = []
    for change in (dict, as_list, by_number, as_torch):

        def rank(transport: Local, change: Any = change) -> Any:
            own = change(built(spec, transport.rank))
            executor = Executor(plan, own, loss, transport=transport, timeout=20)
            executor.close()
            return executor.step(x, target=target)

        outputs.append(run_local(plan, rank)[1])
    assert all(torch.equal(output, outputs[0]) for output in outputs)


def wrong() -> Iterator[Any]:
    """What is given to rank 0 of a V (stages 0 and 3), and what it is told."""
    a, b = Layer(0), Layer(1)
    yield [a], "rank 0 has 2 stages, `main[0]` and `main[3]`, and was given 1 modules"
    yield {0: a}, "rank 0 was given no module for `main[3]`"
    yield {0: a, 2: b}, "rank 0 was given a module for stage 2, but has `main[0]` and `main[3]`"
    yield {0: a, 3: None}, "`main[3]` is a NoneType, not an nn.Module"
    yield [a, a], "one module for two stages"


@pytest.mark.parametrize(("given", "words"), list(wrong()), ids=range(5))
def test_stages_that_do_not_fit_are_refused(given: Any, words: str) -> None:
    plan = plan_of(random_order(vee(2, 2), Random(0)))

    def rank(transport: Local) -> None:
        own: Any = given if transport.rank == 0 else built(spec_of(plan), 1)
        Executor(plan, own, loss, transport=transport, timeout=10)

    with pytest.raises(PipelineError) as stopped:
        run_local(plan, rank)
    assert words in str(stopped.value)


def refused() -> Iterator[Any]:
    """x, target, and what is said, for 2 ranks and 4 micro-batches."""
    x = torch.zeros(8, WIDTH)
    yield x[:7], x, "x has 7 rows, which do not divide into 4 micro-batches: give it 4 or 8"
    yield x, x[:3], "target has 3 rows, which do not divide into 4 micro-batches: give it 4"
    yield (x, x[:4]), x, "x has tensors with 4 and 8 rows"
    yield None, x, "rank 0 has the first stage of `main`: give it x"
    yield x, None, "rank 1 ends `main` with the loss: give it target"
    yield (
        torch.zeros(8, WIDTH + 1),
        x,
        "rank 0 computes `F main[0, 0]` (made.pipe:1), on x of (2, 7) float32, and fails at step",
    )


@pytest.mark.parametrize(("x", "target", "words"), list(refused()), ids=range(6))
def test_batches_that_do_not_fit_are_refused_on_every_rank(x: Any, target: Any, words: str) -> None:
    plan = plan_of(ordered(linear(2, 4), one_f_one_b))
    told: list[str] = []

    def body(executor: Executor) -> None:
        try:
            executor.step(x, target=target)
        except PipelineError as stopped:
            told.append(str(stopped))

    try:
        executors(plan, body)
    except PipelineError as stopped:  # a rank may hear of it before it has begun its own step
        told.append(str(stopped))
    assert len(told) == 2 and all(words in message for message in told), told


def test_a_module_that_fails_is_named_on_every_rank() -> None:
    class Bomb(Layer):
        def forward(self, x: Tensor, *others: Tensor) -> Tensor:
            if x.abs().sum() > 1000:
                raise ValueError("too large")
            return super().forward(x)

    plan = plan_of(ordered(linear(3, 4), one_f_one_b))
    x, target = batch(spec_of(plan))
    x[5] *= 1e6  # in micro-batch 2
    told: dict[int, str] = {}

    def body(executor: Executor) -> None:
        with pytest.raises(PipelineError) as stopped:
            executor.step(x, target=target)
        told[executor.rank] = str(stopped.value)
        with pytest.raises(PipelineError, match="has stopped before"):
            executor.step(x, target=target)

    executors(plan, body, make=lambda seed: Bomb(seed) if seed == 0 else Layer(seed))
    where = "rank 0 computes `F main[0, 2]` (made.pipe:1), on x of (2, 6) float32,"
    reason = f"{where} and fails at step 1: ValueError: too large"
    assert told[0] == reason
    assert told[1].endswith(reason) and told[2].endswith(reason)


def test_other_shapes_in_a_later_microbatch_are_refused() -> None:
    class Growing(Layer):
        def forward(self, x: Tensor, *others: Tensor) -> Tensor:
            return super().forward(x)[: 1 if x[0, 0] == 0 else None]

    plan = plan_of(ordered(linear(2, 2), one_f_one_b))
    x, target = batch(spec_of(plan))
    x[ROWS] = 0
    with pytest.raises(PipelineError) as stopped:
        trained(plan, x, target, Growing)
    words = "`F main[0, 1]` gives (1, 6) float32 where `F main[0, 0]` gave (2, 6) float32 for a"
    assert words in str(stopped.value)


@pytest.mark.parametrize(
    ("judge", "words"),
    [
        (lambda output, target: (output - target).detach().square().mean(), "has no gradient"),
        (
            lambda output, target: (output - target).square(),
            "(2, 6): did you mean `.mean()`",
        ),
        (lambda output, target: None, "gave None: does it return its loss?"),
        (lambda output, target: 3.0, "a tensor with one number, and gave a float"),
    ],
)
def test_losses_that_teach_nothing_are_refused(judge: Any, words: str) -> None:
    plan = plan_of(ordered(linear(2, 2), one_f_one_b))
    x, target = batch(spec_of(plan))

    def rank(transport: Local) -> None:
        modules = built(spec_of(plan), transport.rank)
        executor = Executor(plan, modules, judge, transport=transport, timeout=20)
        executor.step(x, target=target)

    with pytest.raises(PipelineError, match=escape(words)):
        run_local(plan, rank)


def test_what_the_runtime_cannot_run_is_refused() -> None:
    spec = random_order(linear(2, 2, slices=2), Random(0))
    with pytest.raises(PipelineError, match="slices"):
        trained(plan_of(spec), *batch(spec))
    plan = compiled("gpipe", ranks=2, microbatches=2)
    forwards = replace(plan, programs={"eval": plan.programs["eval"]})
    with pytest.raises(PipelineError, match="only its forwards: call `eval`"):
        trained(forwards, *batch(spec_of(plan)))


def test_keywords_that_the_executor_does_not_know_are_refused() -> None:
    plan = plan_of(ordered(linear(1, 2), one_f_one_b))

    def rank(transport: Local) -> None:
        Executor(plan, [Layer(0)], loss, transport=transport, time_out=1)  # type: ignore[call-arg]

    with pytest.raises(TypeError, match="unexpected keyword argument: time_out"):
        run_local(plan, rank)


def test_the_former_name_of_the_error_catches_it() -> None:
    assert Stopped is PipelineError
