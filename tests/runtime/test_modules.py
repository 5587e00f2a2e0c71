"""What a stage's module may do, take and hand on."""

from typing import Any

import torch
from torch import Tensor, nn

from stretto.runtime import Executor
from tests.support.specs import (
    gpipe,
    linear,
    one_f_one_b,
    ordered,
    zb_h1,
)
from tests.support.steps import executors
from tests.support.training import (
    WIDTH,
    Layer,
    batch,
    loss,
    plan_of,
    spec_of,
    there,
    trained,
)


def test_batches_may_be_tuples_and_dicts() -> None:
    class First(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(WIDTH, WIDTH)

        def forward(self, a: Tensor, b: Tensor, *, c: Tensor | None = None) -> Tensor:
            return self.layer(a + 2 * b + (0 if c is None else c))

    def make(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return First() if seed == 0 else nn.Linear(WIDTH, WIDTH)

    def judge(output: Tensor, target: Any) -> Tensor:
        return (output * target["weight"] - target["pair"][0]).square().sum()

    spec = ordered(linear(2, 2), gpipe)
    draw = torch.Generator().manual_seed(0)
    a, b, c, w, y = (torch.randn(4, WIDTH, generator=draw) for _ in range(5))
    target = {"weight": w, "pair": (y, y)}
    for x in ((a, b), {"a": a, "b": b, "c": c}):
        found = trained(plan_of(spec), x, target, make, loss_fn=judge)
        first, last = make(0), make(1)
        output = last(first(*x)) if isinstance(x, tuple) else last(first(**x))
        assert torch.allclose(found.outputs[1], output)
        (judge(output, target) / 2).backward()
        for ours, theirs in zip(found.gradients("main", 0), first.parameters(), strict=True):
            assert torch.allclose(there(ours), there(theirs.grad), atol=1e-5)


def test_an_edge_may_have_several_tensors_some_without_gradient() -> None:
    class Wide(nn.Module):
        """Hands on a state, a mask of whole numbers, an unused copy and a number."""

        def __init__(self, seed: int):
            super().__init__()
            self.layer = Layer(seed)

        def forward(self, x: Tensor, mask: Tensor | None = None, *rest: Tensor) -> Any:
            if mask is None:
                mask = (torch.arange(x.shape[0]) % 2)[:, None]
            y = self.layer(x) * mask
            return y, mask, y.detach() + 1, y.mean(), x.view(-1)

    def judge(output: Any, target: Tensor) -> Tensor:
        return loss(output[0], target) + output[3]

    spec = ordered(linear(3, 3), zb_h1)
    x, target = batch(spec)
    found = trained(plan_of(spec), x, target, Wide, loss_fn=judge)
    modules = [Wide(s) for s in range(3)]
    for part, wanted in zip(x.chunk(3), target.chunk(3), strict=True):
        output: Any = (part,)
        for module in modules:
            output = module(*output)
        (judge(output, wanted) / 3).backward()
    for s, module in enumerate(modules):
        for ours, theirs in zip(found.gradients("main", s), module.parameters(), strict=True):
            assert torch.equal(there(ours), there(theirs.grad))
    assert found.outputs[2][1].dtype == torch.int64


def test_agreeing_on_shapes_leaves_modules_as_they_were() -> None:
    class Counting(nn.Module):
        def __init__(self, seed: int):
            super().__init__()
            self.layer, self.norm = Layer(seed), nn.BatchNorm1d(WIDTH)
            self.cache: Tensor | None = None
            self.calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            if self.cache is None:
                self.cache = torch.ones(WIDTH)
            return self.norm(self.layer(x)) * self.cache

    class Stubborn(Counting):
        """Cannot be walked without contents."""

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x * (2 if x.sum().item() > 0 else 1) + torch.rand(1) * 0)

    spec = ordered(linear(2, 3), one_f_one_b)
    x, target = batch(spec)
    for kind in (Counting, Stubborn):
        torch.manual_seed(0)
        modules = trained(plan_of(spec), x, target, kind).modules
        for module in (modules[0]["main", 0], modules[1]["main", 1]):
            assert isinstance(module, kind)
            assert module.norm.num_batches_tracked == 3 and module.calls == 3
            assert type(module.cache) is Tensor


def test_a_layer_with_two_names_keeps_its_parameters() -> None:
    class Twice(nn.Module):
        def __init__(self, seed: int):
            super().__init__()
            self.layer = self.same = Layer(seed)

        def forward(self, x: Tensor) -> Tensor:
            return self.same(x)

    plan = plan_of(ordered(linear(2, 3), one_f_one_b))
    x, target = batch(spec_of(plan))
    twice, once = trained(plan, x, target, Twice), trained(plan, x, target)
    for (_, stage), module in twice.modules[1].items():
        assert isinstance(module, Twice)
        assert all(type(p) is nn.Parameter for p in module.same.parameters())
        pairs = zip(twice.gradients("main", stage), once.gradients("main", stage), strict=True)
        assert all(torch.equal(there(a), there(b)) for a, b in pairs)


def test_new_shapes_are_agreed_on_anew() -> None:
    spec = ordered(linear(3, 2), one_f_one_b)
    x, target = batch(spec)

    def body(executor: Executor) -> list[Any]:
        """Only the ends are given the batch."""
        found = []
        for rows in (4, 8, 4, 2, 8):
            many = x.repeat(2, 1)[:rows] if executor.rank == 0 else None
            wanted = target.repeat(2, 1)[:rows] if executor.rank == 2 else None
            found.append(executor.step(many, target=wanted))
        assert len(executor.preparation.edges.seen) == 3
        return found

    outputs = executors(plan_of(spec), body)[2]
    expected = nn.Sequential(*(Layer(s) for s in range(3)))(x.repeat(2, 1))
    for rows, output in zip((4, 8, 4, 2, 8), outputs, strict=True):
        assert torch.allclose(output, expected[:rows], atol=1e-6)
