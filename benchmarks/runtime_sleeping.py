"""The third table of `runtime.py`: what a step takes beyond its prediction where every operation
sleeps, for every schedule of the library. Sleeping stages need no core, so that what is measured is
the way from the end of one operation to the start of the next."""

import gc
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import document
import torch
import torch.distributed as dist
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent.parent))

from stretto.compiler import library
from stretto.compiler.analysis.explanation import explain
from stretto.compiler.diagnostics.diagnostic import Rejected
from stretto.compiler.diagnostics.source import Source
from stretto.compiler.driver import compile_text
from stretto.compiler.evaluation import Settings
from stretto.compiler.language.parse import parse_costs
from stretto.compiler.order.budget import Budget
from stretto.compiler.plan.plan import Plan
from stretto.compiler.problem.spec import Costs
from stretto.compiler.program.program import Compute, Spec
from stretto.runtime import Executor
from tests.support.ranks import run

RANKS, TURNS, WIDTH = (4, 8), 2, 4
BARE = 12  # sleeps of the loop that does nothing else, at most
MILLISECONDS = 40  # of every operation
COLUMNS = (
    "schedule", "ranks", "predicted, s", "measured, s", "ratio", "operations on the chain",
    "beyond, per operation, ms", "a bare sleep, ms", "difference, ms",
)  # fmt: skip


class Sleep(torch.autograd.Function):
    """The identity; its backward sleeps so many seconds, asked for when it runs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, seconds: list[float]) -> Tensor:
        ctx.seconds = seconds
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        time.sleep(ctx.seconds[0])
        return gradients[0], None


asleep: Any = Sleep.apply  # which has no types


class SleepingStage(nn.Module):
    """A stage whose F, I (or whole B) and W sleep for so many seconds, once it is `awake`."""

    def __init__(self, seconds: dict[str, float]):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))
        self.seconds = {kind: [0.0] for kind in "FIW"}
        self.later = seconds

    def fall_asleep(self) -> None:
        """From now on it sleeps."""
        for kind, cell in self.seconds.items():
            cell[0] = self.later.get(kind, 0.0)

    def forward(self, *given: Tensor) -> Tensor:
        time.sleep(self.seconds["F"][0])
        weight = asleep(self.weight, self.seconds["W"])
        out: Tensor = asleep(sum(given) * weight, self.seconds["I"])
        return out


class Case(NamedTuple):
    """A plan, the seconds of one tick, what it predicts (seconds), and how many operations its
    critical chain has."""

    plan: Plan
    tick: float
    predicted: float
    chain: int


def table() -> Iterator[str]:
    """The rows."""
    yield document.row(COLUMNS)
    yield document.row(["---"] * len(COLUMNS))
    for ranks in RANKS:
        for name in library.names():
            case = case_of(name, ranks)
            results = run(ranks, measured, case.plan, case.tick, seconds=200).results
            steps = [max(own[0][turn] for own in results) for turn in range(TURNS)]
            step = statistics.median(steps)
            bare = statistics.median(one for own in results for one in own[1])
            beyond = (step - case.predicted) / case.chain
            yield document.row(
                [
                    name,
                    ranks,
                    f"{case.predicted:.2f}",
                    f"{step:.3f}",
                    f"{step / case.predicted:.4f}",
                    case.chain,
                    *(f"{1000 * one:.2f}" for one in (beyond, bare, beyond - bare)),
                ]
            )


def case_of(name: str, ranks: int) -> Case:
    """The schedule with as many micro-batches as ranks, or twice as many where it needs them."""
    try:
        plan = planned(name, ranks, ranks)
    except Rejected:
        plan = planned(name, ranks, 2 * ranks)
    program = next(iter(plan.programs.values()))
    chain = explain(program).chain
    forward = max(stage.F for p in program.spec.pipelines for stage in p.stages)
    tick = MILLISECONDS / 1000 / forward
    many = sum(1 + link.operation.count("|") for link in chain)
    return Case(plan, tick, plan.claims[program.name].makespan * tick, many)


def planned(name: str, ranks: int, microbatches: int) -> Plan:
    """The plan where every F, I and W takes one unit, and so does a whole backward; of stages with
    parts, which then run whole, each takes what the file says."""
    text = library.read(name).text
    kinds = "FIW" if "split B" in text else "FB"
    costs = parse_costs(Source("costs.pipe", "\n".join(f"cost {kind} = 1" for kind in kinds)))
    whole = "split F" in text
    settings = Settings(
        values={"ranks": ranks, "microbatches": microbatches}, costs=None if whole else costs
    )
    return compile_text(text, name, settings, Budget(seconds=5), whole=whole)


def measured(rank: int, plan: Plan, tick: float) -> tuple[list[float], list[float]]:
    """On one rank, by turn the seconds of a step, and how much longer than asked for a sleep takes
    where the rank only sleeps, as long as its first operations do."""
    train = "train" in plan.programs
    program = plan.programs["train" if train else "eval"]
    spec, costs = program.spec, Costs(program.spec)
    split = any(
        isinstance(i, Compute) and i.operation.kind == "I" for r in program.ranks for i in r
    )
    own = {
        (pipeline.name, s): SleepingStage(
            {
                "F": tick * stage.F,
                "I": tick * (stage.I if split else stage.B),
                "W": tick * stage.W if split else 0.0,
            }
        )
        for pipeline in spec.pipelines
        for s, stage in enumerate(pipeline.stages)
        if stage.rank == rank
    }
    sleeps = [
        tick * costs.of(one.operation) for one in program.ranks[rank] if isinstance(one, Compute)
    ]
    del sleeps[BARE:]
    executor = Executor(plan, own, loss)
    given, target = batch(spec)

    def step() -> None:
        if train:
            executor.step(given, target=target, return_outputs=False)
        else:
            executor.eval(given, return_outputs=False)

    for _ in range(2):  # the first one learns the shapes
        step()
    for stage in own.values():
        stage.fall_asleep()
    gc.collect()
    gc.freeze()  # of all that is loaded: else a collection of it falls into some step
    steps, bare = [], []
    for _ in range(TURNS):
        dist.barrier()
        begun = time.perf_counter()
        for seconds in sleeps:
            time.sleep(seconds)
        bare.append((time.perf_counter() - begun - sum(sleeps)) / len(sleeps))
        dist.barrier()
        begun = time.perf_counter()
        step()
        steps.append(time.perf_counter() - begun)
    executor.close()
    return steps, bare


def batch(spec: Spec) -> tuple[Any, Any]:
    """x and target, of each model of the plan."""
    models = [p for p in spec.pipelines if p.replicates < 0]
    rows = {
        one.name: sum(
            p.microbatches for k, p in enumerate(spec.pipelines) if k == at or p.replicates == at
        )
        for at, one in enumerate(spec.pipelines)
        if one in models
    }
    x = {name: torch.randn(many, WIDTH) for name, many in rows.items()}
    only = next(iter(x.values()))
    return (x, x) if len(x) > 1 else (only, only)


def loss(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().mean()
