"""The training loop of `python -m stretto.runtime`: builds a rank's stages from the user's model,
takes the steps, says on stderr how it goes, and at the end in one line what came of it."""

import sys
import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from stretto.compiler.plan.plan import read_plan
from stretto.compiler.program.program import Spec
from stretto.runtime.batch import mapped, tensors
from stretto.runtime.errors import Stopped
from stretto.runtime.executor import Executor, own_part
from stretto.runtime.rank_program import Part
from stretto.runtime.store import Board
from stretto.runtime.topology import Place, ends_in_loss, original
from stretto.runtime.train.model import Data, Models, find
from stretto.runtime.train.verify import Verdict, verify
from stretto.runtime.transport import Transport

SECONDS = 0.2  # between two lines of progress


class Job(NamedTuple):
    """What was asked for on the command line."""

    plan: str
    model: str
    data: str | None
    steps: int
    verify: bool
    trust: bool
    timeout: float


class Report(NamedTuple):
    """Rank 0's: the mean loss of every step, the line that sums it up, and whether the gradients
    were those of one process (None where nobody asked)."""

    losses: list[float]
    summary: str
    verified: bool | None


def train(
    job: Job,
    rank: int,
    device: torch.device,
    *,
    board: Board | None = None,
    transport: Transport | None = None,
    building: AbstractContextManager[object] = nullcontext(),  # noqa: B008  it has no state
) -> Report:
    """Trains on one rank. `building` is held while modules are built: ranks that share a process
    share its modules and random numbers. Raises `Stopped`, and what reading the plan raises."""
    part = own_part(job.plan, rank, transport.world if transport else dist.get_world_size())
    spec = part.spec
    with building:
        models, data = _models(job, part), _data(job, part)
        stages = {place: models.stage(place).to(device) for place in part.places}
    executor = Executor(
        job.plan,
        {(spec.pipelines[p].name, s): module for (p, s), module in stages.items()},
        models.loss(),
        transport=transport,
        board=board,
        timeout=job.timeout,
        trust=job.trust,
    )
    optimizers = models.optimizer(stages)
    progress = Progress(spec, job.steps, executor)
    verified = None
    for step in range(1, job.steps + 1):
        x, target = _batch(data, step, device)
        losses: dict[str, list[Tensor]] = {}
        if job.verify and step == 1:

            def build(place: Place) -> torch.nn.Module:
                with building:
                    return models.stage(place).to(device)

            whole = read_plan(job.plan) if rank == 0 else None
            verdict = verify(executor, whole, build, models.loss(), x, target, losses)
            verified = _told(executor, verdict)
        else:
            executor.step(x, target=target, losses=losses, return_outputs=False)
        progress.add(step, x, losses)
        if verified is False:
            break
        for optimizer in optimizers:
            _learn(optimizer, f"--model {job.model}", step)
    executor.close()
    return Report(progress.losses, progress.summary(), verified)


def _models(job: Job, part: Part) -> Models:
    models = Models(part.spec, find(job.model, "model"), f"--model {job.model}")
    for p, pipeline in enumerate(part.spec.pipelines):
        last = Place(p, len(pipeline.stages) - 1)
        if ends_in_loss(part.spec, last) and models.of[original(part.spec, p)].loss is None:
            raise Stopped(f"--model {job.model} has no loss(output, target) to train with")
    return models


def _data(job: Job, part: Part) -> Data:
    if "train" not in part.scripts or all(p.forward_only for p in part.spec.pipelines):
        raise Stopped("this plan has only its forwards, and so nothing to train with")
    data = find(job.data, "data") if job.data else _models(job, part).data()
    if not callable(data):
        raise Stopped(
            "training needs data: --data MODULE:NAME, a function step -> (x, target), the same on "
            "every rank"
            if data is None
            else f"--data {job.data} is a {type(data).__name__}, not a function step -> (x, target)"
        )
    return data


def _batch(data: Data, step: int, device: torch.device) -> tuple[Any, Any]:
    try:
        x, target = data(step)
    except Exception as error:
        raise Stopped(f"--data fails at step {step}: {type(error).__name__}: {error}") from error
    return mapped(lambda t: t.to(device), x), mapped(lambda t: t.to(device), target)


def _learn(optimizer: torch.optim.Optimizer, words: str, step: int) -> None:
    try:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    except Exception as error:
        raise Stopped(
            f"{words}: its optimizer fails at step {step}: {type(error).__name__}: {error}"
        ) from error


def _told(executor: Executor, verdict: Verdict | None) -> bool:
    """Rank 0's verdict, on all ranks."""
    if verdict is not None:
        print(verdict, file=sys.stderr, flush=True)
        executor.board.post("verified", verdict.equal)
    return bool(executor.board.wait(["verified"], 3600)[0])


class Progress:
    """Collects on rank 0 the losses of all ends, and says how it goes."""

    def __init__(self, spec: Spec, steps: int, executor: Executor):
        self.spec, self.steps, self.executor = spec, steps, executor
        self.losses: list[float] = []
        self.begun = self.printed = self.first_done = time.monotonic()
        self.amount, self.unit = 0, "samples"
        self.ends = [
            p
            for p, pipeline in enumerate(spec.pipelines)
            if ends_in_loss(spec, Place(p, len(pipeline.stages) - 1))
        ]

    def add(self, step: int, x: Any, losses: dict[str, list[Tensor]]) -> None:
        board, rank = self.executor.board, self.executor.rank
        for name, found in losses.items():
            board.post(f"loss/{step}/{name}", torch.stack(found).double().tolist())
        if rank != 0:
            return
        keys = [f"loss/{step}/{self.spec.pipelines[p].name}" for p in self.ends]
        everything = [loss for found in self._fetch(keys) for loss in found]
        self.losses.append(sum(everything) / len(everything))
        amount, self.unit = _amount(x)
        now = time.monotonic()
        if step == 1:
            self.first_done = now  # it agrees on shapes and fills caches
        else:
            self.amount += amount
        if step in (1, self.steps) or now - self.printed > SECONDS:
            self.printed = now
            print(
                f"step {step}/{self.steps}  loss {self.losses[-1]:.4f}  {self._speed()}".rstrip(),
                file=sys.stderr,
                flush=True,
            )

    def _fetch(self, keys: list[str]) -> list[list[float]]:
        board = self.executor.board
        found = board.wait(keys, self.executor.timeout)
        for key in keys:
            board.forget(key)
        return found

    def _speed(self) -> str:
        took = time.monotonic() - self.first_done
        return f"{self.amount / took:,.0f} {self.unit}/s" if self.amount and took > 0 else ""

    def summary(self) -> str:
        """One line."""
        if not self.losses:
            return ""
        some = min(10, max(1, len(self.losses) // 2))
        first = sum(self.losses[:some]) / some
        last = sum(self.losses[-some:]) / some
        means = f" (means of {some} steps)" if some > 1 else ""
        took = time.monotonic() - self.begun
        return (
            f"{self.spec.name} on {_count(self.spec.ranks, 'rank')}: "
            f"{_count(len(self.losses), 'step')} in {took:.1f} s, "
            f"loss {first:.4f} -> {last:.4f}{means}, {self._speed()}"
        ).removesuffix(", ")


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _amount(x: Any) -> tuple[int, str]:
    """Whole numbers in two dimensions are tokens; else rows are counted."""
    found = list(tensors(x))
    if found and not found[0].is_floating_point() and found[0].dim() == 2:
        return found[0].numel(), "tokens"
    return (found[0].shape[0] if found and found[0].dim() else 0), "samples"
