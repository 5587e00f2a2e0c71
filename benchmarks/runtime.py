"""What running a step costs, beside PyTorch's own runtime: CPU time of all threads of a rank and
the time on the wall, per compute operation, with stages so small that little else is left. Both in
the same run, on the same ranks, over gloo.

    python benchmarks/runtime.py            # needs torch; about a minute
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, schedules

sys.path.insert(0, str(Path(__file__).parent.parent))

from stretto.compiler.driver import compile_file
from stretto.compiler.plan.plan import Plan
from stretto.compiler.program.program import Compute
from stretto.runtime import Executor
from tests.support.ranks import run

WIDTH, ROWS, STEPS = 64, 8, 15
RANKS, MICROBATCHES = 4, 16
PAIRS: list[tuple[str, str, int]] = [  # ours, torch's, stages on a rank
    ("gpipe", "ScheduleGPipe", 1),
    ("one_f_one_b", "Schedule1F1B", 1),
    ("interleaved_1f1b", "ScheduleInterleaved1F1B", 2),
    ("zb_v", "ScheduleZBVZeroBubble", 2),
    ("dualpipe_v", "ScheduleDualPipeV", 2),
    ("dualpipe", "", 2),
]


def loss(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().mean()


def measured(step: Callable[[], Any]) -> tuple[float, float]:
    """Medians over steps, in seconds: CPU of this rank, wall."""
    step()
    cpu, wall = [], []
    for _ in range(STEPS):
        dist.barrier()
        a, b = time.process_time(), time.perf_counter()
        step()
        cpu.append(time.process_time() - a)
        wall.append(time.perf_counter() - b)
    return sorted(cpu)[STEPS // 2], min(wall)


def both(rank: int, plan: Plan, theirs: str, count: int) -> list[tuple[float, float]]:
    """On one rank, our runtime and then torch's, with `count` stages on a rank; seconds as
    `measured` gives them."""
    spec = plan.programs["train"].spec
    x, target = torch.randn(MICROBATCHES * ROWS, WIDTH), torch.randn(MICROBATCHES * ROWS, WIDTH)
    own = {
        (pipeline.name, s): nn.Linear(WIDTH, WIDTH)
        for pipeline in spec.pipelines
        for s, stage in enumerate(pipeline.stages)
        if stage.rank == rank
    }
    executor = Executor(plan, own, loss)
    found = [measured(lambda: executor.step(x, target=target, return_outputs=False))]
    executor.close()
    if theirs:
        stages = [
            PipelineStage(nn.Linear(WIDTH, WIDTH), s, RANKS * count, torch.device("cpu"))
            for _, s in sorted(own)
        ]
        kind = getattr(schedules, theirs)
        schedule = kind(stages[0] if count == 1 else stages, MICROBATCHES, loss_fn=loss)
        first = any(stage.is_first for stage in stages)
        last = any(stage.is_last for stage in stages)

        def step() -> None:
            more = {"target": target, "losses": []} if last else {}
            schedule.step(*([x] if first else []), **more)

        found.append(measured(step))
    return found


def main() -> None:
    """Prints the table."""
    print(f"{RANKS} ranks, {MICROBATCHES} micro-batches; microseconds per compute operation")
    print(f"{'':18} {'stretto: CPU':>13} {'wall':>6} {'torch: CPU':>13} {'wall':>6}")
    for name, theirs, count in PAIRS:
        plan = compile_file(name, ranks=RANKS, microbatches=MICROBATCHES)
        lists = plan.programs["train"].ranks
        many = [sum(isinstance(i, Compute) for i in own) for own in lists]
        results = run(RANKS, both, plan, theirs, count, seconds=120).results
        row = f"{name:18}"
        for side in range(len(results[0])):
            cpu = sum(results[r][side][0] for r in range(RANKS)) / sum(many)
            wall = max(results[r][side][1] for r in range(RANKS)) / max(many)
            row += f" {cpu * 1e6:13.0f} {wall * 1e6:6.0f}"
        print(row, flush=True)


if __name__ == "__main__":
    main()
