"""The weights' side of a backward in halves, against autograd's own in one piece: the gradients of
inputs and weights are the same to the last bit, whichever way what arrives is noted, and whether
the nodes at which the graph is cut are called or run by the engine."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stretto.runtime.stage import cut_nodes, node_calls
from stretto.runtime.stage.hooks import hooks_made
from stretto.runtime.stage.split_backward import input_gradient, weight_gradient, whole

N = 6  # features
Make = Callable[[], nn.Module]


class Calls(nn.Module):
    """A module of a function, `run(module, x)`, with a weight, a vector and other modules."""

    def __init__(self, run: Callable[[Any, Tensor], Tensor], *parts: nn.Module):
        super().__init__()
        self.run, self.parts = run, nn.ModuleList(parts)
        self.weight = nn.Parameter(torch.randn(N, N) / 3)
        self.vector = nn.Parameter(torch.randn(N))

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def calls(run: Callable[[Any, Tensor], Tensor], *make: Make) -> Make:
    return lambda: Calls(run, *(one() for one in make))


def lower(run: Callable[[Any, Tensor], Tensor], *make: Make) -> Make:
    def cast(own: Any, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return run(own, x).float()

    return calls(cast, *make)


def without(make: Make, *names: str) -> Make:
    """With these parameters frozen."""

    def frozen() -> nn.Module:
        made = make()
        for name in names:
            made.get_parameter(name).requires_grad_(False)
        return made

    return frozen


def linear(**more: Any) -> Make:
    return lambda: nn.Linear(N, N, **more)


def layer_norm(**more: Any) -> Make:
    return lambda: nn.LayerNorm(N, **more)


def transposed_weight() -> nn.Module:
    """A weight whose strides are those of its transpose, and a bias with gaps."""
    made = nn.Linear(N, N)
    made.weight = nn.Parameter(torch.randn(N, N).t())
    made.bias = nn.Parameter(torch.randn(2 * N)[::2])
    return made


def tied() -> nn.Module:
    made = Calls(
        lambda own, x: own.parts[1](torch.tanh(own.parts[0](x))), *map(nn.Linear, (N, N), (N, N))
    )
    made.parts[1].weight = made.parts[0].weight
    return made


class Often(nn.Module):
    """Uses a weight so often that the order of the sum shows."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(N, N))

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(6):
            x = torch.tanh(x) @ self.weight
        return x


def convolution(dimensions: int, **more: Any) -> Make:
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions - 1]
    return lambda: kind(4, 6, 3, **more)


def back(dimensions: int, **more: Any) -> Make:
    kind = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[dimensions - 1]
    return lambda: kind(4, 6, 3, **more)


def chain(*make: Make) -> Make:
    return lambda: nn.Sequential(*(one() for one in make))


def rows(*size: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(*size, N)


def image(dimensions: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(2, 4, *[7] * dimensions)


def doubled() -> Tensor:
    return image(2)().double()


def words() -> Tensor:
    return torch.randint(0, 9, (3, 5))


def last_channels() -> nn.Module:
    made = nn.Conv2d(4, 6, 3)
    made.weight = nn.Parameter(made.weight.contiguous(memory_format=torch.channels_last))
    return made


def embedding(**more: Any) -> Make:
    return calls(lambda own, x: own.parts[0](x) @ own.weight, lambda: nn.Embedding(9, N, **more))


BLOCK = chain(
    layer_norm(),
    linear(),
    nn.GELU,
    lambda: nn.TransformerEncoderLayer(N, 2, 2 * N, dropout=0.0, batch_first=True),
)

NODES: dict[str, tuple[Make, Callable[[], Tensor]]] = {
    "linear": (linear(), rows(4)),
    "linear-3d": (linear(), rows(2, 3)),
    "linear-4d": (linear(), rows(2, 1, 3)),
    "linear-without-bias": (linear(bias=False), rows(2, 3)),
    "linear-transposed-input": (linear(), lambda: torch.randn(N, 4).t()),
    "linear-expanded-input": (linear(), lambda: torch.randn(1, N).expand(4, N)),
    "linear-with-gaps": (linear(), lambda: torch.randn(4, 2 * N)[:, ::2]),
    "linear-transposed-weight": (transposed_weight, rows(4)),
    "linear-frozen-weight": (without(linear(), "weight"), rows(4)),
    "linear-frozen-bias": (without(linear(), "bias"), rows(4)),
    "linear-double": (linear(dtype=torch.float64), lambda: torch.randn(4, N).double()),
    "linear-bfloat16": (linear(dtype=torch.bfloat16), lambda: torch.randn(4, N).bfloat16()),
    "linear-complex": (
        linear(dtype=torch.complex64),
        lambda: torch.randn(4, N, dtype=torch.complex64),
    ),
    "no-rows": (chain(linear(), nn.GELU, layer_norm(), linear()), rows(0)),
    "autocast": (
        lower(lambda own, x: own.parts[0](x) @ own.weight, chain(linear(), layer_norm())),
        rows(2, 4),
    ),
    "autocast-frozen": (
        without(lower(lambda own, x: own.parts[0](x), linear()), "parts.0.weight"),
        rows(4),
    ),
    "autocast-convolution": (lower(lambda own, x: own.parts[0](x), convolution(2)), image(2)),
    "used-twice": (
        calls(lambda own, x: own.parts[0](torch.tanh(own.parts[0](x))), linear()),
        rows(4),
    ),
    "used-twice-directly": (
        calls(lambda own, x: torch.tanh(x @ own.weight) @ own.weight * own.vector + own.vector),
        rows(4),
    ),
    "used-often": (Often, rows(4)),
    "used-both-ways": (
        calls(lambda own, x: F.linear(torch.tanh(x @ own.weight), own.weight)),
        rows(4),
    ),
    "squared": (calls(lambda own, x: x * own.vector * own.vector), rows(4)),
    "tied": (tied, rows(4)),
    "derived": (calls(lambda own, x: x @ (own.weight @ own.weight.t() / 9)), rows(4)),
    "weight-on-the-left": (calls(lambda own, x: own.weight @ x.t()), rows(4)),
    "matrix-vector": (calls(lambda own, x: x @ own.vector), rows(4)),
    "batched": (calls(lambda own, x: torch.bmm(x, own.weight.expand(3, N, N))), rows(3, 4)),
    "batched-and-added": (
        calls(lambda own, x: torch.baddbmm(own.vector, x, own.weight.repeat(3, 1, 1))),
        rows(3, 4),
    ),
    "einsum": (calls(lambda own, x: torch.einsum("bij,kj->bki", x, own.weight)), rows(3, 4)),
    "bilinear": (calls(lambda own, x: own.parts[0](x, x), lambda: nn.Bilinear(N, N, 3)), rows(4)),
    "scale-and-shift": (
        calls(lambda own, x: x * own.vector + own.vector[:1] - own.weight),
        rows(3, N),
    ),
    "scale-by-a-number": (calls(lambda own, x: x * own.vector[0] / own.weight.sum()), rows(4)),
    "expanded-places": (
        calls(lambda own, x: x + own.weight[: x.shape[1]].expand(x.shape[0], -1, -1)),
        rows(3, 4),
    ),
    "added-product": (calls(lambda own, x: torch.addcmul(x, x, own.vector)), rows(4)),
    "chosen": (calls(lambda own, x: torch.where(x > 0, x, own.vector)), rows(4)),
    "filled": (calls(lambda own, x: x.masked_fill(x > 0, own.vector[0])), rows(4)),
    "written-into": (
        calls(lambda own, x: torch.tanh(x).index_put((torch.tensor([1]),), own.vector)),
        rows(4),
    ),
    "put-together": (calls(lambda own, x: torch.cat([x, own.weight]).cumsum(0)), rows(4)),
    "layer-norm": (chain(linear(), layer_norm()), rows(4)),
    "layer-norm-without-bias": (chain(linear(), layer_norm(bias=False)), rows(4)),
    "layer-norm-frozen": (without(layer_norm(), "weight"), rows(4)),
    "layer-norm-bfloat16": (
        layer_norm(dtype=torch.bfloat16),
        lambda: torch.randn(4, N).bfloat16(),
    ),
    "rms-norm": (chain(linear(), lambda: nn.RMSNorm(N), linear()), rows(2, 4)),
    "group-norm": (chain(lambda: nn.GroupNorm(2, 4), convolution(1)), image(1)),
    "instance-norm": (lambda: nn.InstanceNorm1d(4, affine=True), image(1)),
    "batch-norm": (chain(convolution(2), lambda: nn.BatchNorm2d(6)), image(2)),
    "batch-norm-at-rest": (lambda: nn.BatchNorm1d(N).eval(), rows(4)),
    "channels-last": (
        last_channels,
        lambda: torch.randn(2, 4, 7, 7).contiguous(memory_format=torch.channels_last),
    ),
    "leaky": (chain(linear(), lambda: nn.PReLU(N), linear()), rows(4)),
    "attention": (BLOCK, rows(2, 4)),
    "recurrent": (calls(lambda own, x: own.parts[0](x)[0], lambda: nn.GRU(N, N)), rows(2, 4)),
    "embedding": (embedding(), words),
    "embedding-padding": (embedding(padding_idx=2), words),
    "embedding-by-frequency": (embedding(scale_grad_by_freq=True), words),
    "embedding-sparse": (embedding(sparse=True), words),
    "bag": (
        calls(lambda own, x: own.parts[0](x) @ own.weight, lambda: nn.EmbeddingBag(9, N)),
        words,
    ),
}  # fmt: skip
for dimensions in (1, 2, 3):
    NODES |= {
        f"convolution-{dimensions}d": (convolution(dimensions), image(dimensions)),
        f"convolution-back-{dimensions}d": (
            back(dimensions, stride=2, output_padding=1),
            image(dimensions),
        ),
    }
OPTIONS: dict[str, dict[str, Any]] = {
    "groups": {"groups": 2, "bias": False},
    "dilation": {"dilation": 2, "padding": 2},
    "stride": {"stride": 2, "padding": "valid"},
    "same": {"padding": "same"},
    "circular": {"padding": 1, "padding_mode": "circular"},
    "reflect": {"padding": 1, "padding_mode": "reflect"},
    "double": {"dtype": torch.float64},
}
for name, options in OPTIONS.items():
    NODES[f"convolution-{name}"] = (
        convolution(2, **options),
        doubled if name == "double" else image(2),
    )


@pytest.mark.parametrize("name", NODES)
def test_every_node_gives_what_autograd_gives(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With and without a gradient of the input; what arrives is asked for, or noted by hooks; the
    nodes are called, or run by the engine, as where torch cannot call them for some edges."""
    torch.manual_seed(0)
    make, data = NODES[name]
    module, x = make(), data()
    for learns in (True, False):
        leaves, output = forward(module, x, learns)
        above = torch.randn_like(output)
        expected = [*whole([output], (above,), leaves), *taken(module)]
        assert any(gradient is not None for gradient in expected)
        assert equal(halves(module, x, above, hooks_made(), learns), expected)
        assert equal(halves(module, x, above, None, learns), expected)
        with monkeypatch.context() as large:  # as if each gradient were
            large.setattr(cut_nodes, "MANY", 1)
            assert equal(halves(module, x, above, hooks_made(), learns), expected)
        with monkeypatch.context() as old:
            old.setattr(node_calls, "NODES_CAN_BE_CALLED", False)
            assert equal(halves(module, x, above, None, learns), expected)


def halves(
    module: nn.Module, x: Tensor, above: Tensor, hooks: int | None, learns: bool
) -> list[Tensor | None]:
    leaves, output = forward(module, x, learns)
    found, deferred = input_gradient([output], (above,), leaves, hooks)
    assert all(p.grad is None for p in module.parameters())
    weight_gradient(deferred)
    return [*found, *taken(module)]


def forward(module: nn.Module, x: Tensor, learns: bool = True) -> tuple[list[Tensor], Tensor]:
    leaves = [x.detach().requires_grad_()] if learns and x.dtype != torch.int64 else []
    return leaves, module(*leaves) if leaves else module(x)


def taken(module: nn.Module) -> list[Tensor | None]:
    found = [p.grad for p in module.parameters()]
    module.zero_grad(set_to_none=True)
    return found


def equal(found: Sequence[Tensor | None], expected: Sequence[Tensor | None]) -> bool:
    return all(map(same, found, expected)) and len(found) == len(expected)


def same(a: Tensor | None, b: Tensor | None) -> bool:
    """To the last bit, with the same strides."""
    if a is None or b is None:
        return a is b
    if a.is_sparse or b.is_sparse:
        return a.is_sparse and b.is_sparse and torch.equal(a.to_dense(), b.to_dense())
    return a.dtype == b.dtype and torch.equal(a, b) and a.stride() == b.stride()
