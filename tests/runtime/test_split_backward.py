"""The backward in two halves, against autograd's own in one piece."""

import gc
import weakref
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from stretto.runtime.stage.split_backward import input_gradient, weight_gradient, whole
from tests.support.training import there

WIDTH = 16


class Products(TorchDispatchMode):
    """Counts products of matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.count += function.overloadpacket.__name__ in ("mm", "addmm", "bmm", "baddbmm")
        return function(*args, **kwargs or {})


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.mix = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH)
        self.into, self.up = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, 4 * WIDTH)
        self.down = nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t[:, None] for t in self.into(self.norm(x)).chunk(3, -1))
        x = x + self.mix(F.scaled_dot_product_attention(q, k, v, is_causal=True)[:, 0])
        return x + self.down(F.gelu(self.up(x)))


class Tokens(nn.Module):
    """A first stage: what it is given has no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(20, WIDTH), nn.Embedding(8, WIDTH)
        self.block = Attention()

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.words(x) + self.places(torch.arange(x.shape[1])))


class Shared(nn.Module):
    """One weight used three times directly, one layer twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)
        self.weight = nn.Parameter(torch.randn(WIDTH, WIDTH) / 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(torch.tanh(self.layer(x)) @ self.weight)
        return torch.tanh(self.layer(x) @ self.weight) @ self.weight


class Double(torch.autograd.Function):
    """A linear layer whose backward computes everything, whoever asks."""

    calls = 0

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x @ weight

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        Double.calls += 1
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        return gradient @ weight.t(), x.flatten(0, -2).t() @ gradient.flatten(0, -2)


class Custom(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.weight = nn.Linear(WIDTH, WIDTH), nn.Parameter(torch.randn(WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(Double.apply(torch.tanh(self.layer(x)), self.weight))


class Pieces(nn.Module):
    """Nodes with several outputs, some unused; views; an LSTM; the result is a view."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.cells = nn.Linear(WIDTH, WIDTH), nn.LSTM(WIDTH, WIDTH, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        a, b, _ = torch.split(self.layer(x), [6, 8, 2], -1)
        mixed, _ = self.cells(torch.cat([b, a, a[..., :2]], -1))
        values, places = mixed.sort(-1)
        return (values * places).flatten(1).view(-1, WIDTH)[1:]


class Hooked(nn.Module):
    """A hook changes the gradient of an activation."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if x.requires_grad:
            x.register_hook(lambda gradient: 3 * gradient)
        return self.second(torch.tanh(x))


class Frozen(nn.Module):
    """Only a small part is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.large = nn.Linear(WIDTH, WIDTH).requires_grad_(False)
        self.a, self.b = nn.Linear(WIDTH, 2, bias=False), nn.Linear(2, WIDTH, bias=False)
        self.last = nn.Linear(WIDTH, WIDTH).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.large(x) + self.b(self.a(x))))


class Repeated(nn.Module):
    """Activation checkpoints: the forward is repeated for the backward."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Attention(), Attention()

    def forward(self, x: Tensor) -> Tensor:
        return self.second(checkpoint(self.first, x, use_reentrant=False))


def normal(*size: int) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(1))


def tokens() -> Tensor:
    return torch.randint(0, 20, (2, 8), generator=torch.Generator().manual_seed(1))


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH))


def parametrized() -> nn.Module:
    return nn.utils.parametrizations.weight_norm(nn.Linear(WIDTH, WIDTH))


def convolution() -> nn.Module:
    return nn.Sequential(nn.Conv1d(8, 8, 3, bias=False), nn.BatchNorm1d(8), nn.ReLU(inplace=True))


# What it is, its input, and how many products belong to weights alone (None: not cut so).
STAGES: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor], int | None]] = {
    "perceptron": (perceptron, lambda: normal(4, WIDTH), 2),
    "attention": (Attention, lambda: normal(2, 8, WIDTH), 4),
    "tokens": (Tokens, tokens, 4),
    "embedding": (lambda: nn.Embedding(20, WIDTH), tokens, 0),
    "pieces": (Pieces, lambda: normal(2, 8, WIDTH), 1),
    "hooked": (Hooked, lambda: normal(4, WIDTH), 2),
    "frozen": (Frozen, lambda: normal(4, WIDTH), 2),
    "parametrized": (parametrized, lambda: normal(4, WIDTH), 1),
    "convolution": (convolution, lambda: normal(2, 8, WIDTH), 0),
    "custom": (Custom, lambda: normal(4, WIDTH), None),
    "shared": (Shared, lambda: normal(4, WIDTH), None),
    "repeated": (Repeated, lambda: normal(2, 8, WIDTH), None),
}


def forward(module: nn.Module, x: Tensor) -> tuple[list[Tensor], Tensor]:
    inputs = [x.clone().requires_grad_()] if x.is_floating_point() else []
    return inputs, module(*inputs) if inputs else module(x)


def gradients(module: nn.Module) -> list[Tensor | None]:
    found = [p.grad for p in module.parameters()]
    module.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("name", STAGES)
def test_halves_add_up_to_the_whole(name: str) -> None:
    torch.manual_seed(0)
    make, data, of_weights = STAGES[name]
    module, x = make(), data()

    inputs, output = forward(module, x)
    above = normal(*output.shape)
    with Products() as in_b:
        expected = whole([output], (above,), inputs)
    expected_weights = gradients(module)

    inputs, output = forward(module, x)
    root = get_gradient_edge(output)
    del output
    with Products() as in_i:
        found, deferred = input_gradient([root], (above,), inputs)
    assert gradients(module) == [None] * len(expected_weights)
    with Products() as in_w:
        weight_gradient(deferred)

    assert same(found, expected)
    assert same(gradients(module), expected_weights)
    if of_weights is not None:
        assert (in_i.count, in_w.count) == (in_b.count - of_weights, of_weights)
        # The same network without weights to train has I's work and no other.
        alone = make().requires_grad_(False)
        if inputs and name != "frozen":
            inputs, output = forward(alone, x)
            with Products() as of_inputs:
                whole([output], (above,), inputs)
            assert in_i.count == of_inputs.count


def same(found: Sequence[Tensor | None], expected: Sequence[Tensor | None]) -> bool:
    pairs = zip(found, expected, strict=True)
    return all(b is None if a is None else b is not None and torch.equal(a, b) for a, b in pairs)


def test_a_custom_function_runs_once_and_its_weights_wait() -> None:
    torch.manual_seed(0)
    module = Custom()
    inputs, output = forward(module, normal(4, WIDTH))
    Double.calls = 0
    _, deferred = input_gradient([output], (torch.ones_like(output),), inputs)
    assert Double.calls == 1 and module.weight.grad is None
    weight_gradient(deferred)
    assert Double.calls == 1 and module.weight.grad is not None


def test_weights_used_twice_cost_no_product_twice() -> None:
    torch.manual_seed(0)
    module = Shared()
    inputs, output = forward(module, normal(4, WIDTH))
    with Products() as in_i:
        _, deferred = input_gradient([output], (torch.ones_like(output),), inputs)
    with Products() as in_w:
        weight_gradient(deferred)
    assert in_i.count == 5  # one for each use
    assert in_w.count == 5


def test_what_nobody_needs_any_more_is_released() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH))
    saved: dict[str, weakref.ref[Tensor]] = {}

    def note(_: nn.Module, given: tuple[Tensor], output: Tensor) -> None:
        saved.update(before=weakref.ref(given[0]), after=weakref.ref(output))

    module[1].register_forward_hook(note)
    inputs, output = forward(module, normal(4, WIDTH))
    above, root = torch.ones_like(output), get_gradient_edge(output)
    saved["input"] = weakref.ref(inputs[0])
    del output
    found, deferred = input_gradient([root], (above,), inputs)
    del inputs, root, found
    gc.collect()
    alive = {name for name, tensor in saved.items() if tensor() is not None}
    assert alive == {"after", "input"}, "W needs what the layers were given, not the GELU"
    weight_gradient(deferred)
    gc.collect()
    assert all(tensor() is None for tensor in saved.values())
    assert not deferred.cuts


def test_after_checkpoints_the_forward_is_repeated_once() -> None:
    module, calls = Repeated(), []
    module.first.register_forward_pre_hook(lambda *_: calls.append(1))
    inputs, output = forward(module, normal(2, 8, WIDTH))
    _, deferred = input_gradient([output], (torch.ones_like(output),), inputs)
    weight_gradient(deferred)
    assert len(calls) == 2


def test_nothing_is_held_after_a_whole_backward_either() -> None:
    module = perceptron()
    inputs, output = forward(module, normal(4, WIDTH))
    kept = weakref.ref(inputs[0])
    whole([get_gradient_edge(output)], (torch.ones_like(output),), inputs)
    del inputs, output
    gc.collect()
    assert kept() is None


def test_hooks_of_parameters_run_in_w_once() -> None:
    module, calls = perceptron(), []
    weight = module.get_parameter("0.weight")
    weight.register_hook(lambda g: calls.append("tensor"))
    weight.register_post_accumulate_grad_hook(lambda p: calls.append("after"))
    inputs, output = forward(module, normal(4, WIDTH))
    _, deferred = input_gradient([output], (torch.ones_like(output),), inputs)
    assert calls == []
    weight_gradient(deferred)
    assert calls == ["tensor", "after"]


def test_outputs_that_depend_on_the_input_on_weights_or_on_nothing() -> None:
    scale = nn.Parameter(torch.tensor([2.0]))
    x = normal(3).requires_grad_()
    unused = normal(3).requires_grad_()
    outputs = [x * scale, scale * 3, x, scale]
    above = tuple(torch.ones_like(output) for output in outputs)
    found, deferred = input_gradient(outputs, above, [x, unused])
    weight_gradient(deferred)
    assert torch.equal(there(found[0]), torch.full((3,), 3.0)) and found[1] is None
    assert torch.allclose(there(scale.grad), x.detach().sum() + 3 + 1)


class Random_(nn.Module):
    """Some operations on some earlier values, with few weights, so that many are shared."""

    def __init__(self, seed: int, inputs: int):
        super().__init__()
        random = Random(seed)
        self.weights = nn.ParameterList(torch.randn(4, 4) / 2 for _ in range(3))
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))
        self.norm = nn.LayerNorm(4)
        self.recipe = [
            (random.randrange(7), random.random(), random.random(), random.randrange(6))
            for _ in range(random.randrange(3, 12))
        ]
        self.last = sorted(random.sample(range(inputs, inputs + len(self.recipe)), 2))

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        values = list(inputs)
        for kind, a, b, k in self.recipe:
            x, y = values[int(a * len(values))], values[int(b * len(values))]
            match kind:
                case 0:
                    values.append(x @ self.weights[k % 3])
                case 1:
                    values.append(self.layers[k % 2](x))
                case 2:
                    values.append(torch.tanh(x + y))
                case 3:
                    values.append(x * y * self.weights[k % 3][0])
                case 4:
                    values.append(torch.cat(torch.split(x, 2, -1)[::-1], -1) + self.weights[0][1])
                case 5:
                    values.append(self.norm(x) @ (self.weights[k % 3] @ self.weights[0]))
                case 6:
                    values.append(F.softmax(x, -1).view(2, 6)[:, :4].repeat(2, 1)[:3] * y)
        return [values[k] for k in self.last]


@pytest.mark.parametrize("seed", range(40))
def test_random_graphs(seed: int) -> None:
    """Exact in float64 up to the order in which more than two uses of a weight are added."""
    torch.manual_seed(seed)
    inputs = 1 + seed % 3
    module = Random_(seed, inputs).double()
    given = [torch.randn(3, 4).double() for _ in range(inputs)]

    def run(halves: bool) -> tuple[Sequence[Tensor | None], list[Tensor | None]]:
        leaves = [x.clone().requires_grad_() for x in given]
        outputs = [output for output in module(*leaves) if output.requires_grad]
        above = tuple(torch.ones_like(output) for output in outputs)
        if not halves:
            return whole(outputs, above, leaves), gradients(module)
        found, deferred = input_gradient(outputs, above, leaves)
        weight_gradient(deferred)
        return found, gradients(module)

    (found, weights), (expected, expected_weights) = run(True), run(False)
    assert same(found, expected)
    for ours, theirs in zip(weights, expected_weights, strict=True):
        assert (ours is None) == (theirs is None)
        assert ours is None or torch.allclose(ours, there(theirs), rtol=1e-13, atol=1e-13)
