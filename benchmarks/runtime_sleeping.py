"""The third table of `runtime.py`: what a step takes beyond its prediction where every operation
sleeps, for every schedule of the library, beside bare loops over the same sleeps in the same
processes. Sleeping stages need no core, so that what is measured is the way from the end of one
operation to the start of the next."""

import gc
import os
import socket
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import document
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, schedules

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
from stretto.compiler.program.program import (
    Compute,
    Operation,
    Program,
    Receive,
    Send,
    Spec,
    Wait,
)
from stretto.runtime import Executor
from tests.support.ranks import run

RANKS, TURNS, WIDTH = (4, 8), 3, 4
BARE = 12  # operations of the loops without messages, at most
MILLISECONDS = 40  # of every operation
THEIRS = {
    "gpipe": "ScheduleGPipe",
    "one_f_one_b": "Schedule1F1B",
    "interleaved_1f1b": "ScheduleInterleaved1F1B",
    "looped_bfs": "ScheduleLoopedBFS",
}
"""PyTorch's classes whose orders take as long as ours."""

COLUMNS = (
    "schedule", "ranks", "predicted, s", "measured, s", "ratio", "PyTorch's ratio",
    "operations on the chain", "beyond, per operation, ms", "a bare sleep", "difference",
    "of it: start of the step", "autograd by hand", "a byte by socket", "the rest",
)  # fmt: skip


class Product(torch.autograd.Function):
    """x times a weight; the forward sleeps so many seconds, and so does the backward."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, before: list[float], behind: list[float]
    ) -> Tensor:
        time.sleep(before[0])
        ctx.x, ctx.weight, ctx.seconds = x.detach(), weight.detach(), behind
        return x * weight

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        time.sleep(ctx.seconds[0])
        return gradients[0] * ctx.weight, (gradients[0] * ctx.x).sum(0), None, None


class Later(torch.autograd.Function):
    """The identity; its backward sleeps so many seconds."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, seconds: list[float]) -> Tensor:
        ctx.seconds = seconds
        return weight.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        time.sleep(ctx.seconds[0])
        return gradients[0], None


product: Any = Product.apply  # which have no types
later: Any = Later.apply


class SleepingStage(nn.Module):
    """A stage whose F, I (or whole B) and W sleep for so many seconds, once it is `awake`. It has
    as few operations as that needs."""

    def __init__(self, seconds: dict[str, float]):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))
        self.split = seconds["W"] > 0
        self.seconds = {kind: [0.0] for kind in "FIW"}
        self.later = seconds

    def fall_asleep(self) -> None:
        """From now on it sleeps."""
        for kind, cell in self.seconds.items():
            cell[0] = self.later[kind]

    def forward(self, *given: Tensor) -> Tensor:
        return self.both(given)[1]

    def both(self, given: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Where W begins, and the output."""
        x: Any = given[0] if len(given) == 1 else sum(given)
        forward, behind = self.seconds["F"], self.seconds["I"]
        if not self.split:
            return self.weight, product(x, self.weight, forward, behind)
        time.sleep(forward[0])
        weight = later(self.weight, self.seconds["W"])
        return weight, later(x * weight, behind)


class Case(NamedTuple):
    """A plan, the seconds of one tick, what it predicts (seconds), how many operations its critical
    chain has, and the class of PyTorch's with this order, if there is one."""

    plan: Plan
    tick: float
    predicted: float
    chain: int
    theirs: str

    @property
    def program(self) -> Program:
        """What is measured: a training step, or an evaluation where there is none."""
        programs = self.plan.programs
        return programs["train" if "train" in programs else "eval"]


class Turn(NamedTuple):
    """On one rank, in seconds: a step, what of it was before its first instruction, the plan's
    sleeps with a byte for a message, PyTorch's step (0 where there is none); and how much longer
    than asked for a sleep takes alone, and one inside of autograd."""

    step: float
    start: float
    by_bytes: float
    theirs: float
    alone: float
    by_hand: float


def table() -> Iterator[str]:
    """The rows."""
    yield document.row(COLUMNS)
    yield document.row(["---"] * len(COLUMNS))
    for ranks in RANKS:
        for name in library.names():
            case = case_of(name, ranks)
            results = run(ranks, measured, case, seconds=200).results
            yield document.row([name, ranks, *cells(case, results)])
    yield ""
    prompt = os.sched_getscheduler(0) in (os.SCHED_FIFO, os.SCHED_RR)
    yield "At real-time priority (`chrt -r 5`)." if prompt else "At ordinary priority."


def cells(case: Case, results: list[list[Turn]]) -> Iterator[str]:
    """Of a row. `results`: by rank and turn."""
    step, start, by_bytes, theirs = (
        statistics.median(max(turn[side] for turn in turns) for turns in zip(*results, strict=True))
        for side in range(4)
    )
    every = [turn for own in results for turn in own]
    alone = statistics.median(turn.alone for turn in every)
    by_hand = statistics.median(turn.by_hand for turn in every)

    def beyond(seconds: float) -> float:
        return (seconds - case.predicted) / case.chain

    yield f"{case.predicted:.2f}"
    yield f"{step:.3f}"
    yield f"{step / case.predicted:.4f}"
    yield f"{theirs / case.predicted:.4f}" if case.theirs else ""
    yield str(case.chain)
    difference = beyond(step) - alone
    known = (start / case.chain, by_hand - alone, beyond(by_bytes) - alone)
    figures = (beyond(step), alone, difference, *known, difference - sum(known))
    yield from (f"{1000 * one:.2f}" for one in figures)


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
    predicted = plan.claims[program.name].makespan * tick
    return Case(plan, tick, predicted, many, THEIRS.get(name, ""))


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


# On one rank -------------------------------------------------------------------------------------


def measured(rank: int, case: Case) -> list[Turn]:
    """By turn: a step and the loops beside it, all ranks at once."""
    train = case.program.name == "train"
    own = stages(rank, case)
    executor = Executor(case.plan, own, loss)
    given, target = batch(case.program.spec)
    began = 0.0

    @contextmanager
    def around(_: Any) -> Iterator[None]:
        nonlocal began
        began = time.perf_counter()
        yield

    executor.around = around

    def step() -> None:
        if train:
            executor.step(given, target=target, return_outputs=False)
        else:
            executor.eval(given, return_outputs=False)

    by_bytes = with_bytes(rank, case)
    alone, by_hand = bare_loops(rank, case, own)
    theirs, others = torchs_step(rank, case) if case.theirs else (None, [])
    for _ in range(2):  # the first one learns the shapes
        step()
        if theirs is not None:
            theirs()
    by_bytes(0.0)
    for stage in (*own.values(), *others):
        stage.fall_asleep()
    gc.collect()
    gc.freeze()  # of all that is loaded: else a collection of it falls into some step
    turns = []
    for _ in range(TURNS):
        bare, hand = alone(), by_hand()
        bytes_ = seconds_of(lambda: by_bytes(1.0))
        other = 0.0 if theirs is None else seconds_of(theirs)
        dist.barrier()
        begun = time.perf_counter()
        step()
        ended = time.perf_counter()
        turns.append(Turn(ended - begun, began - begun, bytes_, other, bare, hand))
    executor.close()
    return turns


def stages(rank: int, case: Case) -> dict[tuple[str, int], SleepingStage]:
    """Those of the rank."""
    split = any(one.kind == "I" for r in range(len(case.program.ranks)) for one in listed(r, case))
    return {
        (pipeline.name, s): SleepingStage(
            {
                "F": case.tick * stage.F,
                "I": case.tick * (stage.I if split else stage.B),
                "W": case.tick * stage.W if split else 0.0,
            }
        )
        for pipeline in case.program.spec.pipelines
        for s, stage in enumerate(pipeline.stages)
        if stage.rank == rank
    }


def listed(rank: int, case: Case) -> list[Operation]:
    """The rank's operations, in the plan's order."""
    return [one.operation for one in case.program.ranks[rank] if isinstance(one, Compute)]


def seconds_of(side: Callable[[], object]) -> float:
    """Of one call on this rank, which all ranks begin together."""
    dist.barrier()
    begun = time.perf_counter()
    side()
    return time.perf_counter() - begun


def bare_loops(
    rank: int, case: Case, own: dict[tuple[str, int], SleepingStage]
) -> tuple[Callable[[], float], Callable[[], float]]:
    """Two loops over the rank's first operations, without messages: one that only sleeps, and one
    that calls the stages and autograd as one would by hand. Each gives the seconds that an
    operation takes beyond what it asks for."""
    costs = Costs(case.program.spec)
    operations = listed(rank, case)[:BARE]
    sleeps = [case.tick * costs.of(one) for one in operations]
    names = [pipeline.name for pipeline in case.program.spec.pipelines]
    learn, x = case.program.name == "train", torch.randn(1, WIDTH)

    def sleep() -> None:
        for seconds in sleeps:
            time.sleep(seconds)

    def run_stages() -> None:
        kept: dict[tuple[int, ...], tuple[Tensor, ...]] = {}
        for kind, p, s, m, *_ in operations:
            if kind == "F":
                leaf = x.detach().requires_grad_(learn)
                kept[p, s, m] = leaf, *own[names[p], s].both((leaf,))
            elif kind == "B":
                leaf, _, out = kept.pop((p, s, m))
                torch.autograd.backward(out, x)
            elif kind == "I":
                leaf, weight, out = kept[p, s, m]
                kept[p, s, m] = weight, torch.autograd.grad(out, (leaf, weight), x)[1]
            elif kind == "W":
                weight, gradient = kept.pop((p, s, m))
                torch.autograd.backward(weight, gradient)

    def beyond(side: Callable[[], object]) -> float:
        return (seconds_of(side) - sum(sleeps)) / len(sleeps)

    def by_hand() -> float:
        with torch.set_grad_enabled(learn):
            return beyond(run_stages)

    return lambda: beyond(sleep), by_hand


def with_bytes(rank: int, case: Case) -> Callable[[float], None]:
    """The rank's list, of which computations only sleep and messages are a byte through a socket of
    the channel's own; sums over copies are left out. It is given what to multiply the sleeps by."""
    costs, ends = Costs(case.program.spec), wires(rank, case)
    instructions = case.program.ranks[rank]

    def step(times: float) -> None:
        awaited: dict[int, socket.socket] = {}
        for one in instructions:
            match one:
                case Compute(operation):
                    time.sleep(times * case.tick * costs.of(operation))
                case Send(_, channel):
                    ends[channel].send(b"x")
                case Receive(slot, channel):
                    awaited[slot] = ends[channel]
                case Wait(slot) if slot in awaited:
                    awaited.pop(slot).recv(1)
                case _:
                    pass

    return step


def wires(rank: int, case: Case) -> dict[int, socket.socket]:
    """A TCP connection for every channel of this rank."""
    store = dist.distributed_c10d._get_default_store()
    doors, ends = {}, {}
    for number, channel in enumerate(case.program.channels):
        if channel.target == rank:
            doors[number] = socket.create_server(("127.0.0.1", 0))
            store.set(f"wire/{number}", str(doors[number].getsockname()[1]))
    for number, channel in enumerate(case.program.channels):
        if channel.source == rank:
            port = int(store.get(f"wire/{number}"))
            ends[number] = socket.create_connection(("127.0.0.1", port))
            ends[number].setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for number, door in doors.items():
        ends[number], _ = door.accept()
        door.close()
    return ends


def torchs_step(rank: int, case: Case) -> tuple[Callable[[], object], list[SleepingStage]]:
    """A step of PyTorch's runtime, and its stages."""
    own, (pipeline,) = stages(rank, case), case.program.spec.pipelines
    many, device = len(pipeline.stages), torch.device("cpu")
    given: list[Any] = [PipelineStage(module, s, many, device) for (_, s), module in own.items()]
    single = case.theirs in ("ScheduleGPipe", "Schedule1F1B")
    kind = getattr(schedules, case.theirs)
    schedule = kind(given[0] if single else given, pipeline.microbatches, loss_fn=loss)
    x, target = batch(case.program.spec)
    more = {"target": target, "losses": []} if any(one.is_last for one in given) else {}
    first = [x] if any(one.is_first for one in given) else []
    return lambda: schedule.step(*first, **more), list(own.values())


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
