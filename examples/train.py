"""A training loop of one's own: what `stretto run` does, written out, to be changed.

    stretto compile dualpipe --set ranks=4 --set microbatches=8 -o plan.jsonl
    torchrun --standalone --nproc-per-node 4 examples/train.py plan.jsonl --steps 40 --clip 1

Every rank runs this file. It builds the stages that the plan gives it, and nothing else; then all
ranks take the same steps, and call what has to be called by all: `step`, `eval`, clipping, the
scaler, and checkpoints. `docs/trainer.md` goes through it.
"""

import argparse
import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from gpt import DATA, GPT, RATE  # type: ignore[import-not-found]
from torch import Tensor

from stretto.runtime import (
    Executor,
    GradScaler,
    checkpoint,
    clip_grad_norm_,
    report_errors,
    stage_counts,
    stages_of,
)

EVALUATION = range(10_000, 10_004)  # batches that training does not come to


def train(chosen: argparse.Namespace, rank: int, transport: Any = None) -> list[float]:
    """Trains as one rank of the plan; returns the mean loss of each step that this rank knows.
    `transport` is given where ranks are threads, as in a notebook."""
    model = GPT()
    counts = stage_counts(chosen.plan)
    stages = {
        key: model.stage(key.stage, counts[key.pipeline]).to(device())
        for key in stages_of(chosen.plan, rank)
    }
    executor = Executor(chosen.plan, stages, model.loss, transport=transport, on_nonfinite="stop")
    optimizer = make_optimizer(executor)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, (step + 1) / 10))
    scaler = GradScaler(executor, enabled=chosen.amp == "float16")
    state: dict[str, Any] = {"schedule": schedule, "scaler": scaler}
    begun = 0
    if chosen.checkpoints:
        begun = checkpoint.load(executor, chosen.checkpoints, optimizer, extra=state) or 0

    told = []
    for step in range(begun + 1, chosen.steps + 1):
        losses: list[Tensor] = []
        for k in range(chosen.accumulate):  # gradients add up in `.grad`
            losses += take(executor, chosen, chosen.accumulate * (step - 1) + k + 1)
        norm = clip_grad_norm_(executor, chosen.clip)  # unscales too
        scaler.step(optimizer)  # on all ranks or on none
        scaler.update()
        optimizer.zero_grad()
        schedule.step()

        if losses:  # a rank with a last stage; with copies, each has those of its direction
            told.append(torch.stack(losses).mean().item())
            print(f"step {step}  rank {rank}  loss {told[-1]:.4f}  norm {norm:.3f}", flush=True)
        if chosen.eval_every and step % chosen.eval_every == 0:
            evaluate(executor, chosen, rank, step)
        if chosen.checkpoints and step % chosen.save_every == 0:
            checkpoint.save(executor, chosen.checkpoints, step, optimizer, extra=state)
    executor.close()
    return told


def make_optimizer(executor: Executor) -> torch.optim.Optimizer:
    """No decay of norms, biases and embeddings: groups by the names of this rank's parameters. Each
    parameter comes once, in however many places it stands."""
    named = list(executor.named_parameters())  # as `main[3].blocks.0.widen.weight`
    decayed = [p for name, p in named if p.dim() == 2 and ".embedding." not in name]
    others = [p for _, p in named if not any(p is q for q in decayed)]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=RATE, weight_decay=0.1)


def take(executor: Executor, chosen: argparse.Namespace, number: int) -> list[Tensor]:
    """Adds the gradients of one batch; returns this rank's losses. The batch is the same on every
    rank; each uses its share."""
    x, target = batch(number)
    losses: list[Tensor] = []
    many = chosen.accumulate * microbatches(executor)
    with precision(chosen):
        executor.step(x, target=target, losses=losses, return_outputs=False, weight_total=many)
    return losses


def microbatches(executor: Executor) -> int:
    """Those of a step, over all copies of the model."""
    return executor.plan.spec.microbatches


def precision(chosen: argparse.Namespace) -> AbstractContextManager[Any]:
    """Around a step: its forwards then compute in lower precision, its backwards as they should."""
    if not chosen.amp:
        return nullcontext()
    return torch.autocast(device().type, getattr(torch, chosen.amp))


def batch(number: int) -> tuple[Tensor, Tensor]:
    """x and target of a batch, on this rank's device."""
    x, target = DATA(number)
    return x.to(device()), target.to(device())


def device() -> torch.device:
    """This rank's."""
    return torch.device("cuda") if torch.cuda.is_available() else torch.device("cpu")


def evaluate(executor: Executor, chosen: argparse.Namespace, rank: int, step: int) -> None:
    """The forwards alone, of batches that training does not see."""
    modules = [stage.module for stage in executor.stages.values()]
    for module in modules:
        module.eval()
    found: list[Tensor] = []
    for number in EVALUATION:
        x, target = batch(number)
        losses: list[Tensor] = []
        with precision(chosen):
            executor.eval(x, target=target, losses=losses, return_outputs=False)
        found += losses
    for module in modules:
        module.train()
    if found:
        mean = torch.stack(found).mean()
        print(f"step {step}  rank {rank}  eval loss {mean:.4f}", flush=True)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description="Train the GPT of gpt.py by a plan.")
    made.add_argument("plan")
    made.add_argument("--steps", type=int, default=20)
    made.add_argument("--accumulate", type=int, default=1, help="batches for a step")
    made.add_argument("--clip", type=float, default=1.0, help="greatest norm of the gradients")
    made.add_argument("--amp", choices=("bfloat16", "float16"))
    made.add_argument("--eval-every", type=int, default=0, help="steps; 0: never")
    made.add_argument("--checkpoints", help="folder to go on from, and to save in")
    made.add_argument("--save-every", type=int, default=10, help="steps")
    return made


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    arguments = parser().parse_args()
    with report_errors():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        train(arguments, dist.get_rank())
        dist.destroy_process_group()
