"""The features of the table: what one process does, and what a rank does."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.models.cells import Alone, Feature, Ranked

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
        return checkpoint(self._on_copies, *x, use_reentrant=False, **more)

    def _on_copies(self, *x: Tensor, **more: Any) -> Any:
        return self.stage(*(t.clone() for t in x), **more)


def compiled(stage: nn.Module) -> nn.Module:
    """The stage compiled by the part of the compiler that needs no C++."""
    stage.compile(backend="aot_eager")
    return stage


def bfloat16(stage: nn.Module) -> nn.Module:
    """The stage's weights in bfloat16."""
    return stage.bfloat16()


def frozen_vectors(stage: nn.Module) -> nn.Module:
    """Biases and norms need no gradient."""
    for parameter in stage.parameters():
        parameter.requires_grad_(parameter.requires_grad and parameter.dim() > 1)
    return stage


FEATURES = (
    Feature("a step", "equal", alone_step, ranked_step),
    Feature("accumulation", "equal", alone_accumulated, ranked_accumulated),
    Feature("AdamW, two steps", "equal", alone_adamw, ranked_adamw),
    Feature("evaluation between", "equal", alone_step, ranked_eval_between),
    Feature("checkpoints", "equal", alone_step, ranked_step, change=Checkpointed),
    Feature("vectors frozen", "equal", alone_step, ranked_step, change=frozen_vectors),
)
