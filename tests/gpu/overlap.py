"""Copies under computation: stages with a part that copies on a stream of its own, by the plan with
two streams and by the same plan on one; and messages between ranks on streams of their own, beside
all ranks on one stream."""

import torch
from torch import Tensor, nn

from stretto.compiler.driver import compile_file, compile_text
from stretto.compiler.plan.plan import Plan
from stretto.runtime import Executor, run_local
from stretto.runtime.transport import local
from stretto.runtime.transport.local import Local
from tests.gpu.clock import medians, spent
from tests.gpu.overhead import loss
from tests.gpu.table import table

MICROBATCHES, TURNS = 8, 5
RANKS, OF_RANKS = 4, 16  # micro-batches of a step of several ranks
TEXT = """
schedule copies
ranks 1
microbatches 8
pipeline main { stages 1 place s -> 0 }
split F into first, copy on comm, second
order rank r {
  F
  repeat microbatches - 1 { F | B }
  B
}
"""
CHAIN = [("first", None), ("copy", None), ("second", None)]


class Copying(nn.Module):
    """Products of matrices, a copy of so many bytes, and products again."""

    def __init__(self, width: int, layers: int, copied: int, device: torch.device):
        super().__init__()
        self.parts = CHAIN
        self.one = nn.Sequential(*(nn.Linear(width, width) for _ in range(layers)))
        self.two = nn.Sequential(*(nn.Linear(width, width) for _ in range(layers)))
        self.here = torch.zeros(max(1, copied // 4), device=device)
        self.there = torch.zeros_like(self.here)
        self.to(device)

    def part(self, name: str, _: int | None) -> object:
        return {"first": self.one, "copy": self.copy, "second": self.two}[name]

    def copy(self, x: Tensor) -> Tensor:
        self.there.copy_(self.here)
        return x * 1.0

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.copy(self.one(x)))


def run(device: torch.device, *_: str) -> tuple[str, bool]:
    """The table."""
    gpu = device.type == "cuda"
    width, layers, copied = (2048, 4, 512 << 20) if gpu else (192, 2, 8 << 20)
    two, one = compile_text(TEXT, "copies.pipe"), compile_text(TEXT, "copies.pipe", whole=True)
    rows = []
    work = step_time(two, device, width, layers, 0)
    source = torch.zeros(copied // 4, device=device)
    target = torch.zeros_like(source)
    alone = min(spent(lambda: copies(source, target), device).device for _ in range(TURNS))
    serial = step_time(one, device, width, layers, copied)
    beside = step_time(two, device, width, layers, copied)
    rows.append(["a part of each stage", *shown(gpu, work, alone, serial, beside)])
    plan = compile_file("one_f_one_b", ranks=RANKS, microbatches=OF_RANKS)
    many = 2 * (RANKS - 1) * OF_RANKS
    wide = torch.zeros((8192 if gpu else 64) * width, device=device)
    message = min(spent(lambda: wide.clone(), device).device for _ in range(TURNS))
    together = ranks_time(plan, device, width, one_stream=False)
    behind = ranks_time(plan, device, width, one_stream=True)
    rows.append(
        [f"messages of {RANKS} ranks, 1F1B", *shown(gpu, None, many * message, behind, together)]
    )
    head = ["copies", "computation", "copies alone", "one stream", "streams", "hidden"]
    title = (
        "Overlap of copies with computation: milliseconds of a step; hidden: of the copies' time"
    )
    return table(title, head, rows), True


def copies(source: Tensor, target: Tensor) -> None:
    for _ in range(MICROBATCHES):
        target.copy_(source)


def shown(gpu: bool, work: float | None, alone: float, serial: float, beside: float) -> list[str]:
    """The times; what was hidden is asked of a GPU alone, which has engines that copy."""
    times = ["" if one is None else f"{1e3 * one:.2f}" for one in (work, alone, serial, beside)]
    return [*times, f"{(serial - beside) / alone:.0%}" if gpu else ""]


def step_time(plan: Plan, device: torch.device, width: int, layers: int, copied: int) -> float:
    """Of a step of one rank, on the device, in seconds."""

    def rank(transport: Local) -> float:
        torch.manual_seed(1)
        stage = Copying(width, layers, copied, device)
        x = torch.randn(MICROBATCHES * width // 4, width, device=device)
        executor = Executor(plan, [stage], loss, transport=transport)
        try:
            step = lambda: executor.step(x, target=x, return_outputs=False)  # noqa: E731
            return medians([step], device, TURNS)[0].device
        finally:
            executor.close()

    return run_local(plan, rank, device)[0]


def ranks_time(plan: Plan, device: torch.device, width: int, one_stream: bool) -> float:
    """Of a step of all ranks, of rank 0 from its begin to its end, in seconds; on one stream, or
    each rank and its copies on streams of their own."""
    rows = 8192 if device.type == "cuda" else 64
    x = torch.randn(OF_RANKS * rows, width, device=device)

    def rank(transport: Local) -> float:
        stage = nn.Sequential(nn.Linear(width, width), nn.Linear(width, width)).to(device)
        executor = Executor(plan, [stage], loss, transport=transport)
        times = []
        for _ in range(TURNS + 1):
            transport.gather(None)
            one = spent(lambda: executor.step(x, target=x, return_outputs=False), device)
            times.append(one.device)
        executor.close()
        return sorted(times[1:])[TURNS // 2]

    place: object = local
    usual = local.__dict__["accelerator_of"]
    if one_stream:
        setattr(place, "accelerator_of", lambda _: None)  # noqa: B010
    try:
        return max(run_local(plan, rank, device))
    finally:
        setattr(place, "accelerator_of", usual)  # noqa: B010
