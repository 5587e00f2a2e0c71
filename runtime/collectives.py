"""Collectives inside parts. A part runs on the stream that the plan gives it, and every stream has
a process group of its own, so that the collectives of one do not wait behind those of another. In
comes nothing but the place from which it is called; out comes the group of the stream that runs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from stretto.runtime.errors import PipelineError

_group: ContextVar[dist.ProcessGroup | None] = ContextVar("stretto_stream_group", default=None)


def stream_group() -> dist.ProcessGroup:
    """The process group for collectives of what is running: a part, or a whole stage, of an
    executor that was given `collectives`; outside of that, what `as_stream_group` says. Every
    stream has another. To be asked in a forward, whenever it runs, and kept for the backward as
    part of that. Raises `PipelineError` where there is none."""
    group = _group.get()
    if group is None:
        raise PipelineError(
            "there is no process group for a stage's collectives here: make the executor with "
            "`collectives=`, the group of the processes that exchange data inside stages (those of "
            "expert parallelism); outside of an executor say `with as_stream_group(group):`"
        )
    return group


@contextmanager
def as_stream_group(group: dist.ProcessGroup | None) -> Iterator[None]:
    """Inside it, on this thread, `stream_group` gives `group`."""
    before = _group.set(group)
    try:
        yield
    finally:
        _group.reset(before)


def all_to_all(x: Tensor, received: Sequence[int], sent: Sequence[int]) -> Tensor:
    """Rows of x to the processes of `stream_group`: the first `sent[0]` rows to its first process,
    and so on; out come `received[k]` rows of its process k. Gradients go the same way back."""
    found: Tensor = _AllToAll.apply(x, list(received), list(sent), stream_group())  # type: ignore[no-untyped-call]
    return found


class _AllToAll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, received: list[int], sent: list[int], group: Any) -> Tensor:
        ctx.way_back = sent, received, group
        return _exchanged(x, received, sent, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return _exchanged(gradients[0], *ctx.way_back), None, None, None


def _exchanged(x: Tensor, received: list[int], sent: list[int], group: Any) -> Tensor:
    found = x.new_empty(sum(received), *x.shape[1:])
    dist.all_to_all_single(found, x.contiguous(), received, sent, group=group)
    return found
