"""Micro-batches of a step like the one before are those that cutting anew gives."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.pipelining.microbatch import TensorChunkSpec

from stretto.runtime import Executor, run_local
from stretto.runtime.given import StepArguments
from stretto.runtime.microbatches import microbatches
from stretto.runtime.transport.local import Local
from tests.support.training import ROWS, WIDTH, built, compiled, loss, spec_of

COUNT = 8
Given = tuple[StepArguments, StepArguments]


def same(a: Any, b: Any) -> bool:
    """Tensors that are the same part of the same memory; anything else is equal."""
    if isinstance(a, Tensor):
        return (
            a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride()
        ) and a.dtype == b.dtype
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def given(x: Any = None, target: Any = None, **more: Any) -> StepArguments:
    return StepArguments(() if x is None else (x,), target=target, **more)


def numbers(*shape: int) -> Tensor:
    return torch.randn(shape)


ROWS_IN_ALL = COUNT * ROWS


@pytest.mark.parametrize("scale", [True, False], ids=["mean", "sum"])
@pytest.mark.parametrize("ragged", [False, True], ids=["equal", "ragged"])
@pytest.mark.parametrize("name", ["one_f_one_b", "dualpipe", "zb_v"])
def test_a_step_like_the_one_before_is_cut_as_anew(name: str, ragged: bool, scale: bool) -> None:
    plan, rows = compiled(name, ranks=2, microbatches=COUNT), ROWS_IN_ALL + 3 * ragged
    x, target = numbers(2, rows, WIDTH)
    longer = torch.cat([x, x])[: -3 if ragged else None]
    steps = [
        (given(x, target), False),
        (given(target, x), True),
        (given(longer, longer), False),
        (given(longer, longer), True),
        (given(x.double(), target), False),
        (given(x, target), False),
        (given(x.clone(), target.clone()), True),
        (given(x, target, weight_total=3.0), False),
        (given(x, target, loss_kwargs={"a": 1}), False),
        (given(x, target, kwargs={"a": 1}), False),
        (given((x,), target), False),
        (given(x, target), False),
    ]

    def rank(transport: Local) -> None:
        modules = built(spec_of(plan), transport.rank)
        executor = Executor(
            plan, modules, loss, transport=transport, ragged=ragged, scale_loss=scale
        )
        for step, again in steps:
            if not scale and step.weight_total is not None:
                continue
            found = executor.recut.again("train", step)
            anew = microbatches(executor.plan, executor.stages, "train", step, executor.batching)
            assert (found is not None) == again
            if found is not None:
                assert same(found.of, anew)
            executor.recut.learn("train", step, anew)
            assert executor.recut.again("eval", step) is None
        executor.close()

    run_local(plan, rank)


@pytest.mark.parametrize(
    "options",
    [
        {"args_chunk_spec": (TensorChunkSpec(1),)},
        {"target_chunk_spec": TensorChunkSpec(1)},
        {"scale_loss": lambda target: target.abs().sum()},
    ],
    ids=["args", "target", "weights"],
)
def test_what_is_cut_or_counted_otherwise_is_cut_anew(options: dict[str, Any]) -> None:
    plan, square = compiled("one_f_one_b", ranks=2, microbatches=COUNT), numbers(COUNT, COUNT)

    def rank(transport: Local) -> None:
        modules = built(spec_of(plan), transport.rank)
        executor = Executor(plan, modules, loss, transport=transport, **options)
        step = given(square, square)
        anew = microbatches(executor.plan, executor.stages, "train", step, executor.batching)
        executor.recut.learn("train", step, anew)
        assert executor.recut.again("train", step) is None
        nothing = given()
        executor.recut.learn("train", nothing, {})
        found = executor.recut.again("train", nothing)
        assert found is not None and found.alike and not found.of
        executor.close()

    run_local(plan, rank)


def test_no_batch_is_kept() -> None:
    plan = compiled("one_f_one_b", ranks=2, microbatches=COUNT)

    def rank(transport: Local) -> None:
        executor = Executor(plan, built(spec_of(plan), transport.rank), loss, transport=transport)
        x = numbers(ROWS_IN_ALL, WIDTH)
        step = given(x, x)
        anew = microbatches(executor.plan, executor.stages, "train", step, executor.batching)
        executor.recut.learn("train", step, anew)
        (_, known), *_ = executor.recut.last.values()
        assert anew and not any(own.rest.x or own.rest.target for own in known.values())
        executor.close()

    run_local(plan, rank)
