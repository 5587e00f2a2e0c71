"""The first table of `runtime.py`: Python per compute operation, all stages in one process."""

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import document
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, schedules

sys.path.insert(0, str(Path(__file__).parent.parent))

from stretto.compiler.driver import compile_text
from stretto.compiler.plan.plan import Plan
from stretto.compiler.program.program import Compute
from stretto.runtime import Executor

STAGES, MICROBATCHES, WIDTH, ROWS = 4, 16, 64, 8
STEPS, TURNS = 10, 5  # steps of a measurement; measurements, of which the median counts
THEIRS = {"B": "ScheduleInterleaved1F1B", "I and W": "ScheduleInterleavedZeroBubble"}


def table() -> Iterator[str]:
    """Its rows."""
    torch.set_num_threads(1)
    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    yield document.row(
        ["µs per operation", "by hand", "stretto", "torch", "stretto's own", "torch's own"]
    )
    yield document.row(["---"] * 6)
    for backward in THEIRS:
        hand, ours, theirs = measured(backward)
        figures = [hand, ours, theirs, ours - hand, theirs - hand]
        yield document.row([f"backward by {backward}", *(f"{one * 1e6:.1f}" for one in figures)])


def measured(backward: str) -> list[float]:
    """Seconds of thread CPU per operation: of the loop, of our step, and of torch's."""
    split = backward != "B"
    plan = one_rank(split)
    many = sum(isinstance(one, Compute) for one in plan.programs["train"].ranks[0])
    x, target = torch.randn(MICROBATCHES * ROWS, WIDTH), torch.randn(MICROBATCHES * ROWS, WIDTH)
    modules = [nn.Linear(WIDTH, WIDTH) for _ in range(STAGES)]
    executor = Executor(plan, {("main", s): module for s, module in enumerate(modules)}, loss)
    device = torch.device("cpu")
    stages: list[Any] = [
        PipelineStage(nn.Linear(WIDTH, WIDTH), s, STAGES, device) for s in range(STAGES)
    ]
    schedule = getattr(schedules, THEIRS[backward])(stages, MICROBATCHES, loss_fn=loss)
    sides: list[Callable[[], Any]] = [
        lambda: by_hand(modules, x, target, split),
        lambda: executor.step(x, target=target, return_outputs=False),
        lambda: schedule.step(x, target=target, losses=[]),
    ]
    for side in sides * 3:
        side()
    turns = [[cpu(side) for side in sides] for _ in range(TURNS)]
    executor.close()
    return [statistics.median(column) / many for column in zip(*turns, strict=True)]


def cpu(side: Callable[[], Any]) -> float:
    """Seconds of this thread's CPU that a step takes."""
    begun = time.thread_time()
    for _ in range(STEPS):
        side()
    return (time.thread_time() - begun) / STEPS


def one_rank(split: bool) -> Plan:
    """A plan with all stages on one rank, one micro-batch after another."""
    forwards = "; ".join(f"F main[{s}]" for s in range(STAGES))
    kinds = "IW" if split else "B"
    backwards = "; ".join(f"{k} main[{s}]" for s in reversed(range(STAGES)) for k in kinds)
    return compile_text(
        f"schedule one\nranks 1\nmicrobatches {MICROBATCHES}\n"
        f"pipeline main {{ stages {STAGES} place s -> 0 }}\n"
        f"{'split B into I, W' if split else ''}\n"
        f"order rank r {{ repeat microbatches {{ {forwards}; {backwards} }} }}\n",
        "one.pipe",
    )


def by_hand(modules: list[nn.Linear], x: Tensor, target: Tensor, split: bool) -> None:
    """The same stages and micro-batches in the same order, as one would write it down."""
    batch = zip(x.chunk(MICROBATCHES), target.chunk(MICROBATCHES), strict=True)
    for handed, wanted in batch:
        inputs: list[Tensor] = []
        outputs: list[Tensor] = []
        for s, module in enumerate(modules):
            handed = (outputs[-1].detach() if s else handed).requires_grad_(s > 0)
            inputs.append(handed)
            outputs.append(module(handed))
        outputs[-1] = loss(outputs[-1], wanted) / MICROBATCHES
        gradient: Tensor | None = None
        for s in reversed(range(STAGES)):
            if split:
                below = None
                if s:
                    above = None if gradient is None else [gradient]
                    (below,) = torch.autograd.grad(
                        [outputs[s]], [inputs[s]], above, retain_graph=True
                    )
                weights = list(modules[s].parameters())
                torch.autograd.backward([outputs[s]], gradient, inputs=weights)
                gradient = below
            else:
                torch.autograd.backward([outputs[s]], gradient)
                gradient = inputs[s].grad


def loss(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().mean()
