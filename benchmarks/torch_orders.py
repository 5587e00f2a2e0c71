"""A found order in PyTorch's own runtime, beside the orders of PyTorch's own classes: stages that
sleep as long as they cost, over gloo, with the gradients of both compared to those of one process.

    python benchmarks/torch_orders.py            # needs torch; some minutes
    python benchmarks/torch_orders.py --unit 4   # milliseconds for one unit of the costs

Costs F : I : W = 10 : 16 : 6 on every stage. PyTorch computes nothing in the I of stage 0, and all
of its backward in the W; so do the costs here. The classes with this placement whose peak is no
higher than the limit are the rivals; the best of them by the clock of the compiler is compared.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, schedules

sys.path.insert(0, str(Path(__file__).parent.parent))

from stretto.compiler.diagnostics.source import Source
from stretto.compiler.driver import compile_text
from stretto.compiler.evaluation import Settings
from stretto.compiler.language.parse import parse_costs
from stretto.compiler.order.budget import Budget
from stretto.compiler.plan.plan import Plan
from stretto.compiler.show import draw
from tests.support.ranks import run

WIDTH, ROWS = 16, 2
F, I, W = 10, 16, 6  # noqa: E741
COSTS = parse_costs(
    Source("costs", f"cost F = {F} cost I = {I} cost W = {W} cost I[0] = 0 cost W[0] = {I + W}")
)
SEARCHED = """\
schedule searched
ranks 4
microbatches 4
param memory = 8
pipeline main {{ stages 2 * ranks  place s -> {place} }}
split B into I, W
limit activations <= memory
"""
PLACES = {"v": "if s < ranks then s else 2 * ranks - 1 - s", "loop": "s % ranks"}
RIVALS = {
    "v": {"zb_v": "ScheduleZBVZeroBubble", "dualpipe_v": "ScheduleDualPipeV"},
    "loop": {"interleaved_zero_bubble": "ScheduleInterleavedZeroBubble"},
}


class Case(NamedTuple):
    """A placement, its sizes and the activations that a rank may hold, in stages."""

    placement: str
    ranks: int
    microbatches: int
    memory: int


CASES = [Case("v", 4, 4, 8), Case("v", 4, 8, 9), Case("v", 4, 8, 8)]


class SleepI(torch.autograd.Function):
    """The identity; its backward, which is part of the input gradient, sleeps."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, seconds: float) -> Tensor:
        ctx.seconds = seconds
        return x.clone()  # torch cannot split the backward of a stage that returns a view

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        time.sleep(ctx.seconds)
        return gradients[0], None


asleep: Any = SleepI.apply  # which has no types


class SleepingStage(nn.Module):
    """A stage that sleeps for `F`, `I` and `W` seconds. The sleep of I lies on the way of the
    output's gradient, that of W on the way to the weight."""

    def __init__(self, stage: int, unit: float):
        super().__init__()
        torch.manual_seed(stage)
        self.weight = nn.Parameter(torch.randn(WIDTH, WIDTH, dtype=torch.float64) / WIDTH**0.5)
        self.unit = unit

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(F * self.unit)
        weight = asleep(self.weight, W * self.unit)
        out: Tensor = asleep(x + torch.tanh(x @ weight), I * self.unit)
        return out


def loss(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().mean()


def batch(microbatches: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(7)
    x, y = torch.randn(2, ROWS * microbatches, WIDTH, dtype=torch.float64)
    return x, y


def alone(stages: int, microbatches: int) -> list[Tensor]:
    """The gradients of one process, without sleep."""
    model = [SleepingStage(s, 0) for s in range(stages)]
    x, y = batch(microbatches)
    for part, target in zip(x.chunk(microbatches), y.chunk(microbatches), strict=True):
        for stage in model:
            part = stage(part)
        (loss(part, target) / microbatches).backward()
    return [stage.weight.grad for stage in model if stage.weight.grad is not None]


def timed(
    rank: int, place: list[int], microbatches: int, unit: float, steps: int, what: tuple[str, str]
) -> tuple[list[float], dict[int, Tensor]]:
    """The seconds of each step of PyTorch's runtime, and the gradients of the first. `what`: a
    class of PyTorch's, or `csv` and the text of a table."""
    own = {s: SleepingStage(s, unit) for s, r in enumerate(place) if r == rank}
    example = torch.zeros(ROWS, WIDTH, dtype=torch.float64, requires_grad=True)
    stages: list[Any] = [
        PipelineStage(
            module, s, len(place), torch.device("cpu"), input_args=example, output_args=example
        )
        for s, module in own.items()
    ]
    for stage in stages:
        stage.stage_index_to_group_rank = dict(enumerate(place))
    if what[0] == "csv":
        made = schedules._PipelineScheduleRuntime(stages, microbatches, loss_fn=loss)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "order.csv"
            file.write_text(what[1])
            made._load_csv(str(file), format="compute_comms")
    else:
        made = getattr(schedules, what[1])(stages, microbatches, loss_fn=loss)
    x, y = batch(microbatches)
    given = (x,) if 0 in own else ()
    wanted: dict[str, Any] = {"target": y} if len(place) - 1 in own else {}
    seconds, gradients = [], {}
    for step in range(steps + 1):  # the first exchanges shapes too
        for module in own.values():
            module.zero_grad()
        dist.barrier()
        start = time.perf_counter()
        made.step(*given, **wanted)
        dist.barrier()
        seconds.append(time.perf_counter() - start)
        if not step:
            gradients = {
                s: m.weight.grad.clone() for s, m in own.items() if m.weight.grad is not None
            }
    return seconds[1:], gradients


def planned(text: str, name: str, case: Case, seconds: float) -> Plan:
    values = {"ranks": case.ranks, "microbatches": case.microbatches}
    if "param memory" in text:
        values["memory"] = case.memory
    return compile_text(text, name, Settings(values=values, costs=COSTS), Budget(seconds=seconds))


def best_rival(case: Case) -> tuple[str, Plan]:
    """PyTorch's class with this placement and no higher peak whose order is the shortest."""
    from stretto.compiler import library
    from stretto.compiler.diagnostics.diagnostic import Rejected

    found = []
    for name, theirs in RIVALS[case.placement].items():
        try:
            plan = planned(library.read(name).text, name, case, 1)
        except Rejected:  # these sizes it cannot do
            continue
        if (
            max(plan.claims["train"].activations)
            <= case.memory * plan.programs["train"].spec.size_unit
        ):
            found.append((plan.claims["train"].makespan, theirs, plan))
    _, theirs, plan = min(found, key=lambda one: one[0])
    return theirs, plan


def compared(case: Case, unit: float, steps: int, seconds: float) -> str:
    """One row of the table: both orders, turn by turn, so that both meet the same load."""
    theirs, rival = best_rival(case)
    text = SEARCHED.format(place=PLACES[case.placement])
    found = planned(text, "searched.pipe", case, seconds)
    place = [stage.rank for stage in found.programs["train"].spec.pipelines[0].stages]
    csv = draw(found, "torch-csv", dialect="compute_comms")
    expected = alone(len(place), case.microbatches)
    times: dict[str, list[float]] = {"class": [], "csv": []}
    for _ in range(steps):
        for what in (("class", theirs), ("csv", csv)):
            outcome = run(case.ranks, timed, place, case.microbatches, unit, 2, what, seconds=300.0)
            times[what[0]] += [
                max(each) for each in zip(*(r[0] for r in outcome.results), strict=True)
            ]
            for own in outcome.results:
                for s, gradient in own[1].items():
                    torch.testing.assert_close(gradient, expected[s], rtol=0, atol=1e-14)
    a, b = rival.claims["train"].makespan, found.claims["train"].makespan
    scale = [p.programs["train"].spec.time_unit for p in (rival, found)]
    ours, other = b / scale[1], a / scale[0]
    first, second = (statistics.median(times[k]) for k in ("class", "csv"))
    return (
        f"| {case.placement}, {case.ranks} ranks, {case.microbatches} micro-batches, "
        f"{case.memory} activations | {theirs} | {other:g} | {ours:g} | {1 - ours / other:.1%} "
        f"| {first:.2f} s ({first / (other * unit):.3f}) | {second:.2f} s "
        f"({second / (ours * unit):.3f}) | {1 - second / first:.1%} |"
    )


def main() -> None:
    """Print the table, a row as soon as it was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--unit", type=float, default=4.0, help="milliseconds of one unit")
    parser.add_argument("--turns", type=int, default=3, help="turns of two steps each")
    parser.add_argument("--search", type=float, default=30.0, help="seconds of the search")
    chosen = parser.parse_args()
    print("| case | best class of PyTorch | its makespan | ours | predicted | its step (÷ ideal) "
          "| ours (÷ ideal) | measured |")  # fmt: skip
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for case in CASES:
        print(compared(case, chosen.unit / 1000, chosen.turns, chosen.search), flush=True)


if __name__ == "__main__":
    main()
