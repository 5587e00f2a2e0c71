"""Small tensors travel together. In come the tensors of a message, out come fewer: the small ones
as one vector of bytes, since a message of a byte costs what one of thousands does. Whoever receives
makes buffers for tensors like these, and finds each of them in the buffers."""

from collections.abc import Sequence

import torch
from torch import Tensor

from stretto.runtime.transport import to_bytes

SMALL = 1 << 16  # bytes; to copy many more costs what a message does


def packed(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The message that carries these tensors, all of them contiguous."""
    together = _together(tensors)
    if not together:
        return list(tensors)
    parcel = torch.cat([to_bytes(tensors[at]) for at in together])
    return [parcel, *(one for at, one in enumerate(tensors) if at not in together)]


def buffers(like: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Buffers for the message that `packed` makes of tensors like these, and the tensors in it."""
    together = _together(like)
    found = {at: torch.empty_like(one) for at, one in enumerate(like) if at not in together}
    message = list(found.values())
    if together:
        sizes = [like[at].nbytes for at in together]
        parcel = torch.empty(sum(sizes), dtype=torch.uint8, device=like[together[0]].device)
        message.insert(0, parcel)
        for at, piece in zip(together, parcel.split(sizes), strict=True):
            found[at] = piece.view(like[at].dtype).view(like[at].shape)
    return message, [found[at] for at in range(len(like))]


def _together(tensors: Sequence[Tensor]) -> list[int]:
    """The places of those that travel together: on the device of the first, those with the widest
    numbers before the others, so that each lies where its type may; none where that is one."""
    device = tensors[0].device
    small = [at for at, one in enumerate(tensors) if one.nbytes <= SMALL and one.device == device]
    small.sort(key=lambda at: -tensors[at].element_size())
    return small if len(small) > 1 else []
