"""`KINDS` of stages: modules that recompute, pack, hook, compile or add by themselves; and
whether two of their tensors are the same."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    checkpoint_sequential,
    create_selective_checkpoint_contexts,
)

from tests.support.training import WIDTH


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


def same(a: Tensor | None, b: Tensor | None) -> bool:
    """Bit for bit, or absent both."""
    if a is None or b is None:
        return a is b
    a, b = (t.to_dense() if t.is_sparse else t for t in (a, b))
    return torch.equal(a, b)
