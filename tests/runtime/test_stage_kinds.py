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
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    checkpoint_sequential,
    create_selective_checkpoint_contexts,
)

from stretto.runtime import Executor, PipelineError
from stretto.runtime.stage.private import writable
from stretto.runtime.stage.split_backward import input_gradient, weight_gradient, whole
from tests.support.specs import linear, one_f_one_b, ordered, zb_h1
from tests.support.steps import executors
from tests.support.training import WIDTH, batch, plan_of, spec_of
from tests.support.verified import verified

COMPILES = pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None,
    reason="torch.compile needs a C++ compiler",
)


class Calls(nn.Module):
    """A module of a function: `run(module, x)`."""

    def __init__(self, run: Callable[[Any, Tensor], Any], *parts: nn.Module):
        super().__init__()
        self.run, self.parts = run, nn.ModuleList(parts)
        self.weight = nn.Parameter(torch.randn(WIDTH, WIDTH) / 3)
        self.count = 0

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)


def layers(dropout: float = 0.0) -> nn.Module:
    return nn.Sequential(
        nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.Dropout(dropout), nn.Linear(WIDTH, WIDTH)
    )


def again(reentrant: bool, dropout: float = 0.0) -> Callable[[], nn.Module]:
    def run(own: Any, x: Tensor) -> Any:
        return own.parts[1](checkpoint(own.parts[0], x, use_reentrant=reentrant)) @ own.weight

    return lambda: Calls(run, layers(dropout), layers())


def selective() -> nn.Module:
    def policy(_: Any, operation: Any, *args: Any, **more: Any) -> CheckpointPolicy:
        keep = operation == torch.ops.aten.addmm.default
        return CheckpointPolicy.MUST_SAVE if keep else CheckpointPolicy.PREFER_RECOMPUTE

    def run(own: Any, x: Tensor) -> Any:
        return checkpoint(
            own.parts[0],
            x,
            use_reentrant=False,
            context_fn=lambda: create_selective_checkpoint_contexts(policy),
        )

    return Calls(run, layers())


def sequential(reentrant: bool) -> Callable[[], nn.Module]:
    def run(own: Any, x: Tensor) -> Any:
        return checkpoint_sequential(own.parts, 2, x, use_reentrant=reentrant)

    return lambda: Calls(run, layers(), layers(), layers())


def offloaded() -> nn.Module:
    def run(own: Any, x: Tensor) -> Any:
        with torch.autograd.graph.save_on_cpu():
            return own.parts[0](x)

    return Calls(run, layers())


def unpacked_once() -> nn.Module:
    """As offloading does that prefetches: what was given back is gone."""

    def run(own: Any, x: Tensor) -> Any:
        kept: dict[int, Tensor] = {}

        def pack(tensor: Tensor) -> int:
            kept[len(kept)] = tensor
            return len(kept) - 1

        with torch.autograd.graph.saved_tensors_hooks(pack, kept.pop):
            return own.parts[0](x)

    return Calls(run, layers())


class Once(torch.autograd.Function):
    """Changes its context, and cannot run again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.kept = x.detach(), weight.detach()
        return x @ weight

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight = ctx.kept
        del ctx.kept
        return gradient @ weight.t(), x.t() @ gradient


class Dirty(torch.autograd.Function):
    """Writes on its input, returns it, and saves it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        x.mul_(weight)
        ctx.mark_dirty(x)
        ctx.save_for_backward(x, weight)
        return x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        y, weight = ctx.saved_tensors
        return gradients[0] * weight, (gradients[0] * y / weight).sum(0)


class AlsoOutput(torch.autograd.Function):
    """Saves an input that is one of its outputs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Any:
        ctx.save_for_backward(x, weight)
        return x, x * weight

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        return gradients[0] + gradients[1] * weight, (gradients[1] * x).sum(0)


def counted(own: Any, *_: Any) -> Any:
    """Nothing: a hook that returns it changes nothing."""
    own.count += 1


def hooked(register: Callable[[Any], Any]) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        made = Calls(lambda own, x: own.parts[0](x), layers())
        register(made)
        return made

    return make


def bias_and_scale(made: Any) -> None:
    """Of leaves at which the graph is cut directly."""
    for name in ("parts.0.0.weight", "parts.0.1.bias", "parts.0.1.weight"):
        made.get_parameter(name).register_hook(lambda g: counted(made) or g * 3)


def after_accumulation(made: Any) -> None:
    for parameter in made.parts.parameters():
        parameter.register_post_accumulate_grad_hook(lambda _: counted(made))


def of_several(made: Any) -> None:
    torch.autograd.graph.register_multi_grad_hook(
        tuple(made.parts.parameters()), lambda _: counted(made)
    )


def of_modules(made: Any) -> None:
    def hook(_: Any, given: Any, above: Any) -> Any:
        counted(made)
        return tuple(None if g is None else g * 2 for g in given)

    for part in made.parts[0]:
        part.register_full_backward_hook(hook)


def norm(which: Any) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(which(nn.Linear(WIDTH, WIDTH)), nn.Tanh())


def recurrent() -> nn.Module:
    return Calls(
        lambda own, x: own.parts[0](x[:, None].expand(-1, 3, -1))[0][:, -1],
        nn.LSTM(WIDTH, WIDTH, 2, batch_first=True),
    )


def sparse() -> nn.Module:
    return Calls(
        lambda own, x: x + own.parts[0](torch.arange(len(x))), nn.Embedding(9, WIDTH, sparse=True)
    )


def complex_weight() -> nn.Module:
    made = Calls(lambda own, x: torch.fft.fft(x.to(torch.complex64)) @ own.turn)
    made.turn = nn.Parameter(torch.randn(WIDTH, 3, dtype=torch.complex64))
    return made


def mixed() -> nn.Module:
    def run(own: Any, x: Tensor) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return own.parts[0](own.parts[0](x)).float()

    return Calls(run, layers())


def partly_without() -> nn.Module:
    def run(own: Any, x: Tensor) -> Any:
        with torch.no_grad():
            scale = own.parts[1](x)
        return own.parts[0](x) * scale

    return Calls(run, layers(), layers())


def writes() -> nn.Module:
    def run(own: Any, x: Tensor) -> Any:
        y = own.parts[0](x) + 0
        y[:, 0] = own.weight[0, 0]
        y[1:].mul_(own.weight[1])
        return own.parts[0](y)

    return Calls(run, layers())


def compiled_region(backend: str) -> Callable[[], nn.Module]:
    """Between layers that are not compiled; donated buffers, where the backend has them."""

    def make() -> nn.Module:
        torch._dynamo.reset()
        region = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH))
        region.compile(backend=backend)
        return Calls(
            lambda own, x: own.parts[2](own.parts[1](own.parts[0](x))), layers(), region, layers()
        )

    return make


KINDS: dict[str, Callable[[], nn.Module]] = {
    "checkpoint": again(False),
    "checkpoint-dropout": again(False, 0.5),
    "reentrant": again(True),
    "reentrant-dropout": again(True, 0.5),
    "selective": selective,
    "sequential": sequential(False),
    "sequential-reentrant": sequential(True),
    "offloaded": offloaded,
    "unpacked-once": unpacked_once,
    "once-differentiable": lambda: Calls(
        lambda own, x: Once.apply(own.parts[0](x), own.weight), layers()
    ),
    "marks-dirty": lambda: Calls(
        lambda own, x: own.parts[0](Dirty.apply(x, own.weight[0])), layers()
    ),
    "input-is-output": lambda: Calls(
        lambda own, x: sum(AlsoOutput.apply(own.parts[0](x), own.weight[0])), layers()
    ),
    "hooks-of-parameters": hooked(bias_and_scale),
    "hooks-after-accumulation": hooked(after_accumulation),
    "hooks-of-several": hooked(of_several),
    "hooks-of-modules": hooked(of_modules),
    "weight-norm": norm(nn.utils.parametrizations.weight_norm),
    "spectral-norm": norm(nn.utils.parametrizations.spectral_norm),
    "batch-norm": lambda: nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH)),
    "recurrent": recurrent,
    "sparse": sparse,
    "complex": complex_weight,
    "autocast": mixed,
    "no-grad-inside": partly_without,
    "in-place": writes,
    "compiled-eager": compiled_region("aot_eager"),
}  # fmt: skip


def steps(make: Callable[[], nn.Module], halves: bool, learns: bool) -> Any:
    """Three micro-batches, all forwards first: outputs, gradients of inputs and of weights, calls
    of hooks; and whether I has changed a `.grad`."""
    torch.manual_seed(3)
    module = make()
    torch.manual_seed(4)
    leaves = [torch.randn(4, WIDTH, generator=_draw(k)).requires_grad_(learns) for k in range(3)]
    outputs = [module(writable(leaf)) for leaf in leaves]
    above = [torch.randn(o.shape, dtype=o.dtype, generator=_draw(9)) for o in outputs]
    found, early = [], False
    if halves:
        deferred = []
        for leaf, output, g in zip(leaves, outputs, above, strict=True):
            given, left = input_gradient([output], (g,), [leaf] if learns else [])
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


def same(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None:
        return a is b
    a, b = (t.to_dense() if t.is_sparse else t for t in (a, b))
    return torch.equal(a, b)


@pytest.mark.parametrize("learns", [True, False], ids=["middle", "first"])
@pytest.mark.parametrize("name", KINDS)
def test_two_halves_are_one_whole(name: str, learns: bool) -> None:
    expected, calls, _ = steps(KINDS[name], False, learns)
    found, again_, early = steps(KINDS[name], True, learns)
    assert all(same(a, b) for a, b in zip(found, expected, strict=True))
    assert again_ == calls
    assert early == ("reentrant" in name and learns), "`.grad` changes in W alone"


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
