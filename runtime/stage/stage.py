"""One stage at work: its forward, and its backward in one piece or two, for one micro-batch at a
time. What a forward leaves for its backward is its tape; what the input gradient leaves for the
weight gradient is a rest. Both are gone when they were used."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from stretto.runtime.batch import arguments, mapped
from stretto.runtime.errors import Stopped
from stretto.runtime.stage import split_backward as backward
from stretto.runtime.tensor_spec import flat
from stretto.runtime.topology import Place

Result = tuple[Tensor, ...]
LossFunction = Callable[[Any, Any], Tensor]


class Work(NamedTuple):
    """What a forward is given: the micro-batch's share of the batch where the stage is a first
    one, other stages' results (leaves where their gradients are wanted), the target where the
    output goes to the loss; `learn` where a backward will follow."""

    microbatch: int
    x: Any
    given: Result
    target: Any
    learn: bool


class Forward(NamedTuple):
    """What a forward gives: the module's output without its graph; the tensors in it that go to
    other stages, as they are; and the loss of the micro-batch, undivided, where there is one."""

    output: Any
    result: Result
    loss: Tensor | None


class Tape(NamedTuple):
    """What a backward needs: the leaves whose gradients are wanted; the roots where it starts;
    and for units that run as one call the tensors that stand there, or the divided loss."""

    inputs: Result
    roots: tuple[backward.Root, ...]
    outputs: Result = ()
    loss: Tensor | None = None


@dataclass(slots=True)
class Stage:
    """A module with its place in the plan; `name` is how it is called in messages. `sources` are
    the stages whose outputs it takes, in that order, `learners` those that send back the gradient
    of its own. `ends`: its output is a result of the step; `sends`: other stages take it;
    `learns`: it has backwards. `loss` is set where its output may go to the loss, which is divided
    by `divisor` before the backward. `unit` is its class's way to run a forward and another's
    backward in one call."""

    place: Place
    name: str
    module: nn.Module
    sources: tuple[Place, ...]
    learners: tuple[Place, ...]
    ends: bool
    sends: bool
    learns: bool
    loss: LossFunction | None
    divisor: int
    unit: Callable[..., Any] | None
    tapes: dict[int, Tape] = field(default_factory=dict)
    rests: dict[int, backward.Rest] = field(default_factory=dict)

    def forward(self, work: Work) -> Forward:
        """Runs the forward and leaves a tape where a backward will come."""
        args, kwargs = arguments(work.x) if work.x is not None else ((), {})
        with torch.set_grad_enabled(work.learn):
            output = self.module(*args, *work.given, **kwargs)
            loss = None
            if work.target is not None:
                assert self.loss is not None
                loss = self.loss(output, work.target)
        return self.taped(work, output, loss)

    def taped(self, work: Work, output: Any, loss: Tensor | None) -> Forward:
        """Notes what the backward needs, and nothing else: who gets the output gets it without
        its graph."""
        result = flat(output, f"`{self.name}`") if self.sends else ()
        if work.target is not None and (not isinstance(loss, Tensor) or loss.numel() != 1):
            raise Stopped("the loss function must give a tensor with one number")
        if work.learn:
            leaves = tuple(tensor for tensor in work.given if tensor.requires_grad)
            if loss is not None and not loss.requires_grad and self._wants_gradients(leaves):
                raise Stopped(
                    "the loss has no gradient: it depends neither on the stage's weights nor on "
                    "its input; was it, or the output, detached?"
                )
            self.tapes[work.microbatch] = self._tape(leaves, result, loss)
        return Forward(
            mapped(Tensor.detach, output),
            result,
            None if loss is None else loss.detach(),
        )

    def _wants_gradients(self, leaves: Result) -> bool:
        return bool(leaves) or any(p.requires_grad for p in self.module.parameters())

    def _tape(self, inputs: Result, result: Result, loss: Tensor | None) -> Tape:
        if loss is not None:
            scaled = loss / self.divisor if self.divisor > 1 else loss
            return Tape(inputs, (scaled,) if scaled.requires_grad else (), loss=scaled)
        carrying = tuple(tensor for tensor in result if tensor.requires_grad)
        if self.unit is not None:
            return Tape(inputs, carrying, carrying)
        return Tape(inputs, tuple(get_gradient_edge(tensor) for tensor in carrying))

    def backward(self, microbatch: int, gradients: Result) -> Result:
        """B: from the gradients of what it sent (none where it ends in the loss) to those of what
        it was given."""
        tape = self.tapes.pop(microbatch)
        found = backward.whole(tape.roots, _of_roots(tape, gradients), tape.inputs)
        return _without_gaps(tape, found)

    def input_gradient(self, microbatch: int, gradients: Result) -> Result:
        """I, likewise."""
        tape = self.tapes.pop(microbatch)
        found, rest = backward.input_gradient(tape.roots, _of_roots(tape, gradients), tape.inputs)
        self.rests[microbatch] = rest
        return _without_gaps(tape, found)

    def weight_gradient(self, microbatch: int) -> None:
        """W."""
        backward.weight_gradient(self.rests.pop(microbatch))

    def forget(self) -> None:
        """What a step that failed has left."""
        self.tapes.clear()
        self.rests.clear()


def as_one(
    ahead: Stage, work: Work, behind: Stage, microbatch: int, gradients: Result
) -> tuple[Forward, Result]:
    """An overlapped unit, the forward of `ahead` and the backward of `behind`, as one call of
    their class's `overlapped_forward_backward`, with the arguments that DualPipe gives it."""
    assert ahead.unit is not None
    tape = behind.tapes.pop(microbatch)
    args = arguments(work.x)[0] if work.x is not None else ()
    labels = None
    if work.target is not None:
        labels = list(work.target) if isinstance(work.target, tuple | list) else [work.target]
    with torch.enable_grad():
        outputs, loss = ahead.unit(
            ahead.module,
            [*args, *work.given],
            None if work.target is None else ahead.loss,
            labels,
            behind.module,
            tape.loss,
            list(tape.outputs),
            list(gradients),
        )
    output = outputs[0] if len(outputs) == 1 else tuple(outputs)
    found = backward.collect(tape.inputs)
    return ahead.taped(work, output, loss), _without_gaps(tape, found)


def fits_as_one(ahead: Stage, work: Work, behind: Stage, microbatch: int) -> bool:
    """Whether `as_one` can run this unit: one class, and a backward that has something to do."""
    return (
        ahead.unit is not None
        and type(ahead.module) is type(behind.module)
        and not isinstance(work.x, dict)
        and bool(behind.tapes[microbatch].roots)
    )


def unit_of(module: nn.Module) -> Callable[..., Any] | None:
    """The class's `overlapped_forward_backward`, if it offers one."""
    found: Callable[..., Any] | None = getattr(type(module), "overlapped_forward_backward", None)
    return found


def _of_roots(tape: Tape, gradients: Result) -> backward.Gradients:
    if tape.loss is None:
        return gradients
    return (torch.ones_like(tape.loss),) if tape.roots else ()


def _without_gaps(tape: Tape, found: backward.Gradients) -> Result:
    """The inputs' gradients; zeros for an input that the output does not depend on, since whoever
    made it waits for one."""
    return tuple(
        torch.zeros_like(leaf) if gradient is None else gradient
        for leaf, gradient in zip(tape.inputs, found, strict=True)
    )
