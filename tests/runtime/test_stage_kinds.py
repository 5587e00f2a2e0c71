"""Kinds of modules under a whole backward and under one in two halves: what recomputes, packs,
hooks, compiles or adds by itself, and what a stage may hand on. Expected is what autograd does in
one piece, and what one process does."""

import contextlib
import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stretto.runtime import Executor, PipelineError
from stretto.runtime.stage.cut_plans import CutPlans
from stretto.runtime.stage.hooks import hooks_made
from stretto.runtime.stage.private import writable
from stretto.runtime.stage.split_backward import input_gradient, weight_gradient, whole
from tests.support.specs import linear, one_f_one_b, ordered, zb_h1
from tests.support.stage_kinds import KINDS, Calls, again, layers, offloaded, same
from tests.support.steps import executors
from tests.support.training import WIDTH, batch, plan_of, spec_of
from tests.support.verified import verified

WITHOUT_PLAN = {
    *("checkpoint", "checkpoint-dropout", "selective", "sequential", "offloaded", "unpacked-once"),
    *("once-differentiable", "marks-dirty", "input-is-output", "hooks-of-modules"),
}
"""What saves by hooks, ends a graph in a function of its own, or makes hooks in its forward; and
reentrant checkpoints, where they run."""

COMPILES = pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None,
    reason="torch.compile needs a C++ compiler",
)


def steps(
    make: Callable[[], nn.Module], halves: bool, learns: bool, plans: CutPlans | None = None
) -> Any:
    """Three micro-batches, all forwards first: outputs, gradients of inputs and of weights, calls
    of hooks; and whether I has changed a `.grad`."""
    torch.manual_seed(3)
    module = make()
    torch.manual_seed(4)
    leaves = [torch.randn(4, WIDTH, generator=_draw(k)).requires_grad_(learns) for k in range(3)]
    hooks = None if plans is None else hooks_made()
    outputs = [module(writable(leaf)) for leaf in leaves]
    above = [torch.randn(o.shape, dtype=o.dtype, generator=_draw(9)) for o in outputs]
    found, early = [], False
    if halves:
        deferred = []
        for leaf, output, g in zip(leaves, outputs, above, strict=True):
            ends = [leaf] if learns else []
            given, left = input_gradient([output], (g,), ends, hooks, plans)
            found.append(given)
            deferred.append(left)
        early = any(p.grad is not None for p in module.parameters())
        for left in deferred:
            weight_gradient(left)
    else:
        for leaf, output, g in zip(leaves, outputs, above, strict=True):
            found.append(whole([output], (g,), [leaf] if learns else []))
    weights = [p.grad for p in module.parameters()]
    made = [*outputs, *(g for given in found for g in given), *weights]
    return made, getattr(module, "count", 0), early


def _draw(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("learns", [True, False], ids=["middle", "first"])
@pytest.mark.parametrize("name", KINDS)
def test_two_halves_are_one_whole(name: str, learns: bool) -> None:
    expected, calls, _ = steps(KINDS[name], False, learns)
    plans = CutPlans()
    for planned in (None, plans, plans):  # the last one finds all plans made
        found, again_, early = steps(KINDS[name], True, learns, planned)
        assert all(same(a, b) for a, b in zip(found, expected, strict=True))
        assert again_ == calls
        assert early == ("reentrant" in name and learns), "`.grad` changes in W alone"
    without = name in WITHOUT_PLAN or ("reentrant" in name and learns)
    assert bool(plans.known) != without, "whether its graphs are cut by plans"


@COMPILES
def test_compiled_stages_in_any_order_of_halves_and_wholes() -> None:
    """One module, compiled once, as a whole: B, I and W, an evaluation, a forward without its
    backward, B again."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH))
    module = torch.compile(plain, backend="inductor")
    x, above = torch.randn(4, WIDTH), torch.randn(4, WIDTH)

    def gradients(run: Callable[[Tensor, Tensor], Any], through: Any = module) -> list[Tensor]:
        leaf = x.clone().requires_grad_()
        plain.zero_grad()
        run(leaf, through(writable(leaf)))
        assert torch.equal(leaf.detach(), x)
        return [p.grad for p in plain.parameters() if p.grad is not None]

    def one_piece(leaf: Tensor, output: Tensor) -> None:
        whole([output], (above,), [leaf])

    def halves(leaf: Tensor, output: Tensor) -> None:
        _, left = input_gradient([output], (above,), [leaf])
        assert plain[0].weight.grad is None
        weight_gradient(left)

    expected = gradients(one_piece, plain)
    first = gradients(one_piece)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(first, expected, strict=True))
    for run in (halves, one_piece, halves, halves):
        with torch.no_grad():
            module(x)
        module(writable(x.clone().requires_grad_()))  # a step that failed
        found = gradients(run)
        assert len(found) == 4
        assert all(torch.equal(a, b) for a, b in zip(found, first, strict=True))


@COMPILES
@pytest.mark.parametrize("order", [one_f_one_b, zb_h1])
def test_compiled_stages_in_a_pipeline(order: Any) -> None:
    def make(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        module = nn.Sequential(
            nn.ReLU(inplace=True), nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH)
        )
        if seed == 1:
            module.compile(backend="inductor")
        return module

    torch._dynamo.reset()
    verdict = verified(plan_of(ordered(linear(2, 3), order)), make)
    assert verdict.equal, str(verdict)


def total(output: Any, target: Tensor) -> Tensor:
    """A loss of anything."""
    parts = output if isinstance(output, tuple) else (output,)
    found = sum((torch.view_as_real(t) if t.is_complex() else t).float().sum() for t in parts)
    return (found - target.sum()).square() / 100


def buffer_too() -> nn.Module:
    made = Calls(lambda own, x: (own.kept, own.parts[0](x)), layers())
    made.register_buffer("kept", torch.randn(3))
    return made


def inside(own: Any, x: Tensor) -> Any:
    return own.parts[0](x)


HANDED_ON: dict[str, Callable[[], nn.Module]] = {
    "its-input": lambda: Calls(lambda own, x: (x, inside(own, x)), layers()),
    "a-view-of-it": lambda: Calls(lambda own, x: (x[:, 2:], inside(own, x)), layers()),
    "one-twice": lambda: Calls(lambda own, x: (inside(own, x),) * 2, layers()),
    "a-parameter": lambda: Calls(lambda own, x: (own.weight, inside(own, x)), layers()),
    "a-buffer": buffer_too,
    "expanded": lambda: Calls(lambda own, x: inside(own, x)[:, :1].expand(-1, 3), layers()),
    "whole-numbers": lambda: Calls(
        lambda own, x: (inside(own, x), (x * 9).long(), x > 0, torch.tensor(3)), layers()
    ),
    "a-number": lambda: Calls(lambda own, x: inside(own, x).sum(), layers()),
    "nothing": lambda: Calls(lambda own, x: (inside(own, x)[:0], inside(own, x)), layers()),
    "conjugated": lambda: Calls(
        lambda own, x: torch.view_as_complex(inside(own, x).view(-1, 2)).conj(), layers()
    ),
    "negated": lambda: Calls(
        lambda own, x: torch.view_as_complex(inside(own, x).view(-1, 2)).conj().imag, layers()
    ),
    "other-types": lambda: Calls(lambda own, x: (inside(own, x).bfloat16(), x.double()), layers()),
    "detached-too": lambda: Calls(lambda own, x: (inside(own, x), x.detach() * 2), layers()),
    "frozen": lambda: layers().requires_grad_(False),
    "written-on": lambda: Calls(lambda own, x: _written(inside(own, x) * 1), layers()),
    "reentrant": again(True),
    "offloaded": offloaded,
}  # fmt: skip


def _written(a: Tensor) -> Any:
    b = a.view(-1)
    b.mul_(2)
    return a, b


@pytest.mark.parametrize("order", [one_f_one_b, zb_h1])
@pytest.mark.parametrize("name", HANDED_ON)
def test_what_a_stage_in_the_middle_may_hand_on(name: str, order: Any) -> None:
    class Last(nn.Module):
        """Scales whatever it is given."""

        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, *given: Tensor) -> Any:
            return tuple(self.scale.to(t.dtype) * t if t.requires_grad else t for t in given)

    def make(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return (layers, HANDED_ON[name], Last)[seed]()

    draw = torch.Generator().manual_seed(1)
    given = torch.randn(6, WIDTH, generator=draw), torch.randn(6, 1, generator=draw)
    verdict = verified(plan_of(ordered(linear(3, 3), order)), make, given, total)
    assert not verdict.unequal_losses
    for stage in verdict.stages:  # what has three uses in a stage is added in any order
        assert stage.greatest <= 1e-5, str(verdict)


@pytest.mark.parametrize("order", [one_f_one_b, zb_h1])
@pytest.mark.parametrize(
    "around",
    [
        torch.no_grad,
        torch.autograd.graph.save_on_cpu,
        lambda: torch.autograd.graph.disable_saved_tensors_hooks("not here"),
    ],
    ids=["no-grad", "save-on-cpu", "without-hooks"],
)
def test_what_may_be_around_a_step(around: Callable[[], Any], order: Any) -> None:
    plan = plan_of(ordered(linear(2, 3), order))
    x, target = batch(spec_of(plan))

    def body(executor: Executor, around: Callable[[], Any] = contextlib.nullcontext) -> Any:
        with around():
            executor.step(x, target=target)
        return [p.grad for p in executor.parameters()]

    found = executors(plan, lambda executor: body(executor, around))
    for ours, theirs in zip(found, executors(plan, body), strict=True):
        assert ours and all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_nothing_is_learned_in_inference_mode() -> None:
    plan = plan_of(ordered(linear(2, 3), zb_h1))
    x, target = batch(spec_of(plan))

    def body(executor: Executor) -> None:
        with torch.inference_mode():
            executor.eval(x)
            executor.step(x, target=target)

    with pytest.raises(PipelineError, match="nothing can be learned under"):
        executors(plan, body)
