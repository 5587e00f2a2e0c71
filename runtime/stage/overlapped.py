"""An overlapped unit, the forward of one stage and the backward of another, as one call of their
class's `overlapped_forward_backward`, as DualPipe's users write it. Where the class offers none,
the two run one after the other, and nothing here is used."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from stretto.runtime.batch import arguments
from stretto.runtime.stage.split_backward import collect
from stretto.runtime.stage.stage_module import (
    ForwardInput,
    ForwardOutput,
    Result,
    StageModule,
    without_gaps,
)


class OverlappedPair(NamedTuple):
    """The forward of `ahead` with what it is given, and the backward of `behind` for one of its
    micro-batches."""

    ahead: StageModule
    given: ForwardInput
    behind: StageModule
    microbatch: int

    def is_one_call(self) -> bool:
        """Whether `run` can run the pair: both modules are of one class, and the backward has
        something to do."""
        return (
            self.ahead.overlapped is not None
            and type(self.ahead.module) is type(self.behind.module)
            and not isinstance(self.given.x, dict)
            and bool(self.behind.saved[self.microbatch].roots)
        )

    def run(self, gradients: Result) -> tuple[ForwardOutput, Result]:
        """What the forward gives, and the gradients of the backward's inputs; `gradients` are those
        of its outputs. The arguments of the call are those that DualPipe gives it."""
        ahead, given = self.ahead, self.given
        assert ahead.overlapped is not None
        saved = self.behind.saved.pop(self.microbatch)
        args = arguments(given.x)[0] if given.x is not None else ()
        labels = None
        if given.target is not None:
            several = isinstance(given.target, tuple | list)
            labels = list(given.target) if several else [given.target]
        with torch.enable_grad():
            outputs, loss = ahead.overlapped(
                ahead.module,
                [*args, *given.given],
                None if given.target is None else ahead.loss,
                labels,
                self.behind.module,
                saved.loss,
                list(saved.outputs),
                list(gradients),
            )
        output = outputs[0] if len(outputs) == 1 else tuple(outputs)
        found = collect(saved.inputs)
        return ahead.save(given, output, loss), without_gaps(saved, found)


def overlapped_call(module: nn.Module) -> Callable[..., Any] | None:
    """The class's `overlapped_forward_backward`, if it offers one."""
    found: Callable[..., Any] | None = getattr(type(module), "overlapped_forward_backward", None)
    return found
