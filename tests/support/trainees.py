"""Models for `stretto run`, as a user writes them, that note what becomes of their weights."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tests.support.training import ROWS, WIDTH, Layer, loss

Weights = dict[str, Tensor]
"""A stage's parameters by name."""


class Trainee:
    """Layers; `found` has the weights of every stage after every step, as `after_step` sees them,
    by step and (pipeline, stage)."""

    def __init__(self, microbatches: int = 4, make: Callable[[int], nn.Module] = Layer):
        self.microbatches, self.make = microbatches, make
        self.found: dict[tuple[int, tuple[str, int]], Weights] = {}
        self.norms: dict[tuple[int, int], Tensor | None] = {}
        self.skipped: dict[tuple[int, int], bool] = {}

    def stage(self, index: int, count: int) -> nn.Module:
        return self.make(index)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return loss(output, target)

    def data(self, step: int) -> tuple[Tensor, Tensor]:
        draw = torch.Generator().manual_seed(step)
        rows = ROWS * self.microbatches
        x = torch.randn(rows, WIDTH, generator=draw), torch.randn(rows, WIDTH, generator=draw)
        return x

    def after_step(self, done: Any) -> None:
        for key, module in done.modules.items():
            weights = {name: p.detach().clone() for name, p in module.named_parameters()}
            self.found[done.step, key] = weights
        self.norms[done.step, done.rank] = done.norm
        self.skipped[done.step, done.rank] = done.skipped


class Rich(Trainee):
    """Several optimizers, groups by name, schedulers, averages of weights."""

    def __init__(self, microbatches: int = 4):
        super().__init__(microbatches)
        self.averages: dict[Any, AveragedModel] = {}

    def optimizer(
        self, named_parameters: Sequence[tuple[str, nn.Parameter]]
    ) -> list[torch.optim.Optimizer]:
        return rich_optimizers(named_parameters)

    def scheduler(self, optimizer: torch.optim.Optimizer) -> Any:
        return torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.7)

    def after_step(self, done: Any) -> None:
        super().after_step(done)
        for key, module in done.modules.items():
            if key not in self.averages:
                self.averages[key] = average(module)
            self.averages[key].update_parameters(module)


def rich_optimizers(
    named: Sequence[tuple[str, nn.Parameter]],
) -> list[torch.optim.Optimizer]:
    """Matrices by Muon, the rest by AdamW, of that norms and biases without decay."""
    matrices = [p for name, p in named if p.dim() == 2]
    plain = [p for name, p in named if p.dim() != 2 and name.endswith("bias")]
    norms = [p for name, p in named if p.dim() != 2 and not name.endswith("bias")]
    assert all("norm" in name for name, p in named if any(p is q for q in norms))
    return [
        torch.optim.Muon(matrices, lr=0.05),
        torch.optim.AdamW(
            [{"params": plain, "weight_decay": 0.0}, {"params": norms, "lr": 0.02}], lr=0.01
        ),
    ]


def average(module: nn.Module) -> AveragedModel:
    """An exponential moving average of the module's weights."""
    return AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(0.9))


class Adapted(nn.Module):
    """A frozen layer and a trained product of two small matrices beside it."""

    def __init__(self, seed: int):
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.base = Layer(seed).requires_grad_(False)
        self.a = nn.Parameter(torch.randn(WIDTH, 2, generator=draw))
        self.b = nn.Parameter(torch.randn(2, WIDTH, generator=draw) / 10)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.base(x) + x @ self.a @ self.b
        return found


def frozen_first(seed: int) -> nn.Module:
    """The first stage does not learn."""
    return Layer(seed).requires_grad_(seed > 0)
