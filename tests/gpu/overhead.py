"""What the runtime adds to each computation, on the host and on the device: a plan with all stages
on one rank, beside a loop that calls the same modules in the same order, in turns. Small stages
show the host's part; large ones, where the device is always behind, the device's."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from stretto.compiler.driver import compile_text
from stretto.compiler.plan.plan import Plan
from stretto.runtime import Executor, run_local
from stretto.runtime.transport.local import Local
from tests.gpu.clock import Spent, medians
from tests.gpu.table import table

STAGES, MICROBATCHES, TURNS = 8, 16, 7
TEXT = """
schedule one_rank
ranks 1
microbatches {microbatches}
pipeline main {{ stages {stages} place s -> 0 }}
{split}
order rank r {{
  for m in 0 .. microbatches {{
    for s in 0 .. {stages} {{ F[s, m] }}
    for k in 0 .. {stages} {{ {backward} }}
  }}
}}
"""
SPLIT = "split B into I, W", f"I[{STAGES - 1} - k, m]; W[{STAGES - 1} - k, m]"
WHOLE = "", f"B[{STAGES - 1} - k, m]"


def plan_of(kind: tuple[str, str]) -> Plan:
    """All stages on one rank, micro-batch after micro-batch."""
    split, backward = kind
    text = TEXT.format(microbatches=MICROBATCHES, stages=STAGES, split=split, backward=backward)
    return compile_text(text, "one_rank.pipe")


def run(device: torch.device, *_: str) -> tuple[str, bool]:
    """The table."""
    large = 2048 if device.type == "cuda" else 256
    rows = []
    for width, rows_of_batch in ((64, 8), (large, large // 4)):
        for name, kind, each in (("F, B", WHOLE, 2), ("F, I, W", SPLIT, 3)):
            loop, ours = compared(plan_of(kind), device, width, rows_of_batch)
            many = STAGES * MICROBATCHES * each
            rows.append([f"{width} x {width}, {name}", *numbers(loop, ours, many)])
    head = ["Linear", "operations", "loop: host", "device", "stretto: host", "device", "more: host"]
    title = "Overhead: microseconds per operation, a plan with all stages on one rank beside a loop"
    return table(title, [*head, "device"], rows), True


def numbers(loop: Spent, ours: Spent, many: int) -> list[str]:
    """Per operation, in microseconds: of the loop, of the plan, and how much more that is."""
    each = [*loop, *ours, ours.host - loop.host, ours.device - loop.device]
    return [str(many), *(f"{1e6 * one / many:.1f}" for one in each)]


def compared(plan: Plan, device: torch.device, width: int, rows: int) -> list[Spent]:
    """The loop, then the plan."""

    def rank(transport: Local) -> list[Spent]:
        stages = [nn.Linear(width, width).to(device) for _ in range(STAGES)]
        x = torch.randn(rows * MICROBATCHES, width, device=device)
        executor = Executor(plan, stages, loss, transport=transport)
        try:
            step = lambda: executor.step(x, target=x, return_outputs=False)  # noqa: E731
            return medians([loop(stages, x), step], device, TURNS)
        finally:
            executor.close()

    (found,) = run_local(plan, rank, device)
    return found


def loss(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().mean()


def loop(stages: list[nn.Linear], x: Tensor) -> Callable[[], Any]:
    """The same modules and order, stage by stage, by hand."""

    def by_stages() -> None:
        for part in x.chunk(MICROBATCHES):
            given, made = part, list[tuple[Tensor, Tensor]]()
            for k, stage in enumerate(stages):
                leaf = given.detach().requires_grad_(k > 0)
                given = stage(leaf)
                made.append((leaf, given))
            gradient: Tensor | None = None
            root = loss(given, part) / MICROBATCHES
            for k in reversed(range(len(stages))):
                leaf, output = made[k]
                torch.autograd.backward(root if gradient is None else output, gradient)
                gradient = leaf.grad

    return by_stages
