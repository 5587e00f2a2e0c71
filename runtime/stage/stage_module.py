"""One stage: its forward, and its backward in one piece or two, for one micro-batch at a
time. What a forward leaves for its backward is a `SavedForward`; what the input gradient leaves for
the weight gradient is a `DeferredWeightGrad`. Both are gone when they were used."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from stretto.runtime.batch import arguments, mapped
from stretto.runtime.errors import PipelineError
from stretto.runtime.stage import split_backward
from stretto.runtime.stage.carried import KEYWORD, CarriedEdges, SliceMemory
from stretto.runtime.stage.cut_plans import CutPlans
from stretto.runtime.stage.engine import MADE, Gradients, Root, edge_of
from stretto.runtime.stage.hooks import hooks_made
from stretto.runtime.stage.judge import (
    Criterion,
    Judging,
    LossFunction,
    LossGradients,
    refuse_no_loss,
    scaled,
)
from stretto.runtime.stage.own_weight_gradients import OwnWeightGradients, run_left
from stretto.runtime.stage.parts import uncut
from stretto.runtime.stage.precision import outside_autocast
from stretto.runtime.stage.private import writable
from stretto.runtime.stage.split_backward import DeferredWeightGrad
from stretto.runtime.tensor_spec import flat
from stretto.runtime.topology import StageId

Result = tuple[Tensor | None, ...]
"""What a computation leaves in a slot: a stage's outputs, or the gradients of its inputs, None for
an input that nothing depends on."""

Outputs = tuple[Tensor, ...]
"""The tensors that a stage gives others, or is given by them."""


class ForwardInput(NamedTuple):
    """What a forward is given: the micro-batch `x` where the stage is a first one, other stages'
    results (leaves where their gradients are wanted), the target where the output goes to the loss;
    `learn` where a backward will follow; how the micro-batch is judged. `x` may also have keywords
    for a stage that is no first one."""

    microbatch: int
    x: Any
    given: Outputs
    target: Any
    learn: bool
    judging: Judging = Judging()

    def arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What the module is called with. It may write on it: neither the user's batch nor what
        other stages read changes then."""
        if self.x is None:
            if len(self.given) == 1:
                return (writable(self.given[0]),), {}
            return tuple(map(writable, self.given)), {}
        args, kwargs = arguments(self.x)
        own = [mapped(Tensor.clone, one) for one in args]
        named = {name: mapped(Tensor.clone, one) for name, one in kwargs.items()}
        return (*own, *map(writable, self.given)), named


class ForwardOutput(NamedTuple):
    """What a forward gives: the module's output, and the tensors in it that go to other stages, as
    they are; and the loss of the micro-batch, undivided, where there is one, with the metrics
    beside it."""

    output: Any
    result: Outputs
    loss: Tensor | None
    metrics: Any = None


class SavedForward(NamedTuple):
    """What a backward needs of its forward: the leaf inputs whose gradients are wanted; the roots
    where it starts; for overlapped units that run as one call the tensors that stand there, or
    the divided loss; how many hooks there were before it (`hooks_made`), if that was asked; and
    where it starts at the loss `above`, the gradients of the roots."""

    inputs: Outputs
    roots: tuple[Root, ...]
    outputs: Outputs = ()
    loss: Tensor | None = None
    hooks_before: int | None = None
    above: Gradients | None = None


@dataclass(slots=True)
class StageModule:
    """A module with its stage in the plan; `name` is how messages call it. `sources` are the stages
    whose outputs it takes, in that order, `gradient_senders` those that send back the gradient of
    its own. `returns`: its output is a result of the step; `sends`: other stages take it; `learns`:
    it has backwards. `loss` is set where its output may go to the loss, which is multiplied by
    `scale` before the backward. `overlapped` is its class's way to run a forward and another's
    backward in one call, `own` its ways to defer weights' gradients itself, `memory` what slices
    leave for later ones, where micro-batches are cut into slices; each then counts as a micro-batch
    here. `plans` say where its graphs are cut. `ddp` is what was around the module, `whole` what
    runs it in one piece. `is_plain`: its backward is autograd's alone, since nothing comes from
    slices and nothing is deferred by the module itself."""

    stage: StageId
    name: str
    module: nn.Module
    sources: tuple[StageId, ...]
    gradient_senders: tuple[StageId, ...]
    returns: bool
    sends: bool
    learns: bool
    loss: LossFunction | None
    overlapped: Callable[..., Any] | None
    own: OwnWeightGradients
    memory: SliceMemory | None = None
    scale: float = 1.0
    ddp: DistributedDataParallel | None = None
    saved: dict[int, SavedForward] = field(default_factory=dict)  # by micro-batch, as `deferred`
    deferred: dict[int, DeferredWeightGrad] = field(default_factory=dict)
    of_losses: LossGradients = field(default_factory=LossGradients)
    plans: CutPlans = field(default_factory=CutPlans)
    whole: Callable[..., Any] = field(init=False)
    is_plain: bool = field(init=False)

    def __post_init__(self) -> None:
        self.whole = uncut(self.module)
        own = self.own
        self.is_plain = self.memory is None and not own.stores and own.builder is None

    def forward(self, given: ForwardInput) -> ForwardOutput:
        """F: runs the module, and the loss where there is a target. Raises `PipelineError` where
        they give what cannot be sent or learned from, and whatever they raise."""
        learn = given.learn
        if learn and torch.is_inference_mode_enabled():
            raise PipelineError("nothing can be learned under torch.inference_mode()")
        if torch.is_grad_enabled() is not learn:
            with torch.set_grad_enabled(learn):  # also around a step under no_grad()
                return self.forward(given)
        hooks = hooks_made()
        args, kwargs = given.arguments()
        if self.memory is None:
            output = self.whole(*args, **kwargs)
        else:
            output = _sliced(self, given, args, kwargs)
        if given.target is None:
            return self.save(given, output, None, None, hooks)
        criterion = self.criterion(given)
        assert criterion is not None
        return self.save(given, output, criterion(output, given.target), criterion.metrics, hooks)

    def criterion(self, given: ForwardInput) -> Criterion | None:
        """The loss function for the micro-batch; None where it is not judged."""
        if given.target is None:
            return None
        assert self.loss is not None
        return Criterion(self.loss, given.judging)

    def save(
        self,
        given: ForwardInput,
        output: Any,
        loss: Tensor | None,
        metrics: Any = None,
        hooks_before: int | None = None,
    ) -> ForwardOutput:
        """Saves what the backward needs, and nothing else. Raises `PipelineError`, as `forward`."""
        result: Outputs = ()
        if self.sends:
            result = (output,) if type(output) is Tensor else flat(output, f"`{self.name}`")
        if given.target is not None:
            refuse_no_loss(loss)
        if given.learn:
            self.saved[given.microbatch] = (
                _saved(self, _carrying(given.given), _carrying(result), hooks_before)
                if loss is None
                else _judged(self, given, output, loss, hooks_before)
            )
        if loss is not None:
            loss = loss.detach().clone()  # it may be a buffer
        return MADE(ForwardOutput, (output, result, loss, metrics))  # type: ignore[no-any-return]

    @outside_autocast
    def backward(self, microbatch: int, gradients: Result) -> Result:
        """B: from the gradients of what it sent (none where it ends in the loss) to those of what
        it was given; adds to the parameters' `.grad`."""
        saved = self.saved.pop(microbatch)
        if self.is_plain:
            return split_backward.whole(*of_roots(saved, gradients), saved.inputs)
        with self.own.at_once():
            found = _through(self, split_backward.whole, saved, microbatch, gradients)
        self.run_builder()
        return found

    @outside_autocast
    def input_gradient(self, microbatch: int, gradients: Result) -> Result:
        """I: as `backward`, but leaves the parameters to `weight_gradient`."""
        saved = self.saved.pop(microbatch)
        if self.is_plain:
            found, self.deferred[microbatch] = split_backward.input_gradient(
                *of_roots(saved, gradients), saved.inputs, saved.hooks_before, self.plans
            )
            return found
        found, self.deferred[microbatch] = _put_off(self, saved, microbatch, gradients)
        return found

    @outside_autocast
    def weight_gradient(self, microbatch: int) -> None:
        """W: adds to the parameters' `.grad` what the micro-batch's I has left."""
        deferred = self.deferred.pop(microbatch)
        if self.is_plain:
            split_backward.weight_gradient(deferred)
            return
        run_left(deferred.functions)
        with self.own.at_once():
            split_backward.weight_gradient(deferred)

    def run_builder(self) -> None:
        """After a whole backward: adds what the module has deferred itself."""
        if self.own.builder is not None:
            run_left([self.own.builder()])

    def forget(self) -> None:
        """Drops what a step that failed has left."""
        self.saved.clear()
        self.deferred.clear()
        if self.memory is not None:
            self.memory.forget()


def _sliced(stage: StageModule, given: ForwardInput, args: Any, kwargs: dict[str, Any]) -> Any:
    memory = stage.memory
    assert memory is not None
    kwargs[KEYWORD] = memory.carried(given.microbatch, given.learn)
    made = stage.module(*args, **kwargs)
    return memory.parted(given.microbatch, made, given.learn)


def _wants_gradients(module: nn.Module, leaves: Outputs) -> bool:
    return bool(leaves) or any(p.requires_grad for p in module.parameters())


def _carrying(tensors: Outputs) -> Outputs:
    if len(tensors) == 1:
        return tensors if tensors[0].requires_grad else ()
    return tuple([tensor for tensor in tensors if tensor.requires_grad])


def _saved(
    stage: StageModule, inputs: Outputs, carrying: Outputs, hooks_before: int | None
) -> SavedForward:
    """Where the backward starts at outputs, of which these are `carrying` a gradient."""
    if stage.overlapped is not None:
        return SavedForward(inputs, carrying, carrying, None, hooks_before)
    edges: tuple[Root, ...]
    if len(carrying) == 1:
        edges = (edge_of(carrying[0]),)
    else:
        edges = tuple([edge_of(tensor) for tensor in carrying])
    return MADE(SavedForward, (inputs, edges, (), None, hooks_before, None))  # type: ignore[no-any-return]


def _judged(
    stage: StageModule, given: ForwardInput, output: Any, loss: Tensor, hooks_before: int | None
) -> SavedForward:
    """Where the backward starts at the loss. Raises `PipelineError` for one that depends on
    nothing."""
    inputs = _carrying(given.given)
    if not loss.requires_grad and _wants_gradients(stage.module, inputs):
        raise PipelineError(
            "the loss has no gradient: it depends neither on the stage's weights nor on "
            "its input; was it, or the output, detached?"
        )
    share, scale = given.judging.share, stage.scale
    if share.weight == 1 and stage.overlapped is None and type(loss) is Tensor:
        above = (stage.of_losses.gradient(loss, share, scale),) if loss.requires_grad else ()
        return SavedForward(inputs, (loss,) if above else (), (), None, hooks_before, above)
    root = scaled(loss, output, share)
    root = root * scale if scale != 1 else root
    above = (torch.ones_like(root),) if root.requires_grad else ()
    return SavedForward(inputs, (root,) if above else (), (), root, hooks_before, above)


def _put_off(
    stage: StageModule, saved: SavedForward, number: int, gradients: Result
) -> tuple[Gradients, DeferredWeightGrad]:
    """I of a stage with slices, or one that defers weights' gradients itself."""
    cut: Callable[..., tuple[Gradients, DeferredWeightGrad]] = partial(
        split_backward.input_gradient, hooks_before=saved.hooks_before, plans=stage.plans
    )
    if stage.own.builder is not None:  # what it builds is of a backward that is over
        cut = split_backward.all_at_once
    deferred = split_backward.NOTHING_LEFT

    def halved(*edges: Any) -> Gradients:
        nonlocal deferred
        found, deferred = cut(*edges)
        return found

    with stage.own.deferring() as left:
        found = _through(stage, halved, saved, number, gradients)
    if stage.own.builder is not None:
        left.append(stage.own.builder())
    return found, deferred._replace(functions=left)


def _through(
    stage: StageModule,
    run: Callable[..., Gradients],
    saved: SavedForward,
    number: int,
    gradients: Result,
) -> Gradients:
    """The gradients of what the stage was given, by `run`; those of what earlier slices have left
    go to them."""
    edges = CarriedEdges() if stage.memory is None else stage.memory.edges(number)
    roots, above = of_roots(saved, gradients)
    found = run((*roots, *edges.roots), (*above, *edges.gradients), (*saved.inputs, *edges.leaves))
    edges.give_back(found[len(saved.inputs) :])
    return found[: len(saved.inputs)]


def of_roots(saved: SavedForward, gradients: Result) -> tuple[tuple[Root, ...], Gradients]:
    """Where the backward starts, and with which gradients: at the loss, or at the outputs that have
    one. Nothing depends on the others, so nothing is added for them anywhere."""
    if saved.above is not None:
        return saved.roots, saved.above
    if len(gradients) == len(saved.roots) == 1 and gradients[0] is not None:
        return saved.roots, gradients
    if len(gradients) == len(saved.roots) and all(one is not None for one in gradients):
        return saved.roots, gradients
    there = [(r, g) for r, g in zip(saved.roots, gradients, strict=True) if g is not None]
    return tuple(r for r, _ in there), tuple(g for _, g in there)
