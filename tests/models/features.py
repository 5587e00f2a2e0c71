"""The features of the table: what one process does, and what a rank does."""

import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as checkpointed

from stretto.runtime import GradScaler, checkpoint, clip_grad_norm_
from tests.models import oracle
from tests.models.cells import Alone, Feature, Ranked
from tests.models.zoo import Batch, Entry

AMPLIFIED = 1e-3
"""AdamW divides a gradient by its own size: what rounding does to a small one moves a weight as far
as the gradient itself does."""

Found = dict[str, Tensor | None]


# Plain steps ------------------------------------------------------------------------------------


def alone_step(one: Alone) -> Found:
    """A step's gradients, losses and outputs."""
    found = one.step()
    return one.named(found.gradients) | _told(found.losses, found.outputs)


def ranked_step(rank: Ranked) -> Found:
    """The same, where the rank has them."""
    losses: list[Tensor] = []
    output = rank.step(losses=losses)
    return rank.gradients() | _outcome(rank, losses, output)


def _told(losses: list[Tensor], outputs: list[Any]) -> Found:
    told: Found = {f"loss{m}": loss for m, loss in enumerate(losses)}
    return told | {f"output{m}": output for m, output in enumerate(outputs)}


def _outcome(rank: Ranked, losses: list[Tensor], output: Any) -> Found:
    """This rank's losses and outputs, by micro-batch of the whole step."""
    if output is None:
        return {}
    found: Found = {}
    graph = rank.executor.plan.graph
    outputs = output if isinstance(output, dict) else {"": output}
    first = 0
    for p, pipeline in enumerate(graph.spec.pipelines):
        name = pipeline.name
        if (name, len(pipeline.stages) - 1) not in rank.modules:
            continue
        own = outputs[name] if name in outputs else outputs[""]
        for k, piece in enumerate(own.chunk(pipeline.microbatches)):
            m = graph.spec.pipelines[p].first + k
            found[f"output{m}"] = piece
            found[f"loss{m}"] = losses[first + k]
        first += pipeline.microbatches
    return found


# Steps in a row ---------------------------------------------------------------------------------


def alone_accumulated(one: Alone) -> Found:
    """Two steps without clearing gradients between."""
    return one.named(one.step(before=one.step().gradients).gradients)


def ranked_accumulated(rank: Ranked) -> Found:
    """The same."""
    rank.step()
    rank.step()
    return rank.gradients()


def alone_adamw(one: Alone) -> Found:
    """The weights after two steps of AdamW."""
    optimizer = torch.optim.AdamW(one.parameters(), lr=1e-2)
    for _ in range(2):
        one.put(one.step().gradients)
        optimizer.step()
    return one.weights()


def ranked_adamw(rank: Ranked) -> Found:
    """The same."""
    parameters = rank.parameters()
    optimizer = torch.optim.AdamW(parameters, lr=1e-2) if parameters else None
    for _ in range(2):
        rank.step()
        if optimizer is not None:
            optimizer.step()
            optimizer.zero_grad()
    return rank.weights()


def ranked_eval_between(rank: Ranked) -> Found:
    """A step's gradients with evaluations before and behind it."""
    modules = list(rank.modules.values())
    for module in modules:
        module.eval()
    rank.evaluate()
    for module in modules:
        module.train()
    found = ranked_step(rank)
    for module in modules:
        module.eval()
    rank.evaluate()
    return found


# What is done to stages -------------------------------------------------------------------------


class Checkpointed(nn.Module):
    """A stage that keeps its inputs alone and runs its forward again in its backward, on copies:
    it may write into what it is given."""

    def __init__(self, stage: nn.Module):
        super().__init__()
        self.stage = stage

    def forward(self, *x: Tensor, **more: Any) -> Any:
        """The stage's."""
        return checkpointed(self._on_copies, *x, use_reentrant=False, **more)

    def _on_copies(self, *x: Tensor, **more: Any) -> Any:
        return self.stage(*(t.clone() for t in x), **more)


def compiled(stage: nn.Module) -> nn.Module:
    """The stage compiled, by the part of the compiler that needs no C++."""
    stage.compile(backend="aot_eager")
    return stage


def frozen_vectors(stage: nn.Module) -> nn.Module:
    """Biases and norms need no gradient."""
    for parameter in stage.parameters():
        parameter.requires_grad_(parameter.requires_grad and parameter.dim() > 1)
    return stage


class Cast(nn.Module):
    """A stage whose weights are in bfloat16, given what is not, computing in float32 no more."""

    def __init__(self, stage: nn.Module):
        super().__init__()
        self.stage = stage.bfloat16()

    def forward(self, *x: Tensor, **more: Any) -> Any:
        """The stage's, of numbers in bfloat16."""
        own = (t.bfloat16() if t.is_floating_point() else t for t in x)
        return self.stage(*own, **more)


class Autocast(nn.Module):
    """A stage that computes its products in bfloat16."""

    def __init__(self, stage: nn.Module):
        super().__init__()
        self.stage = stage

    def forward(self, *x: Tensor, **more: Any) -> Any:
        """The stage's."""
        with torch.autocast("cpu", torch.bfloat16):
            return self.stage(*x, **more)


# Losses and gradients ---------------------------------------------------------------------------


def alone_whole(one: Alone) -> Found:
    """The gradients of the whole batch at once, whose loss is the mean over all its tokens."""
    for stage in one.stages:
        stage.zero_grad(set_to_none=True)
    output = oracle.forward(one.stages, one.batch.x, one.batch.every_stage)
    one.entry.loss(output, one.batch.target).backward()
    return one.named(
        [{name: p.grad for name, p in stage.named_parameters()} for stage in one.stages]
    )


def alone_gradients(one: Alone) -> Found:
    """A step's gradients."""
    return one.named(one.step().gradients)


def ranked_gradients(rank: Ranked) -> Found:
    """A step's gradients."""
    rank.step()
    return rank.gradients()


def alone_clipped(one: Alone) -> Found:
    """A step's gradients, clipped, and what their norm was."""
    one.put(one.step().gradients)
    norm = torch.nn.utils.clip_grad_norm_(one.parameters(), 0.05)
    found: Found = {
        f"{s}.{n}": p.grad
        for s, stage in enumerate(one.stages)
        for n, p in stage.named_parameters()
    }
    return found | {"norm": norm}


def ranked_clipped(rank: Ranked) -> Found:
    """The same."""
    rank.step()
    norm = clip_grad_norm_(rank.executor, 0.05)
    return rank.gradients() | {"norm": norm}


def ranked_scaled_step(rank: Ranked) -> Found:
    """As `ranked_step`, under a scale that is a power of two, and divided by it again."""
    scaler = GradScaler(rank.executor, init_scale=2.0**10)
    found = ranked_step(rank)
    scaler.agree()
    return found | rank.gradients()


def ranked_resumed(rank: Ranked) -> Found:
    """The weights after a step, a checkpoint, a step that is undone by it, and a step."""
    executor, parameters = rank.executor, rank.parameters()
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    folder = Path(tempfile.gettempdir(), "stretto-models", str(os.getpid()))
    for k in range(3):
        rank.step()
        optimizer.step()
        optimizer.zero_grad()
        if k == 0:
            checkpoint.save(executor, folder, 1, optimizer, keep=1)
        if k == 1:
            checkpoint.load(executor, folder, optimizer)
    return rank.weights()


def of_unlike_length(batch: Batch, microbatches: int) -> Batch:
    """The batch with sentences that are cut shorter in some micro-batches."""

    def cut(value: Any) -> Any:
        pieces = oracle.pieces(value, microbatches)
        return [piece[:, : piece.shape[1] - m % 3] for m, piece in enumerate(pieces)]

    every = {name: cut(value) for name, value in batch.every_stage.items()}
    return Batch(cut(batch.x), every, cut(batch.target))


def has_sentences(entry: Entry) -> bool:
    """Whether the model reads token numbers."""
    x = entry.batch(1).x
    return isinstance(x, Tensor) and not x.is_floating_point()


FEATURES = (
    Feature("a step", "equal", alone_step, ranked_step),
    Feature("accumulation", "equal", alone_accumulated, ranked_accumulated),
    Feature("AdamW, two steps", "equal", alone_adamw, ranked_adamw, rounding=AMPLIFIED),
    Feature("resumed", "equal", alone_adamw, ranked_resumed, rounding=AMPLIFIED),
    Feature("evaluation between", "equal", alone_step, ranked_eval_between),
    Feature("clipped", "equal", alone_clipped, ranked_clipped),
    Feature("scaled losses", "equal", alone_step, ranked_scaled_step),
    Feature(
        "mean over tokens",
        "rounding",
        alone_whole,
        ranked_gradients,
        options=lambda entry: {"scale_loss": entry.weight},
        suits=lambda entry: entry.weight is not None,
        rounding=1e-5,  # the sum over the batch goes another way
    ),
    Feature(
        "unlike lengths",
        "equal",
        alone_gradients,
        ranked_gradients,
        suits=has_sentences,
        rebatch=of_unlike_length,
    ),
    Feature("checkpointed", "equal", alone_step, ranked_step, change=Checkpointed),
    Feature(
        "compiled (aot)",
        "equal",
        alone_step,
        ranked_step,
        ranks_only=compiled,
        suits=lambda entry: not entry.needs,  # those of others are compiled for minutes
    ),
    Feature("vectors frozen", "equal", alone_step, ranked_step, change=frozen_vectors),
    Feature("bfloat16", "equal", alone_step, ranked_step, change=Cast, rounding=2**-7),
    Feature("autocast", "equal", alone_step, ranked_step, change=Autocast),
)
