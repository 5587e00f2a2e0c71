"""A model for trainings that are interrupted: dropout, so that random numbers matter; an optimizer
and a scheduler with states; an average of weights that the model keeps itself; data that count. As
a file of its own it dies where `DIE` says, once: `rank/step` kills that rank at that step, if the
file `DIED` is not there yet."""

import os
import signal
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

WIDTH, ROWS = 6, 16


class Stage(nn.Module):
    """A layer that forgets some of its numbers, and counts in a BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.layer = nn.BatchNorm1d(WIDTH), nn.Linear(WIDTH, WIDTH)
        self.forget = nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        """Rows on both sides."""
        return x + self.forget(torch.tanh(self.layer(self.norm(x))))


class Trainee:
    """The protocol of `stretto run`."""

    def __init__(self) -> None:
        self.average: dict[str, Tensor] = {}

    def stage(self, index: int, count: int) -> nn.Module:
        """With weights of its own."""
        with torch.random.fork_rng():
            torch.manual_seed(100 * count + index)
            return Stage()

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """The mean of squares."""
        return (output - target).square().mean()

    def optimizer(self, parameters: Any) -> torch.optim.Optimizer:
        """One that remembers."""
        return torch.optim.AdamW(parameters, lr=1e-2)

    def scheduler(self, optimizer: torch.optim.Optimizer) -> Any:
        """One that counts."""
        return torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.7)

    def after_step(self, done: Any) -> None:
        """Averages the weights, and dies where it is to."""
        for (pipeline, stage), module in done.modules.items():
            for name, tensor in module.named_parameters():
                key = f"{pipeline}/{stage}/{name}"
                before = self.average.setdefault(key, tensor.detach().clone())
                before.lerp_(tensor.detach(), 0.1)
        rank, _, step = os.environ.get("DIE", "/").partition("/")
        died = Path(os.environ.get("DIED", "/nowhere/died"))
        if (rank, step) == (str(done.rank), str(done.step)) and not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def state_dict(self) -> dict[str, Tensor]:
        """The average."""
        return {key: tensor.clone() for key, tensor in self.average.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Goes back to it."""
        self.average = {key: tensor.clone() for key, tensor in state.items()}


class Counting:
    """Data that come from a position of their own."""

    def __init__(self) -> None:
        self.taken = 0

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """The next batch: of the position, whatever the step."""
        self.taken += 1
        draw = torch.Generator().manual_seed(self.taken)
        return torch.randn(ROWS, WIDTH, generator=draw), torch.randn(ROWS, WIDTH, generator=draw)

    def state_dict(self) -> dict[str, int]:
        """The position."""
        return {"taken": self.taken}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes back to it."""
        self.taken = state["taken"]


def plain(step: int) -> tuple[Tensor, Tensor]:
    """Data by the number of the step."""
    draw = torch.Generator().manual_seed(step)
    return torch.randn(ROWS, WIDTH, generator=draw), torch.randn(ROWS, WIDTH, generator=draw)


MODEL, DATA = Trainee(), Counting()
