"""The same step in one process: the whole model by plain autograd, micro-batch after micro-batch,
with nothing overlapped and nothing split. In come modules for every stage and the batch; out come
losses and gradients, added in the order of the plan and in that of the micro-batches."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from stretto.runtime.batch import arguments, mapped
from stretto.runtime.given import BatchOptions, StepArguments, model_input
from stretto.runtime.microbatches import ModelGiven, PipelineMicrobatches, model_microbatches
from stretto.runtime.slices import slicing_of
from stretto.runtime.stage.carried import KEYWORD, CarriedEdges, slice_memory
from stretto.runtime.stage.from_user import Loss, loss_of
from stretto.runtime.stage.judge import Criterion, scaled
from stretto.runtime.stage.parts import uncut
from stretto.runtime.stage.precision import outside_autocast
from stretto.runtime.stage.split_backward import collect
from stretto.runtime.tensor_spec import flat
from stretto.runtime.topology import StageGraph, StageId
from stretto.runtime.train.observed import Observed
from stretto.runtime.train.tied_reference import (
    GradientList,
    PartUsers,
    RankOrders,
    StageSums,
    TiedReference,
    add,
)

Losses = dict[int, list[float]]
"""By pipeline, in the order of its micro-batches."""


class Batch(NamedTuple):
    """What a step is given, how it judges, and how it cuts and scales; `scale` multiplies every
    loss before its backward."""

    given: StepArguments
    loss_fn: Loss
    options: BatchOptions
    scale: float = 1.0


class Reference:
    """The step in one process. `copies` has each stage's own gradients, added in the order of the
    plan; `plain` those of each original, over all its copies, by micro-batch; `tied` those of
    parameters that stand in several places."""

    def __init__(self, graph: StageGraph, modules: dict[StageId, nn.Module], batch: Batch):
        self.graph, self.modules, self.batch = graph, modules, batch
        self.spec = graph.spec
        self.microbatches: dict[int, PipelineMicrobatches] = {}
        for model in graph.originals():
            own = model_input(graph, batch.given, batch.options, model)
            given = ModelGiven(own, batch.given, batch.options, judged=True)
            self.microbatches |= model_microbatches(graph, model, given, modules)
        options = batch.options
        self.slicing = slicing_of(self.spec, options.slice_dim, options.slice_lengths)
        made = {s: slice_memory(m, graph.label(s), self.spec.slices) for s, m in modules.items()}
        self.memory = {stage: memory for stage, memory in made.items() if memory is not None}
        self.observed = Observed(graph, modules, sliced=self.slicing is not None)
        self.copies: dict[StageId, GradientList] = {}
        self.plain: dict[StageId, GradientList] = {}

    def step(self, orders: RankOrders, users: PartUsers) -> Losses:
        """Takes the step. `orders`: the order in which the plan adds gradients; one waits until its
        turn has come. `users`: which parts add to which parameter. Returns the losses."""
        self.tied = TiedReference(self.graph, self.modules, orders, users)
        every = [one for order in orders for one in order]
        sums = {
            stage: StageSums([one for one in every if one.stage == stage], module, users)
            for stage, module in self.modules.items()
        }
        losses: dict[int, dict[int, Tensor]] = {}
        for group in _connected(self.graph):
            for m in range(max(self.spec.pipelines[p].microbatches for p in group)):
                for number, found in self._microbatch(group, m, losses):
                    self.tied.microbatch(number, found)
                    for stage, gradients in found.items():
                        own = StageId(self.graph.original(stage.pipeline), stage.stage)
                        add(self.plain.setdefault(own, [None] * len(gradients)), gradients)
                        sums[stage].come((stage, number), gradients)
        self.copies = {stage: one.total() for stage, one in sums.items()}
        return {p: self._losses(p, own) for p, own in losses.items()}

    def _losses(self, pipeline: int, found: dict[int, Tensor]) -> list[float]:
        if self.slicing is not None:
            found = self.slicing.losses(found, self.microbatches[pipeline].shares)
        return [found[m].double().item() for m in sorted(found)]

    def _microbatch(
        self, group: Sequence[int], m: int, losses: dict[int, dict[int, Tensor]]
    ) -> Iterator[tuple[int, dict[StageId, GradientList]]]:
        """Forward and backward of one micro-batch through pipelines that feed each other, slice by
        slice, the backwards from the last; adds to `losses`, gives the gradients of each stage."""
        pipelines = self.spec.pipelines
        members = [stage for stage in self.modules if stage.pipeline in group]
        members = [s for s in members if m < pipelines[s.pipeline].microbatches]
        each = self.slicing.number if self.slicing is not None else 1
        numbers = range(m * each, (m + 1) * each)
        roots = {number: self._forwards(members, number, losses) for number in numbers}
        learning = [s for s in members if not pipelines[s.pipeline].forward_only]
        for number in reversed(numbers):
            for stage in learning:
                self.modules[stage].zero_grad(set_to_none=True)
            carried = [self.memory[s].edges(number) for s in learning if s in self.memory]
            _backward(roots[number], carried)
            yield number, {s: [q.grad for q in self.modules[s].parameters()] for s in learning}

    def _forwards(
        self, members: Sequence[StageId], m: int, losses: dict[int, dict[int, Tensor]]
    ) -> list[Tensor]:
        """Runs the stages; returns the losses to start backwards from, divided."""
        outputs: dict[StageId, Any] = {}
        roots = []
        for stage in members:
            p = stage.pipeline
            args, kwargs = self._arguments(stage, m, outputs)
            with torch.set_grad_enabled(not self.spec.pipelines[p].forward_only):
                outputs[stage] = self.observed.forward(
                    stage, args, kwargs, partial(self._output, stage, m, args, kwargs)
                )
            if self.graph.ends_in_loss(stage):
                judge = loss_of(self.graph, p, self.batch.loss_fn)
                assert judge is not None
                own = self.microbatches[p]
                criterion, output = Criterion(judge, own.judging[m]), outputs[stage]
                judged = partial(criterion, output, own.target[m])
                loss = self.observed.loss(p, m, output, judged)
                losses.setdefault(p, {})[m] = loss.detach()
                root = scaled(loss, outputs[stage], own.judging[m].share)
                root = root * self.batch.scale if self.batch.scale != 1 else root
                if root.requires_grad:
                    roots.append(root)
        return roots

    def _output(self, stage: StageId, m: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        memory, learn = self.memory.get(stage), torch.is_grad_enabled()
        if memory is None:
            return uncut(self.modules[stage])(*args, **kwargs)
        kwargs[KEYWORD] = memory.carried(m, learn)
        return memory.parted(m, self.modules[stage](*args, **kwargs), learn)

    def _arguments(
        self, stage: StageId, m: int, outputs: dict[StageId, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        given = [
            tensor.clone()
            for source in self.graph.sources[stage]
            for tensor in flat(outputs[source], self.graph.label(source))
        ]
        x = self.microbatches[stage.pipeline].of_stage(stage.stage, m, len(given))
        args, kwargs = arguments(x) if x is not None else ((), {})
        args, kwargs = mapped(_own, (args, kwargs))  # modules may write on what they get
        return (*args, *given), kwargs


def _own(tensor: Tensor) -> Tensor:
    return tensor.detach().clone().requires_grad_(tensor.requires_grad)


@outside_autocast
def _backward(roots: Sequence[Tensor], carried: Sequence[CarriedEdges]) -> None:
    starts: list[Any] = [*roots, *(root for edges in carried for root in edges.roots)]
    given = [torch.ones_like(root) for root in roots]
    given += [gradient for edges in carried for gradient in edges.gradients]
    if starts:  # none, where all is frozen
        torch.autograd.backward(starts, given)
    for edges in carried:
        edges.give_back(collect(edges.leaves))


def _connected(graph: StageGraph) -> list[list[int]]:
    """Pipelines that feed each other, together; in the order of their micro-batches."""
    pipelines = graph.spec.pipelines
    group = {p: {p} for p in range(len(pipelines))}
    for p, pipeline in enumerate(pipelines):
        for q, _ in pipeline.feeds:
            merged = group[p] | group[q]
            group.update(dict.fromkeys(merged, merged))
    found = {tuple(sorted(members)) for members in group.values()}
    return sorted(map(list, found), key=lambda members: pipelines[members[0]].first)
