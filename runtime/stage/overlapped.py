"""An overlapped unit, the forward of one stage and the backward of another, as one call of their
class's `overlapped_forward_backward`, as DualPipe's users write it. Where the class offers none,
the two run one after the other, and nothing here is used."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from stretto.runtime.batch import arguments
from stretto.runtime.errors import PipelineError
from stretto.runtime.stage.judge import Criterion
from stretto.runtime.stage.split_backward import collect
from stretto.runtime.stage.stage_module import (
    ForwardInput,
    ForwardOutput,
    Result,
    StageModule,
    of_roots,
)


class OverlappedPair(NamedTuple):
    """The forward of `ahead` with what it is given, and the backward of `behind` for one of its
    micro-batches."""

    ahead: StageModule
    given: ForwardInput
    behind: StageModule
    microbatch: int

    def is_one_call(self, gradients: Result) -> bool:
        """Whether `run` can run the pair: both modules are of one class, the forward takes no
        keywords and no slice, and the backward has something to do; `gradients` as for `run`."""
        return (
            self.ahead.overlapped is not None
            and self.ahead.memory is None
            and type(self.ahead.module) is type(self.behind.module)
            and not (self.given.x is not None and arguments(self.given.x)[1])
            and bool(of_roots(self.behind.saved[self.microbatch], gradients)[0])
        )

    def run(self, gradients: Result) -> tuple[ForwardOutput, Result]:
        """What the forward gives, and the gradients of the backward's inputs; `gradients` are those
        of its outputs. The arguments of the call are what DualPipe gives it, of the same kinds:
        its users hand some of them on to C++, which takes no list for a tuple."""
        ahead, given = self.ahead, self.given
        assert ahead.overlapped is not None
        saved = self.behind.saved.pop(self.microbatch)
        criterion = ahead.criterion(given)
        labels = given.target if isinstance(given.target, tuple | list) else (given.target,)
        there = [(o, g) for o, g in zip(saved.outputs, gradients, strict=False) if g is not None]
        with torch.enable_grad(), self.behind.own.at_once():
            made = ahead.overlapped(
                ahead.module,
                list(given.arguments()[0]),
                _spread(criterion, given.target) if criterion is not None else None,
                tuple(labels) if criterion is not None else [],
                self.behind.module,
                saved.loss,
                tuple(output for output, _ in there) if saved.loss is None else [],
                tuple(gradient for _, gradient in there) if saved.loss is None else [],
            )
            output, loss = self._made(made)
            kept = ahead.save(given, output, loss, criterion and criterion.metrics)
        self.behind.run_builder()
        return kept, collect(saved.inputs)

    def _made(self, made: Any) -> tuple[Any, Tensor | None]:
        """What the call returned: the forward's output, as the module gives it, and its loss."""
        if not isinstance(made, tuple | list) or len(made) != 2:
            raise PipelineError(
                f"overlapped_forward_backward of {type(self.ahead.module).__name__} gives a "
                f"{type(made).__name__}: it gives two things, the forward's outputs and its loss "
                "(or None)"
            )
        outputs, loss = made
        if isinstance(outputs, Tensor):
            return outputs, loss
        return (outputs[0] if len(outputs) == 1 else tuple(outputs)), loss


def overlapped_call(module: nn.Module) -> Callable[..., Any] | None:
    """The class's `overlapped_forward_backward`, if it offers one."""
    found: Callable[..., Any] | None = getattr(type(module), "overlapped_forward_backward", None)
    return found


def _spread(judge: Criterion, target: Any) -> Callable[..., Any]:
    """The loss as DualPipe calls it, with all outputs and then all labels one by one."""
    several = isinstance(target, tuple | list)
    many = len(target) if several else 1

    def criterion(*given: Any) -> Any:
        outputs, labels = given[: len(given) - many], given[len(given) - many :]
        same = all(a is b for a, b in zip(labels, target if several else [target], strict=True))
        return judge(outputs[0] if len(outputs) == 1 else outputs, target if same else labels)

    return criterion
