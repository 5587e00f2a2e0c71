"""What a backward in two halves costs beside one in one piece, by the depth of a stage: B, I and W
of one micro-batch, ours and those of PyTorch's runtime, in one process, taking turns.

    python benchmarks/weights.py                            # needs torch; about a minute
    python benchmarks/weights.py --write docs/runtime.md    # and puts the table there

Times are CPU time of the thread, medians over the turns. The stages are so small that most of it is
what a node costs, not what it computes; the second half of the table has them wider.
"""

import platform
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import document
import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.distributed.pipelining._backward import stage_backward_input, stage_backward_weight

from stretto.runtime.stage.cut_plans import CutPlans
from stretto.runtime.stage.hooks import hooks_made
from stretto.runtime.stage.split_backward import input_gradient, weight_gradient, whole

TURNS = 60
SHARE = 1.15  # of B, that the halves may take beside what each parameter costs

Times = dict[str, list[float]]


class Case(NamedTuple):
    """A stage of so many alike layers, and the input of a micro-batch."""

    name: str
    depth: int
    layer: Callable[[], nn.Module]
    x: tuple[int, ...]


class ConvolutionLayer(nn.Sequential):
    """A convolution with its norm."""

    def __init__(self, channels: int) -> None:
        super().__init__(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        )


def perceptron(width: int) -> Callable[[], nn.Module]:
    """A linear layer, GELU, and layer norm."""
    return lambda: nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width))


def block(width: int) -> Callable[[], nn.Module]:
    """A block of a transformer."""
    return lambda: nn.TransformerEncoderLayer(
        width, 4, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )


LINEAR, BLOCK, CONVOLUTION = "linear, GELU, layer norm", "transformer block", "convolution, norm"
CASES = [
    *(Case(f"{LINEAR}, 64 wide", n, perceptron(64), (8, 64)) for n in (1, 6, 12, 24, 48)),
    *(Case(f"{BLOCK}, 64 wide", n, block(64), (2, 16, 64)) for n in (1, 6, 12, 24)),
    *(
        Case(f"{CONVOLUTION}, 8 channels", n, lambda: ConvolutionLayer(8), (2, 8, 8, 8))
        for n in (6, 24)
    ),
    *(Case(f"{LINEAR}, 512 wide", n, perceptron(512), (64, 512)) for n in (6, 24)),
    *(Case(f"{BLOCK}, 256 wide", n, block(256), (2, 64, 256)) for n in (6,)),
]


def main() -> None:
    """Prints the table, and puts it into the document if that was asked for."""
    match sys.argv[1:]:
        case []:
            path = None
        case ["--write", name]:
            path = Path(name)
        case _:
            sys.exit(__doc__)
    torch.set_num_threads(1)
    lines = list(table())
    if path is not None:
        document.write(path, "weights", lines)


def table() -> Iterator[str]:
    """Line by line, each printed when it is there."""
    where = f"torch {torch.__version__}, Python {platform.python_version()}, one thread"
    head = ["stage", "layers", "parameters", "`B`", "`I`", "`W`", "(`I` + `W`) / `B`"]
    head += [f"per parameter beyond {SHARE} `B`", "torch's (`I` + `W`) / `B`"]
    for line in (
        f"`python benchmarks/weights.py`, {where}; microseconds of CPU:",
        "",
        document.row(head),
        document.row(["---"] * len(head)),
    ):
        print(line)
        yield line
    for case in CASES:
        line = document.row(measured(case))
        print(line, flush=True)
        yield line


def measured(case: Case) -> Iterator[str]:
    """One row."""
    torch.manual_seed(0)
    module = nn.Sequential(*(case.layer() for _ in range(case.depth)))
    x = torch.randn(case.x)
    times: Times = {}
    turns = max(TURNS // 4, 5) if case.x[-1] > 64 else TURNS
    plans = CutPlans()
    for _ in range(turns):
        ours(module, x, plans, times)
        theirs(module, x, times)
    found = {name: median(seconds) * 1e6 for name, seconds in times.items()}
    parameters = len(list(module.parameters()))
    halves = found["I"] + found["W"]
    yield case.name
    yield str(case.depth)
    yield str(parameters)
    yield from (f"{found[name]:.0f}" for name in "BIW")
    yield f"{halves / found['B']:.2f}"
    yield f"{(halves - SHARE * found['B']) / parameters:.1f}"
    yield f"{(found['torch I'] + found['torch W']) / found['B']:.2f}"


def ours(module: nn.Module, x: Tensor, plans: CutPlans, times: Times) -> None:
    """B of one micro-batch, and I and W of another."""
    _, leaf, edge, above = forward(module, x)
    begin = time.thread_time()
    whole([edge], (above,), [leaf])
    del edge  # what the backward releases is part of it
    times.setdefault("B", []).append(time.thread_time() - begin)

    hooks, leaf, edge, above = forward(module, x)
    begin = time.thread_time()
    _, deferred = input_gradient([edge], (above,), [leaf], hooks, plans)
    del edge
    middle = time.thread_time()
    weight_gradient(deferred)
    del deferred
    times.setdefault("I", []).append(middle - begin)
    times.setdefault("W", []).append(time.thread_time() - middle)


def forward(module: nn.Module, x: Tensor) -> tuple[int | None, Tensor, GradientEdge, Tensor]:
    """The hooks there were before, the input, where the output stands, and its gradient."""
    hooks, leaf = hooks_made(), x.clone().requires_grad_()
    output = module(leaf)
    return hooks, leaf, get_gradient_edge(output), torch.ones_like(output)


def theirs(module: nn.Module, x: Tensor, times: Times) -> None:
    """I and W of one micro-batch by the functions of torch's runtime."""
    leaf = x.clone().requires_grad_()
    outputs: list[Any] = [module(leaf)]
    above: list[Any] = [torch.ones_like(outputs[0])]
    begin = time.thread_time()
    _, groups = stage_backward_input(outputs, above, [leaf], module.parameters())
    del outputs
    middle = time.thread_time()
    stage_backward_weight(module.parameters(), groups)
    del groups
    times.setdefault("torch I", []).append(middle - begin)
    times.setdefault("torch W", []).append(time.thread_time() - middle)


if __name__ == "__main__":
    main()
