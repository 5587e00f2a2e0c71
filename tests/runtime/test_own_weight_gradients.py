"""Stages that defer their weights' gradients themselves: with a store, as DualPipe's users write
it, or with torch's `dw_builder`."""

from collections.abc import Callable
from random import Random
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import Variable

from stretto.runtime import Executor, PipelineError, run_local
from stretto.runtime.transport.local import Local
from tests.support.specs import linear, one_f_one_b, ordered, random_order, vee, zb_h1
from tests.support.training import WIDTH, batch, built, compiled, loss, plan_of, there
from tests.support.verified import verified


class WeightGradStore:
    """As the package `dualpipe` has it, as far as stages use it."""

    enabled = False
    cache: ClassVar[list[Callable[[], None]]] = []

    @classmethod
    def put(cls, function: Callable[[], None]) -> None:
        cls.cache.append(function)


class Product(torch.autograd.Function):
    """Adds the gradient of its weight to `.grad` itself, or puts that off."""

    deferred = 0

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x @ weight.t()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)

        def add() -> None:
            weight.grad += gradient.t() @ x

        if WeightGradStore.enabled:
            Product.deferred += 1
            WeightGradStore.put(add)
        else:
            add()
        return gradient @ weight, None


class Stage(nn.Module):
    """DualPipe's calling convention: arguments one by one, tuples where C++ reads them."""

    calls = 0

    def __init__(self, seed: int):
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.up, self.down = (
            nn.Parameter(torch.randn(size, generator=draw) / 3)
            for size in ((2 * WIDTH, WIDTH), (WIDTH, 2 * WIDTH))
        )
        self.scale = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        hidden = Product.apply(x, self.up)
        return self.scale * x + Product.apply(torch.tanh(hidden), self.down)

    @classmethod
    def overlapped_forward_backward(
        cls,
        module0: nn.Module,
        inputs0: list[Tensor],
        criterion0: Any,
        labels0: Any,
        module1: nn.Module,
        loss1: Tensor | None,
        outputs1: Any,
        output_grads1: Any,
    ) -> tuple[Any, Tensor | None]:
        Stage.calls += 1
        assert isinstance(inputs0, list) and isinstance(labels0, tuple | list)
        outputs0 = module0(*inputs0)
        outputs0 = [outputs0] if isinstance(outputs0, Tensor) else outputs0
        loss0 = None if criterion0 is None else criterion0(*outputs0, *labels0)
        if loss1 is not None:
            loss1.backward()
            loss1.detach_()
        else:
            engine: Any = Variable._execution_engine
            engine.run_backward(
                outputs1,
                output_grads1,
                keep_graph=False,
                create_graph=False,
                allow_unreachable=True,
                accumulate_grad=True,
            )
        return outputs0, loss0


def weights_left(plan: Any) -> int:
    return sum(
        getattr(i, "operation", (" ",))[0] == "W"
        for rank in plan.programs["train"].ranks
        for i in rank
    )


@pytest.mark.parametrize("name", ["dualpipe", "dualpipe_v"])
def test_dualpipes_way_to_call_and_its_store(name: str) -> None:
    sizes = (
        {"ranks": 4, "microbatches": 10} if name == "dualpipe" else {"ranks": 2, "microbatches": 6}
    )
    plan = compiled(name, **sizes)
    Stage.calls = Product.deferred = 0
    verdict = verified(plan, Stage)
    assert verdict.equal, str(verdict)
    assert Stage.calls > 0 and Product.deferred > 0 and weights_left(plan) > 0
    assert not WeightGradStore.cache and not WeightGradStore.enabled


def test_what_i_leaves_in_the_store_is_run_by_w() -> None:
    """`.grad` changes in W alone, also where W runs in another order than I."""
    plan = plan_of(ordered(linear(2, 4), zb_h1))
    verdict = verified(plan, Stage)
    assert verdict.equal, str(verdict)


def test_a_plan_without_w_does_not_defer() -> None:
    Product.deferred = 0
    assert verified(plan_of(ordered(linear(3, 3), one_f_one_b)), Stage).equal
    assert Product.deferred == 0


class Deferring(nn.Module):
    """Leaves its weight's gradient to functions of its own, one for each backward."""

    def __init__(self, seed: int):
        super().__init__()
        self.inner, self.left = Stage(seed), list[Callable[[], None]]()
        self.built = self.run = 0

    def forward(self, x: Tensor) -> Tensor:
        before, WeightGradStore.enabled = WeightGradStore.enabled, False
        try:
            return Later.apply(x, self.inner.up, self) * self.inner.scale
        finally:
            WeightGradStore.enabled = before

    def dw_builder(self) -> Callable[[], None]:
        left, self.left = self.left, []
        self.built += 1

        def run() -> None:
            self.run += 1
            for function in left:
                function()

        return run


class Later(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, owner: Deferring) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.owner = owner
        return (x @ weight.t())[:, :WIDTH]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        x, weight = ctx.saved_tensors
        gradient = nn.functional.pad(gradients[0], (0, WIDTH))

        def add() -> None:
            more = gradient.t() @ x
            weight.grad = more if weight.grad is None else weight.grad + more

        ctx.owner.left.append(add)
        return gradient @ weight, None, None


class PipelineStage:
    """What is used of torch's."""

    def __init__(self, submod: nn.Module, stage_index: int, dw_builder: Any = None):
        self.submod, self.stage_index, self.dw_builder = submod, stage_index, dw_builder


class WithoutMethod(nn.Module):
    """The same module, but that its builder is no method of its own."""

    def __init__(self, seed: int):
        super().__init__()
        self.body = Deferring(seed)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


@pytest.mark.parametrize(
    "plan", [vee(2, 3, split=True), linear(2, 3, split=True)], ids=["vee", "linear"]
)
@pytest.mark.parametrize("given", ["method", "stage"])
def test_a_dw_builder_is_run_as_torch_runs_it(plan: Any, given: str) -> None:
    made: list[Deferring] = []
    spec = random_order(plan, Random(1))

    def as_stages(own: dict[Any, nn.Module]) -> Any:
        bodies = [m.body if isinstance(m, WithoutMethod) else m for m in own.values()]
        made.extend(b for b in bodies if isinstance(b, Deferring))
        if given == "method":
            return own
        return [
            PipelineStage(m, s, m.body.dw_builder)
            for (_, s), m in own.items()
            if isinstance(m, WithoutMethod)
        ]

    x, target = batch(spec)
    make: Any = Deferring if given == "method" else WithoutMethod

    def rank(transport: Local) -> Any:
        own = built(spec, transport.rank, make)
        executor = Executor(
            plan_of(spec), as_stages(dict(own)), loss, transport=transport, timeout=20
        )
        executor.step(x, target=target)
        executor.close()
        return own

    found = run_local(plan_of(spec), rank)
    reference = [make(s) for s in range(len(spec.pipelines[0].stages))]
    for part, wanted in zip(x.chunk(3), target.chunk(3), strict=True):
        output = part
        for module in reference:
            output = module(output)
        (loss(output, wanted) / 3).backward()
        for module in reference:
            (module.body if given == "stage" else module).dw_builder()()
    for own in found:
        for (_, s), module in own.items():
            for ours, theirs in zip(module.parameters(), reference[s].parameters(), strict=True):
                assert (ours.grad is None) == (theirs.grad is None)
                assert ours.grad is None or torch.allclose(ours.grad, there(theirs.grad), atol=1e-7)
    assert all(body.built == body.run == 3 for body in made)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("dw_builder", 3, "dw_builder of Stage is a int: it is a function"),
        ("weight_grad_store", object(), "weight_grad_store of Stage is no store"),
    ],
)
def test_what_is_no_way_to_defer_is_refused(name: str, value: Any, words: str) -> None:
    def make(seed: int) -> nn.Module:
        module = Stage(seed)
        setattr(module, name, value)
        return module

    with pytest.raises(PipelineError, match=words):
        verified(plan_of(ordered(linear(2, 2), zb_h1)), make)
