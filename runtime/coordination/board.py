"""A page on which the ranks of one machine write a number each, and read the others': no message is
needed for that, nor a call into the kernel. Rank 0 makes it; the others open its file."""

import contextlib
import mmap
import os
import weakref
from collections.abc import MutableSequence

RANKS = 512  # that have a place
READY = 1  # what a rank writes first: it sees the page


class Board:
    """`numbers[rank]` is what the rank has written last, 0 before. With `file`, an open one, it is
    another's."""

    def __init__(self, file: int = -1):
        if file < 0 and hasattr(os, "memfd_create"):
            file = os.memfd_create("stretto-board", os.MFD_CLOEXEC)
            os.ftruncate(file, 8 * RANKS)
        self.file = file
        self.memory = mmap.mmap(file, 8 * RANKS)
        self.numbers: MutableSequence[int] = memoryview(self.memory).cast("q")  # type: ignore[assignment]
        if file >= 0:
            weakref.finalize(self, os.close, file)

    def enter(self, rank: int) -> None:
        """This rank sees it."""
        if rank < RANKS:
            self.numbers[rank] = READY

    def is_whole(self, world: int) -> bool:
        """Whether all ranks see it."""
        return world <= RANKS and all(self.numbers[rank] for rank in range(world))


def board_of(process: int, file: int) -> Board | None:
    """What another process of this machine has open as `file`; None where it cannot be had."""
    if file >= 0:
        with contextlib.suppress(OSError, ValueError):
            return Board(os.open(f"/proc/{process}/fd/{file}", os.O_RDWR | os.O_CLOEXEC))
    return None
