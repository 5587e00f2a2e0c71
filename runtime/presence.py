"""A gradient that is not there, on its way. In comes a gradient or None, out come bytes of the
size that both ends know, and back. None travels as a tensor in which every bit is set: no message
more is needed, and receives can be posted before anybody knows. A gradient that has these bits by
itself (every entry the same rare NaN) travels with one bit of its first entry changed, which is a
NaN as well.

The process that receives has to look at what has come; so this is for transports whose waits end
when the data are there. `at_hand`: they are in the memory of the process, and nobody works on them
behind it, so that a look costs no more than one at a number of Python's.
"""

from ctypes import string_at

import torch
from torch import Tensor

from stretto.runtime.tensor_spec import TensorSpec
from stretto.runtime.transport import plain, to_bytes

FEW = 8  # bytes that nearly always tell
SET = b"\xff" * FEW


def sealed(
    gradient: Tensor | None, like: TensorSpec, device: torch.device, at_hand: bool = False
) -> Tensor:
    """The gradient as it travels, contiguous."""
    if gradient is None:
        nothing = like.empty(device)
        if nothing.numel():
            to_bytes(nothing).fill_(255)
        return nothing
    if gradient.layout is not torch.strided or gradient.requires_grad:
        gradient = dense(gradient)
    there = plain(gradient)
    if _says_nothing(there, at_hand):
        there = there.clone()
        to_bytes(there)[0] = 254
    return there


def dense(gradient: Tensor) -> Tensor:
    """The gradient as numbers beside each other: an embedding's may be sparse."""
    dense = gradient.to_dense() if gradient.is_sparse else gradient
    return dense.detach() if dense.requires_grad else dense


def opened(received: Tensor, at_hand: bool = False) -> Tensor | None:
    """What `sealed` was given."""
    return None if _says_nothing(received, at_hand) else received


def _says_nothing(tensor: Tensor, at_hand: bool) -> bool:
    """Whether every bit is set. Nearly always the first entries tell, which are then no NaN."""
    size = tensor.nbytes
    if not size:
        return False
    if at_hand:
        many = min(FEW, size)
        if string_at(tensor.data_ptr(), many) != SET[:many]:
            return False
    elif (first := tensor.view(-1)[0].item()) == first:
        return False
    return bool(to_bytes(tensor).eq(255).all())
