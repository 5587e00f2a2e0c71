"""What a backward in two halves costs beside one in one piece, by the depth of a stage: B, I and W
of one micro-batch, ours, those of PyTorch's runtime, and where the layers are simple enough halves
that are written by hand (`weights_by_hand.py`), in one process, taking turns.

    python benchmarks/weights.py                            # needs torch; about two minutes
    python benchmarks/weights.py --write docs/runtime.md    # and puts the table there

Times are CPU time of the thread, medians over the turns. The stages are so small that most of it is
what a node costs, not what it computes; the second half of the table has them wider.
"""

import platform
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import document
import torch
import weights_by_hand
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.distributed.pipelining._backward import stage_backward_input, stage_backward_weight

from stretto.runtime.stage.cut_plans import CutPlans
from stretto.runtime.stage.hooks import hooks_made
from stretto.runtime.stage.split_backward import input_gradient, weight_gradient, whole

TURNS = 90
SHARE = 1.15  # of B, that the halves may take beside what each parameter costs
EACH = 10  # microseconds, that each parameter may cost

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
    rows: list[Row] = []
    for line in _lines(rows):
        print(line, flush=True)
        yield line


def _lines(rows: list["Row"]) -> Iterator[str]:
    where = f"torch {torch.__version__}, Python {platform.python_version()}, one thread"
    head = ["stage", "layers", "parameters", "`B`", "`I`", "`W`", "(`I` + `W`) / `B`"]
    head += [f"per parameter beyond {SHARE} `B`", f"at most {EACH}", "by hand", "beyond by hand"]
    head += ["torch's (`I` + `W`) / `B`"]
    yield f"`python benchmarks/weights.py`, {where}; microseconds of CPU ({document.speed()}):"
    yield ""
    yield document.row(head)
    yield document.row(["---"] * len(head))
    for case in CASES:
        rows.append(measured(case))
        yield document.row(cells(rows[-1]))
    missed = [f"{row.case.name}, {row.case.depth}" for row in rows if not row.met]
    met = f"{len(rows) - len(missed)} of {len(rows)} rows"
    yield ""
    yield (
        f"The target, `I` + `W` at most {SHARE} `B` and {EACH} µs per parameter, is met in {met}"
        f"{'; not in: ' if missed else ''}{'; '.join(missed)}."
    )


class Row(NamedTuple):
    """Medians in microseconds, by what was measured."""

    case: Case
    parameters: int
    found: dict[str, float]

    def beyond(self, halves: str = "") -> float:
        """What such halves take of a parameter, more than they may of B."""
        found = self.found
        both = found[f"{halves}I"] + found[f"{halves}W"]
        return (both - SHARE * found["B"]) / self.parameters

    @property
    def met(self) -> bool:
        """Whether that is the target."""
        return self.beyond() <= EACH


def measured(case: Case) -> Row:
    """One stage. Who comes first is drawn anew in every turn: those behind find the memory of the
    weights where those before have left it."""
    torch.manual_seed(0)
    module = nn.Sequential(*(case.layer() for _ in range(case.depth)))
    x = torch.randn(case.x)
    times: Times = {}
    plans = CutPlans()
    sides: list[Callable[[], None]] = [
        lambda: in_one_piece(module, x, times),
        lambda: ours(module, x, plans, times),
        lambda: theirs(module, x, times),
    ]
    for side in sides:  # from then on there are gradients, to which others are added
        side()
    if case.name.startswith(LINEAR):
        by_hand_is_right(module, x)
        sides.append(lambda: by_hand(module, x, times))
    times.clear()
    turns = max(TURNS // 4, 5) if case.x[-1] > 64 else TURNS
    for _ in range(turns):
        random.shuffle(sides)
        for side in sides:
            side()
    found = {name: median(seconds) * 1e6 for name, seconds in times.items()}
    return Row(case, len(list(module.parameters())), found)


def cells(row: Row) -> Iterator[str]:
    """As the table has them."""
    case, parameters, found = row
    halves = found["I"] + found["W"]
    yield from (case.name, str(case.depth), str(parameters))
    yield from (f"{found[name]:.0f}" for name in "BIW")
    yield f"{halves / found['B']:.2f}"
    yield f"{row.beyond():.1f}"
    yield "yes" if row.met else "no"
    if "by hand I" in found:
        own = found["by hand I"] + found["by hand W"]
        yield f"{row.beyond('by hand '):.1f}"
        yield f"{(halves - own) / parameters:.1f}"
    else:
        yield from ("", "")
    yield f"{(found['torch I'] + found['torch W']) / found['B']:.2f}"


def in_one_piece(module: nn.Module, x: Tensor, times: Times) -> None:
    """B of one micro-batch."""
    _, leaf, edge, above = forward(module, x)
    begin = time.thread_time()
    whole([edge], (above,), [leaf])
    del edge  # what the backward releases is part of it
    times.setdefault("B", []).append(time.thread_time() - begin)


def ours(module: nn.Module, x: Tensor, plans: CutPlans, times: Times) -> None:
    """I and W of one micro-batch."""
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


def by_hand(module: nn.Module, x: Tensor, times: Times) -> None:
    """I and W of one micro-batch, without a graph."""
    kept, above = weights_by_hand.forward(module, x)
    begin = time.thread_time()
    _, left = weights_by_hand.input_half(kept, above)
    middle = time.thread_time()
    weights_by_hand.weight_half(left)
    times.setdefault("by hand I", []).append(middle - begin)
    times.setdefault("by hand W", []).append(time.thread_time() - middle)


def by_hand_is_right(module: nn.Module, x: Tensor) -> None:
    """Raises `AssertionError` where it gives other gradients than autograd."""
    found = []
    for backward in (by_hand, in_one_piece):
        for parameter in module.parameters():
            parameter.grad = torch.zeros_like(parameter)
        backward(module, x, {})
        found.append([parameter.grad for parameter in module.parameters()])
    for one, other in zip(*found, strict=True):
        assert one is not None and other is not None and torch.allclose(one, other, atol=1e-4)


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
