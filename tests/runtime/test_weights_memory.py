"""How much is held between the halves of a backward and behind them: for W inputs and gradients of
outputs, behind W nothing, and within it one large gradient at a time."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from stretto.runtime.stage import cut_nodes
from stretto.runtime.stage.cut_plans import CutPlans
from stretto.runtime.stage.engine import edge_of
from stretto.runtime.stage.hooks import hooks_made
from stretto.runtime.stage.split_backward import input_gradient, weight_gradient

N, ROWS = 16, 4


class Storages(TorchDispatchMode):
    """Everything that operations have made, as long as it is alive."""

    def __init__(self) -> None:
        super().__init__()
        self.made: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        found = function(*args, **kwargs or {})
        for tensor in tree_leaves(found):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self.made[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        return found

    def alive(self, beside: Iterable[Tensor]) -> list[int]:
        """The sizes in bytes of those that are alive, without those of these tensors. Nothing waits
        for Python's collection of circles."""
        theirs = {tensor.untyped_storage()._cdata for tensor in beside}
        here = [(c, n) for c, (kept, n) in self.made.items() if n and not kept.expired()]
        return sorted(nbytes for c, nbytes in here if c not in theirs)


class Block(nn.Module):
    """As in a transformer, pre-norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(N) for _ in range(2))
        self.into, self.mix = nn.Linear(N, 3 * N), nn.Linear(N, N)
        self.up, self.down = nn.Linear(N, 2 * N), nn.Linear(2 * N, N)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t[None] for t in self.into(self.norms[0](x)).chunk(3, -1))
        x = x + self.mix(F.scaled_dot_product_attention(q, k, v)[0])
        return x + self.down(F.gelu(self.up(self.norms[1](x))))


class Lower(nn.Module):
    """A layer that is computed in lower precision, with a copy of its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(N, N)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return torch.tanh(self.layer(torch.tanh(x)))


def perceptron() -> nn.Sequential:
    return nn.Sequential(nn.Linear(N, N), nn.GELU(), nn.LayerNorm(N), nn.Linear(N, N))


def pictures() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(2, 3, 3, padding=1, bias=False), nn.SiLU(), nn.Conv1d(3, 2, 3, padding=1)
    )


R = ROWS * N * 4  # bytes of a micro-batch at a width of N, in float32
NORM = [R, R, ROWS * 4, ROWS * 4]  # its input, the gradient of its output, and what it measured
HELD: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], list[int]]] = {
    # of the first layer only the gradient: its input is the stage's
    "perceptron": (perceptron, (ROWS, N), [R, *NORM, R, R]),
    # a norm's output is the input of the layer behind it; the last gradient is that of the output
    "block": (Block, (ROWS, N), [*NORM[1:], R, 3 * R, R, *NORM, R, 2 * R, 2 * R, R, R]),
    "pictures": (pictures, (ROWS, 2, N // 2), [3 * R // 2, 3 * R // 2, R]),
    "lower": (Lower, (ROWS, N), [R // 2, R // 2]),
}


def run(
    module: nn.Module, x: Tensor, hooks: int | None, plans: CutPlans | None = None
) -> tuple[list[Tensor | None], Any, Tensor]:
    """F and I; nothing of the graph is left but for W."""
    leaf = x.clone().requires_grad_()
    output = module(leaf)
    above = torch.ones_like(output)
    edge = edge_of(output)
    del output
    found, deferred = input_gradient([edge], (above,), [leaf], hooks, plans)
    return list(found), deferred, leaf


ASKED = pytest.mark.parametrize("asked", [True, False], ids=["asked-for", "by-hooks"])


@pytest.mark.parametrize("way", ["planned", "asked-for", "by-hooks"])
@pytest.mark.parametrize("name", HELD)
def test_nothing_is_held_but_inputs_and_gradients_of_outputs(name: str, way: str) -> None:
    torch.manual_seed(0)
    make, size, expected = HELD[name]
    module, x = make(), torch.randn(size)
    plans = CutPlans() if way == "planned" else None
    if way == "planned":
        run(module, x, hooks_made(), plans)
    with Storages() as storages:
        found, deferred, leaf = run(module, x, None if way == "by-hooks" else hooks_made(), plans)
        del found
        assert storages.alive([*module.parameters(), leaf]) == sorted(expected)
        del leaf
        weight_gradient(deferred)
        of_weights = [p.grad for p in module.parameters() if p.grad is not None]
        assert storages.alive([*module.parameters(), *of_weights]) == []


@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize("holds", ["output", "activation"])
def test_w_releases_what_others_hold(
    holds: str, counted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module that keeps an activation with its graph, or a user who keeps the output."""
    if not counted:
        monkeypatch.setattr(cut_nodes, "ONE_OWNER", None)
    module, held = perceptron(), []
    place = module if holds == "output" else module[2]
    place.register_forward_hook(lambda _, given, output: held.append(output))
    with Storages() as storages:
        leaf = torch.randn(ROWS, N).requires_grad_()
        edge = edge_of(module(leaf))
        _, deferred = input_gradient([edge], (torch.ones(ROWS, N),), [leaf], hooks_made())
        weight_gradient(deferred)
        assert held[0].requires_grad
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        left = storages.alive([*module.parameters(), *gradients, leaf, *held])
    assert left == [R], "the gradient of the input"


def test_large_gradients_do_not_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a whole backward, there is one at a time."""
    monkeypatch.setattr(cut_nodes, "MANY", N * N)
    module = nn.Sequential(*(nn.Linear(N, N, bias=False) for _ in range(6)))
    weights = list(module.parameters())
    for weight in weights:
        weight.grad = torch.zeros_like(weight)
    sums = [weight.grad for weight in weights if weight.grad is not None]
    _, deferred, _ = run(module, torch.randn(ROWS, N), hooks_made())
    at_once: list[int] = []

    class Sizes(Storages):
        def __torch_dispatch__(
            self, function: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            found = super().__torch_dispatch__(function, types, args, kwargs)
            at_once.append(self.alive([*weights, *sums]).count(N * N * 4))
            return found

    with Sizes():
        weight_gradient(deferred)
    assert max(at_once) == 1
