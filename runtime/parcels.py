"""Small tensors travel together. In come the tensors of a message, out come fewer: the small ones
as one vector of bytes, since a message of a byte costs what one of thousands does. Whoever receives
makes buffers for tensors like these, and finds each of them in the buffers. How they lie there is
found once for all messages of tensors that are alike."""

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

SMALL = 1 << 16  # bytes; to copy many more costs what a message does


class ParcelItem(NamedTuple):
    """What is the same of tensors that are alike."""

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device


class ParcelPiece(NamedTuple):
    """A part of the parcel, from byte `begin` to `end`: numbers of one type, which are those of the
    tensors at these `places` of the message, one after another."""

    begin: int
    end: int
    dtype: torch.dtype
    places: list[int]
    lengths: list[int]


class ParcelLayout(NamedTuple):
    """How tensors `like` these travel: those in `pieces` in one parcel, the others as they are,
    behind it."""

    like: list[ParcelItem]
    pieces: list[ParcelPiece]
    others: list[int]

    def fits(self, tensors: Sequence[Tensor]) -> bool:
        """Whether it is the layout of these, too."""
        return self.like == [(one.shape, one.dtype, one.device) for one in tensors]

    def packed(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The message that carries these tensors, all of them contiguous."""
        others = [tensors[at] for at in self.others]
        if not self.pieces:
            return others
        parcel = self._parcel()
        for begin, end, dtype, places, _ in self.pieces:
            flat = [tensors[at].view(-1) for at in places]
            torch.cat(flat, out=parcel[begin:end].view(dtype))
        return [parcel, *others]

    def buffers(self) -> tuple[list[Tensor], list[Tensor]]:
        """Buffers for the message that `packed` makes, and the tensors in it."""
        found = {
            at: torch.empty(kind[0], dtype=kind[1], device=kind[2])
            for at, kind in ((at, self.like[at]) for at in self.others)
        }
        message = list(found.values())
        if self.pieces:
            parcel = self._parcel()
            message.insert(0, parcel)
            for begin, end, dtype, places, lengths in self.pieces:
                parts = parcel[begin:end].view(dtype).split(lengths)
                for at, part in zip(places, parts, strict=True):
                    found[at] = part.view(self.like[at].shape)
        return message, [found[at] for at in range(len(self.like))]

    def _parcel(self) -> Tensor:
        device = self.like[self.pieces[0].places[0]].device
        return torch.empty(self.pieces[-1].end, dtype=torch.uint8, device=device)


def layout_of(tensors: Sequence[Tensor]) -> ParcelLayout:
    """How these travel: together those that are small and on the device of the first, if there are
    several; those with the widest numbers first, so that each lies where its type may."""
    like = [ParcelItem(one.shape, one.dtype, one.device) for one in tensors]
    small = [
        at for at, one in enumerate(tensors) if one.nbytes <= SMALL and one.device == like[0].device
    ]
    if len(small) < 2:
        return ParcelLayout(like, [], list(range(len(like))))
    small.sort(key=lambda at: -like[at].dtype.itemsize)
    pieces, begin = list[ParcelPiece](), 0
    for dtype, run in groupby(small, lambda at: like[at].dtype):
        places = list(run)
        end = begin + sum(tensors[at].nbytes for at in places)
        lengths = [tensors[at].numel() for at in places]
        pieces.append(ParcelPiece(begin, end, dtype, places, lengths))
        begin = end
    return ParcelLayout(like, pieces, [at for at in range(len(like)) if at not in small])
