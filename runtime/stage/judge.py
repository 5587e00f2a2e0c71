"""How the loss of a micro-batch is made and scaled. In come the user's loss function, a stage's
output and the target; out come the loss as the user sees it, metrics beside it, and the tensor at
which the backward starts."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stretto.runtime.containers import mapped, tensors
from stretto.runtime.errors import PipelineError

LossFunction = Callable[..., Any]
"""`loss(output, target)` of one micro-batch: a tensor with one number; or that and a mapping of
metrics. It may take further keywords, those of `loss_kwargs`."""


class LossShare(NamedTuple):
    """A micro-batch's part in the loss of the step: its `weight` and the `total` of all weights of
    its model, over all pipelines, ranks and, if the user says so, steps and replicas."""

    weight: float = 1
    total: float = 1


class Judging(NamedTuple):
    """How a micro-batch is judged: its share of the loss, and keywords for the loss function."""

    share: LossShare = LossShare()
    keywords: Mapping[str, Any] = {}


class Criterion:
    """The loss function for one micro-batch, to be called by whoever has its output; keeps the
    metrics that it gave beside the loss."""

    def __init__(self, loss: LossFunction, judging: Judging):
        self.loss, self.keywords = loss, judging.keywords
        self.metrics: Any = None

    def __call__(self, *given: Any) -> Any:
        """The loss alone. Raises what the function raises, and `PipelineError` where it gives a
        tuple that is not a loss with metrics."""
        found = self.loss(*given, **self.keywords)
        if not isinstance(found, tuple):
            return found
        if len(found) != 2 or not isinstance(found[1], Mapping):
            kinds = ", ".join(type(item).__name__ for item in found)
            raise PipelineError(
                f"the loss function gave a tuple of {kinds}: it must give a tensor with one "
                "number, or (loss, metrics) with metrics a mapping"
            )
        self.metrics = mapped(Tensor.detach, found[1])
        return found[0]


class LossGradients:
    """The gradients of losses at which backwards start: those that autograd has for a loss below
    the product with its share of the step (and the scale of a `GradScaler`), found once for all
    that are alike. So neither this product nor its backward is computed for every micro-batch."""

    __slots__ = ("found", "of")

    def __init__(self) -> None:
        self.of: tuple[LossShare, float] | None = None
        self.found = torch.empty(0)

    def gradient(self, loss: Tensor, share: LossShare, scale: float) -> Tensor:
        """A new tensor, of a loss of weight 1; gradients are enabled."""
        found = self.found
        if (
            self.of != (share, scale)
            or found.dtype is not loss.dtype
            or found.shape != loss.shape
            or found.device != loss.device
        ):
            one = torch.zeros_like(loss, requires_grad=True)
            root = scaled(one, None, share) * scale if scale != 1 else scaled(one, None, share)
            (found,) = torch.autograd.grad(root, one, torch.ones_like(root))
            self.of, self.found = (share, scale), found
        return found.clone()  # on which a function of the user's may write


def refuse_no_loss(found: Any) -> None:
    """Raises `PipelineError` where what the loss function gave is no tensor with one number."""
    if isinstance(found, Tensor) and found.numel() == 1:
        return
    words = "the loss function must give a tensor with one number, and gave "
    if isinstance(found, Tensor):
        words += f"one of shape {tuple(found.shape)}: did you mean `.mean()` of it?"
    else:
        words += "None: does it return its loss?" if found is None else f"a {type(found).__name__}"
    raise PipelineError(words)


def scaled(loss: Tensor, output: Any, share: LossShare) -> Tensor:
    """Where the backward of the micro-batch starts: its loss times weight / total. Of weight 0 it
    is a zero that depends on the output and on nothing else, so that its gradients are zeros also
    where the loss is not a number, as a mean over no tokens."""
    if share.weight == 0:
        carrying = [tensor for tensor in tensors(output) if tensor.requires_grad]
        empty = [tensor.flatten()[:0].sum() for tensor in carrying]
        return torch.stack(empty).sum() if empty else torch.zeros_like(loss)
    if share.weight == 1:
        return loss if share.total == 1 else loss / share.total
    return loss * (share.weight / share.total)
