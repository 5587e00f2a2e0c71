"""What a step on two streams takes, beside what the plan says: four ranks, stages whose parts sleep
for 30 to 60 ms, so that nothing but the order of the parts and their waiting is measured. Beside it
the same order with every stage whole, on one stream.

    python benchmarks/streams.py            # needs torch; half a minute
"""

import gc
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent.parent))

from stretto.compiler import library
from stretto.compiler.diagnostics.source import Source
from stretto.compiler.driver import compile_text
from stretto.compiler.evaluation import Settings
from stretto.compiler.language.parse import parse_costs
from stretto.compiler.plan.plan import Plan
from stretto.runtime import Executor
from tests.support.ranks import run

RANKS, MICROBATCHES, WIDTH, STEPS = 4, 8, 4, 5
COSTS: dict[str, dict[str, int]] = {  # milliseconds
    "attention": {"F": 40, "I": 60, "W": 30},
    "dispatch": {"F": 50, "I": 60},
    "mlp": {"F": 35, "I": 45, "W": 40},
    "combine": {"F": 60, "I": 40},
}


class Sleeping(torch.autograd.Function):
    """Sleeps so many milliseconds forward, and so many backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, forward: int, backward: int) -> Tensor:
        ctx.backward_time = backward
        time.sleep(forward / 1000)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        time.sleep(ctx.backward_time / 1000)
        return gradients[0], None, None


class Stage(nn.Module):
    """The four parts of a layer. A part with weights has one that sleeps where its gradient is
    computed: in W, or where nothing is split behind I."""

    parts = tuple((name, 0) for name in COSTS)

    def __init__(self) -> None:
        super().__init__()
        self.scales = nn.ParameterDict()
        for name, costs in COSTS.items():
            if "W" in costs:
                self.scales[name] = nn.Parameter(torch.ones(WIDTH))
                self.scales[name].register_hook(lambda _, ms=costs["W"]: time.sleep(ms / 1000))

    def part(self, name: str, layer: int) -> Any:
        def run(x: Tensor) -> Tensor:
            if name in self.scales:  # before it sleeps, so that the first part has an I too
                x = x * self.scales[name]
            return Sleeping.apply(x, COSTS[name]["F"], COSTS[name]["I"])  # type: ignore[no-any-return, no-untyped-call]

        return run


def loss(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().mean()


def plan(name: str, whole: bool) -> Plan:
    """The plan of a schedule of the library with these costs."""
    rows = [
        f"cost {kind}.{part} = {ms}" for part, costs in COSTS.items() for kind, ms in costs.items()
    ]
    settings = Settings(
        values={"ranks": RANKS, "microbatches": MICROBATCHES},
        costs=parse_costs(Source("costs.pipe", "\n".join(rows))),
    )
    return compile_text(library.read(name)[1], name, settings, whole=whole)


def seconds(rank: int, plan: Plan) -> list[float]:
    """When the rank began and ended each step, on the clock that all processes share."""
    spec = plan.programs["train"].spec
    own = {
        (pipeline.name, s): Stage()
        for pipeline in spec.pipelines
        for s, stage in enumerate(pipeline.stages)
        if stage.rank == rank
    }
    executor = Executor(plan, own, loss)
    x = torch.randn(MICROBATCHES, WIDTH)
    found = []
    gc.collect()
    gc.freeze()  # of all that is loaded: else a collection of it falls into some step
    for step in range(STEPS + 1):
        dist.barrier()
        begun = time.monotonic()
        executor.step(x, target=x, return_outputs=False)
        if step:  # the first one learns the shapes
            found.append(time.monotonic() - begun)
    executor.close()
    return found


def main() -> None:
    """Prints the table."""
    print(f"{RANKS} ranks, {MICROBATCHES} micro-batches, parts of 30 to 60 ms; seconds per step")
    print(f"{'':14} {'':9} {'predicted':>9} {'measured':>9} {'ratio':>6}")
    for name in ("deepseek_v3",):
        for whole in (False, True):
            made = plan(name, whole)
            claim = made.claims["train"].makespan / made.programs["train"].spec.time_unit / 1000
            results = run(RANKS, seconds, made, seconds=120).results
            best = min(max(own[step] for own in results) for step in range(STEPS))
            kind = "--whole" if whole else "two streams"
            print(f"{name:14} {kind:11} {claim:7.3f} {best:9.3f} {best / claim:6.3f}", flush=True)


if __name__ == "__main__":
    main()
