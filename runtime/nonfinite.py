"""Losses that are no numbers, told at the end of the step that made them: by all ranks alike, with
the first tensor on the way to the loss that was not finite.

While a step runs, every stage's output is looked through once, for its smallest and its greatest
number, which stay on the device; and at its end all ranks tell each other whether a loss was bad.
Only then, where one was, are those numbers read, and the weights, inputs and targets of the step
looked at: nothing else is kept for it, and no module runs once more."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from stretto.compiler.program.program import Operation
from stretto.runtime.aloud import warn
from stretto.runtime.containers import tensors
from stretto.runtime.coordination.peers import Peers
from stretto.runtime.errors import NonFiniteError, PipelineError
from stretto.runtime.exchange import Exchange
from stretto.runtime.interpreter import Interpreter
from stretto.runtime.rank_context import RankContext
from stretto.runtime.topology import StageId, microbatch_name, shown

OnNonFinite = Literal["stop", "warn"] | Callable[[str], object] | None
"""What a loss does that is NaN or infinite."""


class BadLoss(NamedTuple):
    """A loss that is no number: of a micro-batch of the pipeline, and how it is written."""

    pipeline: int
    microbatch: int
    value: str


class BadTensor(NamedTuple):
    """A tensor with a number that is none: at a stage; `order` says when it is there among what the
    stage has (its input, its weights, its output, then the target); `what` follows `the first
    tensor that is not finite is `. `microbatch` is -1 for a weight, which all have."""

    pipeline: int
    stage: int
    microbatch: int
    order: int
    what: str
    nan: bool


def watch_of(
    context: RankContext, peers: Peers, exchange: Exchange, options: Mapping[str, Any]
) -> "LossWatch | None":
    """The watch that an executor's options ask for. Raises `PipelineError` where they ask for what
    there is not."""
    on = options.get("on_nonfinite")
    if on is not None and on not in ("stop", "warn") and not callable(on):
        raise PipelineError(f'on_nonfinite is {on!r}: it can be "stop", "warn", or a function')
    return None if on is None else LossWatch(context, peers, exchange, on)


class LossWatch:
    """One rank's watch over an executor's losses."""

    def __init__(self, context: RankContext, peers: Peers, exchange: Exchange, on: OnNonFinite):
        self.context, self.peers, self.exchange, self.on = context, peers, exchange, on
        self.seen: list[tuple[Operation, Tensor]] = []

    def begin(self) -> None:
        """A training step begins."""
        self.seen = []

    def note(self, operation: Operation, output: Any) -> None:
        """Takes a stage's output, without its graph."""
        for tensor in tensors(output):
            if (extremes := _extremes(tensor)) is not None:
                self.seen.append((operation, extremes))

    def end(self, run: Interpreter) -> None:
        """After the step, on every rank: tells the others of its losses. Where one is bad, raises
        `NonFiniteError` on every rank, or warns on rank 0, as was asked for."""
        bad = _bad_losses(run)
        told = self.exchange.tell("on_nonfinite", [len(bad)])
        seen, self.seen = self.seen, []
        if not any(count for (count,) in told):
            return
        own = [bad, [*_inputs(run), *_weights(run.context), *self._outputs(seen)]]
        key = f"nonfinite/{self.exchange.told}"
        self.peers.store.post(f"{key}/{self.peers.rank}", own)
        every = self.peers.wait([f"{key}/{rank}" for rank in range(self.peers.world)])
        losses = [BadLoss(*loss) for found, _ in every for loss in found]
        message = self._message(losses, [BadTensor(*t) for _, found in every for t in found])
        if self.on == "stop":
            raise NonFiniteError(message)
        if self.peers.rank == 0 and self.on == "warn":
            warn(message, RuntimeWarning)
        elif self.peers.rank == 0 and callable(self.on):
            self.on(message)

    def _outputs(self, seen: list[tuple[Operation, Tensor]]) -> Iterator[BadTensor]:
        rank, spec = self.peers.rank, self.context.plan.spec
        for operation, extremes in seen:
            if not bool(extremes.isfinite().all()):
                _, p, s, m, *_ = operation
                what = f"in the output of `{shown(spec, operation)}` on rank {rank}"
                yield BadTensor(p, s, m, 2, what, bool(extremes.isnan().any()))

    def _message(self, losses: list[BadLoss], found: list[BadTensor]) -> str:
        """What all ranks say: of the first loss in the order of the model's micro-batches."""
        spec, graph = self.context.plan.spec, self.context.plan.graph
        loss = min(losses, key=lambda one: spec.pipelines[one.pipeline].first + one.microbatch)
        which = microbatch_name(spec, loss.microbatch)
        last = StageId(loss.pipeline, len(spec.pipelines[loss.pipeline].stages) - 1)
        others = f", one of {len(losses)} that are not finite" if len(losses) > 1 else ""
        return (
            f"{self.exchange.activity.when}: the loss of micro-batch {which} of "
            f"`{spec.pipelines[loss.pipeline].name}` is {loss.value} on rank "
            f"{graph.topology.rank_of(last)}{others}; {self._cause(loss, last, found)}"
        )

    def _cause(self, loss: BadLoss, last: StageId, found: list[BadTensor]) -> str:
        number = {stage: k for k, stage in enumerate(self.context.plan.graph.in_order())}
        leading = self._leading_to(last)
        on_the_way = sorted(
            (
                tensor
                for tensor in found
                if StageId(*tensor[:2]) in leading and tensor.microbatch in (-1, loss.microbatch)
            ),
            key=lambda one: (number[StageId(*one[:2])], one.order),
        )
        if not on_the_way:
            return "what the last stage gave is finite: the loss function made it so"
        first = on_the_way[0]
        told = f"the first number that is {'NaN' if first.nan else 'infinite'} is {first.what}"
        nan = next((tensor for tensor in on_the_way if tensor.nan), None)
        if nan is not None and nan is not first:
            told += f", the first NaN {nan.what}"
        return told

    def _leading_to(self, stage: StageId) -> set[StageId]:
        """The stage and all whose outputs it depends on."""
        found, left = set[StageId](), [stage]
        while left:
            one = left.pop()
            if one not in found:
                found.add(one)
                left += self.context.plan.graph.sources[one]
        return found


def _extremes(tensor: Tensor) -> Tensor | None:
    """The smallest and the greatest number, NaN where one is; None where none can be."""
    tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor  # pyright: ignore[reportAttributeAccessIssue]
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    if not tensor.is_floating_point() or not tensor.numel() or tensor.element_size() < 2:
        return None
    return torch.stack(torch.aminmax(tensor))


def _bad_losses(run: Interpreter) -> list[BadLoss]:
    """Those of this rank that count for something."""
    found = [
        (p, m, loss)
        for p, of_pipeline in run.losses.items()
        for m, loss in of_pipeline.items()
        if run.step.microbatches[p].judging[m].share.weight
    ]
    if not found:
        return []
    # Read at once: this is where the process waits for the device, if it does anywhere in a step.
    values = torch.stack([loss.reshape(()).double() for _, _, loss in found]).tolist()
    return [
        BadLoss(p, m, str(value))
        for (p, m, _), value in zip(found, values, strict=True)
        if not math.isfinite(value)
    ]


def _inputs(run: Interpreter) -> Iterator[BadTensor]:
    """Bad numbers in what this rank's first and last stages were given of the batch."""
    plan = run.context.plan
    for p, given in run.step.microbatches.items():
        last, rank = len(plan.spec.pipelines[p].stages) - 1, plan.rank
        name = plan.spec.pipelines[p].name
        for s, order, what, values in (
            (0, 0, "x", given.x),
            (last, 3, "the target", given.target),
        ):
            if StageId(p, s) in run.context.stages:
                for m, value in enumerate(values):
                    where = f"in {what} of micro-batch {m} of `{name}`, as rank {rank} was given it"
                    yield from _bad(value, p, s, m, order, where)


def _weights(context: RankContext) -> Iterator[BadTensor]:
    rank = context.plan.rank
    for stage, module in context.stages.items():
        state = [*module.module.named_parameters(), *module.module.named_buffers()]
        for name, tensor in state:
            where = f"in `{name}` of `{module.name}` on rank {rank}"
            yield from _bad(tensor, stage.pipeline, stage.stage, -1, 1, where)


def _bad(value: Any, p: int, s: int, m: int, order: int, what: str) -> Iterator[BadTensor]:
    for tensor in tensors(value):
        extremes = _extremes(tensor.detach())
        if extremes is not None and not bool(extremes.isfinite().all()):
            yield BadTensor(p, s, m, order, what, bool(extremes.isnan().any()))
