"""Stages for a device, drawn from a seed: whole ones, and such that are cut into whatever parts a
plan has. In float64, so that sums in another order are told from sums of something else."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from stretto.compiler.problem.spec import Part, Spec
from tests.support.training import WIDTH, Layer


class Cut(nn.Module):
    """A stage of these parts. One on stream `compute` has weights; the others move what they are
    handed, as an exchange between experts would."""

    def __init__(self, seed: int, chain: Sequence[Part]):
        super().__init__()
        self.parts = [(part.name, None if part.layer < 0 else part.layer) for part in chain]
        self.layers = nn.ModuleList(
            nn.Linear(WIDTH, WIDTH) if part.stream == 0 else nn.Identity() for part in chain
        )
        draw = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=draw) / 3)
        self.double()

    def part(self, name: str, layer: int | None) -> Callable[..., Any]:
        return partial(self.run, self.parts.index((name, layer)))

    def run(self, k: int, x: Tensor) -> Tensor:
        layer = self.layers[k]
        if isinstance(layer, nn.Linear):
            return x + torch.tanh(layer(x))
        return x.flip(0) * 1.25

    def forward(self, x: Tensor) -> Tensor:
        for k in range(len(self.parts)):
            x = self.run(k, x)
        return x


def maker(spec: Spec, device: torch.device) -> Callable[[int], nn.Module]:
    """Builds the stage of a seed, as `tests.support.training` numbers them."""

    def make(seed: int) -> nn.Module:
        if not spec.parts:
            return Layer(seed, torch.float64).to(device)
        return Cut(seed, spec.parts[seed // 100][seed % 100]).to(device)

    return make
