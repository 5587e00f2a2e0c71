"""How tensors travel between ranks. In come lanes and the tensors to send or receive on them; out
come pending messages to wait for.

A *lane* is one directed stream of messages from one rank to another: a channel of the plan, or the
way from one copy of a replicated stage to the next. The n-th message sent on a lane meets the n-th
receive posted on it; lanes do not hold each other up. Nothing checks a message on its way: both
ends know its shapes before (`edges`).
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from stretto.runtime.accelerator import Accelerator


class P2PLane(NamedTuple):
    """A directed pair of ranks, numbered as in the plan."""

    source: int
    target: int


class Pending(Protocol):
    """A message that was begun."""

    def wait(self) -> object:
        """Returns when the message was received, or the sent tensors may be reused."""
        ...


class Transport(Protocol):
    """`rank` and `world` are the plan's; `device` is where received tensors are placed, and
    `accelerator` issues to it where it works behind the host. `looks`: a wait ends when the data
    are there, so that the process may look at them. `tells`: `NOTHING` may be sent in place
    of a tensor, and `absent` has the places of such in what was received."""

    looks: bool
    tells: bool

    rank: int
    world: int
    device: torch.device
    accelerator: Accelerator | None

    def open(self, lanes: Sequence[P2PLane]) -> int:
        """Adds lanes, and returns the number of the first. All ranks call it with the same ones,
        while no message is under way."""
        ...

    def send(self, lane: int, tensors: Sequence[Tensor]) -> Sequence[Pending]:
        """Begins to send. The tensors must not change until the message is over."""
        ...

    def receive(self, lane: int, buffers: Sequence[Tensor]) -> Sequence[Pending]:
        """Posts a receive into the buffers, whose shapes are those of the sender's tensors."""
        ...

    def flush(self) -> None:
        """Returns when what was sent, and waited for, needs this process no more. To be called when
        the process has nothing left to do for others."""
        ...

    def abort(self, report: str) -> None:
        """Ends this rank's waits, although nothing will come: by an exception where that is
        possible, else by the end of the process. Called from another thread."""
        ...


NOTHING = torch.empty(0)
"""Stands in a message for a tensor that is not there, over transports that tell."""


def absent(received: Sequence[Pending]) -> frozenset[int]:
    """The places of what was not there in a message that was waited for."""
    return frozenset(at for one in received for at in getattr(one, "absent", ()))


def plain(tensor: Tensor) -> Tensor:
    """The tensor, contiguous, and with memory that holds what it is: a view may be conjugated or
    negated when it is read."""
    if tensor.is_contiguous() and not tensor.is_conj() and not tensor.is_neg():
        return tensor
    return tensor.resolve_conj().resolve_neg().contiguous()


def to_bytes(tensor: Tensor) -> Tensor:
    """The memory of a contiguous tensor as bytes, whatever its dtype: backends know few dtypes."""
    return tensor.view(-1).view(torch.uint8)
