"""The second table of `runtime.py`: whole steps of four processes over gloo, beside PyTorch's
runtime and DeepSeek's class. In comes the folder of a checkout of deepseek-ai/DualPipe, empty if
there is none; out come the table's rows."""

import gc
import importlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import document
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, schedules

sys.path.insert(0, str(Path(__file__).parent.parent))

from examples.gpt import BATCH, CONTEXT, MODEL, VOCABULARY, WIDTH
from stretto.compiler.driver import compile_file
from stretto.compiler.plan.plan import Plan
from stretto.compiler.program.program import Compute
from stretto.runtime import Executor
from tests.support.ranks import run

RANKS, MICROBATCHES, WARM, TURNS = 4, 16, 3, 15
TINY, ROWS = 64, 8  # of the tiny stages: width, and rows of a micro-batch

Step = Callable[[], Any]


class Rival(NamedTuple):
    """A row: what it is called, our schedule, the class on the other side, `torch`'s by name or
    `DeepSeek`'s, and how many stages a rank has."""

    name: str
    ours: str
    side: str
    theirs: str
    stages: int


ROWS_OF_TABLE = (
    Rival("1F1B", "one_f_one_b", "torch", "Schedule1F1B", 1),
    Rival("Interleaved 1F1B", "interleaved_1f1b", "torch", "ScheduleInterleaved1F1B", 2),
    Rival("ZBV", "zb_v", "torch", "ScheduleZBVZeroBubble", 2),
    Rival("DualPipeV", "dualpipe_v", "torch", "ScheduleDualPipeV", 2),
    Rival("DualPipeV", "dualpipe_v", "DeepSeek", "DualPipeV", 2),
    Rival("DualPipe", "dualpipe", "DeepSeek", "DualPipe", 2),
)
COLUMNS = (
    "schedule", "stages", "beside", "step, ms", "theirs", "ratio", "main thread, ms", "theirs",
    "ratio", "not computation: step", "main thread",
)  # fmt: skip


class Turn(NamedTuple):
    """One step on one rank, in seconds: on the wall, and the CPU of its main thread."""

    wall: float
    cpu: float


def table(dualpipe: str) -> Iterator[str]:
    """The rows."""
    yield document.row(COLUMNS)
    yield document.row(["---"] * len(COLUMNS))
    for model in ("tiny", "GPT"):
        for rival in ROWS_OF_TABLE:
            if rival.side == "DeepSeek" and not dualpipe:
                continue
            plan = compile_file(rival.ours, ranks=RANKS, microbatches=MICROBATCHES)
            results = run(RANKS, turns, plan, rival, model, dualpipe, seconds=200).results
            yield document.row(_cells(rival, model, results))
    if not dualpipe:
        yield ""
        yield "Without a checkout of deepseek-ai/DualPipe (`--dualpipe FOLDER`) it has no rows."


def _cells(rival: Rival, model: str, results: list[list[list[Turn]]]) -> Iterator[str]:
    """`results`: by rank and turn what ours, theirs and the bare loop took."""
    wall, cpu = (
        [
            statistics.median(
                over(getattr(own[turn][side], figure) for own in results)
                for turn in range(len(results[0]))
            )
            for side in range(3)
        ]
        for figure, over in (("wall", max), ("cpu", statistics.mean))
    )
    yield from (rival.name, model, rival.side)
    for ours, theirs, _ in (wall, cpu):
        yield from (f"{1000 * ours:.1f}", f"{1000 * theirs:.1f}", f"{ours / theirs:.2f}")
    for ours, theirs, bare in (wall, cpu):
        yield f"{(ours - bare) / (theirs - bare):.2f}"


def turns(rank: int, plan: Plan, rival: Rival, model: str, dualpipe: str) -> list[list[Turn]]:
    """On one rank: by turn ours, theirs and the bare loop."""
    stages = Stages(model, rank, plan)
    executor = Executor(plan, stages.modules(), stages.loss)
    given, wanted = stages.needed()
    theirs = of_torch if rival.side == "torch" else of_deepseek(dualpipe)
    sides: list[Step] = [
        lambda: executor.step(*given, target=wanted, return_outputs=False),
        theirs(stages, rival),
        bare_loop(stages),
    ]
    for _ in range(WARM):
        for side in sides:
            _timed(stages, side)
    gc.collect()
    gc.freeze()  # of all that is loaded: else a collection of it falls into some step
    found = [[_timed(stages, side) for side in sides] for _ in range(TURNS)]
    executor.close()
    return found


def _timed(stages: "Stages", side: Step) -> Turn:
    """A step as it follows an optimizer's: no gradients are there yet."""
    for module in stages.made:
        module.zero_grad()
    dist.barrier()
    wall, cpu = time.perf_counter(), time.thread_time()
    side()
    return Turn(time.perf_counter() - wall, time.thread_time() - cpu)


class Stages:
    """The stages of one rank, and what they are fed."""

    def __init__(self, model: str, rank: int, plan: Plan):
        self.model, self.rank, self.plan = model, rank, plan
        self.spec = plan.programs["train"].spec
        self.places = [
            (pipeline.name, s)
            for pipeline in self.spec.pipelines
            for s, stage in enumerate(pipeline.stages)
            if stage.rank == rank
        ]
        self.many = len(self.spec.pipelines[0].stages)
        self.made: list[nn.Module] = []  # for all sides

    def module(self, stage: int) -> nn.Module:
        """A new one, for one side of a comparison."""
        tiny = self.model == "tiny"
        self.made.append(nn.Linear(TINY, TINY) if tiny else MODEL.stage(stage, self.many))
        return self.made[-1]

    def modules(self) -> dict[tuple[str, int], nn.Module]:
        """All of them."""
        return {place: self.module(place[1]) for place in self.places}

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Of one micro-batch."""
        if self.model == "tiny":
            return (output - target).square().mean()
        return MODEL.loss(output, target)

    def batch(self) -> tuple[Tensor, Tensor]:
        """The batch of a step, and its target."""
        torch.manual_seed(1)
        if self.model == "tiny":
            x, target = torch.randn(2, MICROBATCHES * ROWS, TINY)
            return x, target
        x, target = torch.randint(VOCABULARY, (2, BATCH, CONTEXT))
        return x, target

    def needed(self) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """What a step is given on this rank: x where a pipeline begins, the target where one
        ends."""
        x, target = self.batch()
        ends = {s for _, s in self.places}
        return (x,) if 0 in ends else (), target if self.many - 1 in ends else None

    def between(self) -> tuple[int, ...]:
        """The shape of what travels."""
        return (ROWS, TINY) if self.model == "tiny" else (BATCH // MICROBATCHES, CONTEXT, WIDTH)


# The sides ---------------------------------------------------------------------------------------


def of_torch(stages: Stages, rival: Rival) -> Step:
    """A step of PyTorch's runtime."""
    device = torch.device("cpu")
    own: list[Any] = [
        PipelineStage(stages.module(s), s, stages.many, device)
        for s in sorted(s for _, s in stages.places)
    ]
    kind = getattr(schedules, rival.theirs)
    given: Any = own[0] if rival.stages == 1 else own
    schedule = kind(given, MICROBATCHES, loss_fn=stages.loss)
    x, target = stages.batch()
    first = any(stage.is_first for stage in own)
    last = any(stage.is_last for stage in own)

    def step() -> None:
        more = {"target": target, "losses": []} if last else {}
        schedule.step(*([x] if first else []), **more)

    return step


def of_deepseek(folder: str) -> Callable[[Stages, Rival], Step]:
    """A step of DeepSeek's classes, which are written for GPUs. To run them on the CPU, three names
    are replaced: the device that they ask for and on which they allocate what they receive is the
    CPU. Nothing of their steps is changed."""
    sys.path.insert(0, folder)
    dualpipe: Any = importlib.import_module("dualpipe")
    comm: Any = importlib.import_module("dualpipe.comm")
    torch.cuda.current_device = lambda: "cpu"  # type: ignore[assignment,return-value]

    def buffers() -> list[Tensor]:
        return [
            torch.empty(shape, dtype=comm.TENSOR_DTYPE, requires_grad=True)
            for shape in comm.TENSOR_SHAPES
        ]

    comm.build_from_tensor_shapes = buffers

    def side(stages: Stages, rival: Rival) -> Step:
        comm.set_p2p_tensor_shapes([stages.between()])
        comm.set_p2p_tensor_dtype(torch.float32)
        both_ways = rival.theirs == "DualPipe"
        numbers = [stages.rank, stages.many - 1 - stages.rank]
        modules = [stages.module(s) for s in numbers]
        model = getattr(dualpipe, rival.theirs)(tuple(modules))
        x, target = stages.batch()
        if both_ways:  # each end enters half of the batch, and judges the other end's
            half = 0 if stages.rank == 0 else 1
            x, target = x.chunk(2)[half], target.chunk(2)[1 - half]
        ends = (0, RANKS - 1) if both_ways else (0,)

        def step() -> None:
            if stages.rank in ends:
                model.step(x, num_chunks=MICROBATCHES, criterion=stages.loss, labels=(target,))
            else:
                model.step(None, num_chunks=MICROBATCHES)
            if both_ways:
                sum_copies(modules, RANKS - 1 - stages.rank)

        return step

    return side


def sum_copies(modules: list[nn.Module], peer: int) -> None:
    """DualPipe's user adds the gradients of the two copies of every stage: my first is the peer's
    second."""
    own = [[p.grad for p in module.parameters() if p.grad is not None] for module in modules]
    theirs = [[torch.empty_like(grad) for grad in grads] for grads in reversed(own)]
    sends = [dist.P2POp(dist.isend, grad, peer) for grads in own for grad in grads]
    receives = [dist.P2POp(dist.irecv, grad, peer) for grads in theirs for grad in grads]
    for work in dist.batch_isend_irecv(sends + receives):
        work.wait()
    for grads, others in zip(own, reversed(theirs), strict=True):
        for grad, other in zip(grads, others, strict=True):
            grad += other


def bare_loop(stages: Stages) -> Step:
    """The computations of the rank's list, in its order, on inputs that are there already. The
    whole backward is one call, at B or at I."""
    own = stages.modules()
    names = [pipeline.name for pipeline in stages.spec.pipelines]
    instructions = stages.plan.programs["train"].ranks[stages.rank]
    listed = [one.operation for one in instructions if isinstance(one, Compute)]
    between, parts = torch.randn(stages.between()), [t.chunk(MICROBATCHES) for t in stages.batch()]

    def step() -> None:
        kept: dict[tuple[int, int, int], tuple[Tensor, Tensor | None]] = {}
        for kind, p, s, m, *_ in listed:
            if kind == "F":
                x = parts[0][m] if s == 0 else between.detach().requires_grad_()
                output = own[names[p], s](x)
                if s == stages.many - 1:
                    kept[p, s, m] = stages.loss(output, parts[1][m]) / MICROBATCHES, None
                else:
                    kept[p, s, m] = output, between
            elif kind in "BI":
                torch.autograd.backward(*kept.pop((p, s, m)))

    return step
