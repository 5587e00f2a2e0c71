"""Where a process is, in memory that other processes of the machine can read, also when it has been
killed and can tell nothing any more. It is a page without a file, so nothing is left behind. In
come an instruction's number, for each one and on each stream, and words for what is not an
instruction; writing the number costs as much as writing it into a list."""

import contextlib
import mmap
import os
import weakref
from collections.abc import MutableSequence
from typing import NamedTuple

SIZE = 4096  # bytes
WORDS = 256  # where they begin
PROGRAMS = ("", "train", "eval")
_PROGRAM, _STREAMS, _LENGTH, _TOLD, AT = range(5)  # the numbers of 64 bits before the words
TOLD, LEFT = 1, 2  # how the process ends
MOST = WORDS // 8 - AT  # streams that are told of


class LastPlace(NamedTuple):
    """An instruction on each stream (`program` is empty where none is running), the words last
    said, whether the process has told why it ends, and whether it ended in the ordinary way."""

    program: str
    at: tuple[int, ...]
    words: str
    told: bool
    left: bool = False


class Whereabouts:
    """A page that this process writes, or with `file`, an open one, another's. `numbers[AT + k]` is
    the running instruction of stream k."""

    def __init__(self, file: int = -1):
        own = file < 0
        if own and hasattr(os, "memfd_create"):
            file = os.memfd_create("stretto", os.MFD_CLOEXEC)
            os.ftruncate(file, SIZE)
        self.file = file
        self.memory = mmap.mmap(file, SIZE, prot=mmap.PROT_READ | (mmap.PROT_WRITE if own else 0))
        self.numbers: MutableSequence[int] = memoryview(self.memory).cast("q")  # type: ignore[assignment]
        if file >= 0:
            weakref.finalize(self, os.close, file)

    def runs(self, program: str, streams: int = 1) -> None:
        """Instructions of this program are run from now on, on so many streams; empty: no more."""
        self.numbers[_STREAMS] = min(streams, MOST)
        for stream in range(min(streams, MOST)):
            self.numbers[AT + stream] = 0
        self.numbers[_PROGRAM] = PROGRAMS.index(program)

    def say(self, words: str) -> None:
        """What the process does where it runs no instruction; to follow `rank 2 `."""
        told = words.encode(errors="replace")[: SIZE - WORDS]
        self.memory[WORDS : WORDS + len(told)] = told
        self.numbers[_LENGTH] = len(told)

    def end(self) -> None:
        """The process ends and has told why."""
        self.numbers[_TOLD] = TOLD

    def leave(self) -> None:
        """The process ends as any does, and has told nothing to the others, unless it has."""
        self.numbers[_TOLD] = self.numbers[_TOLD] or LEFT

    def read(self) -> LastPlace:
        """What was written last."""
        told = self.memory[WORDS : WORDS + self.numbers[_LENGTH]].decode(errors="replace")
        program = PROGRAMS[self.numbers[_PROGRAM]]
        at = tuple(self.numbers[AT + stream] for stream in range(self.numbers[_STREAMS]))
        end = self.numbers[_TOLD]
        return LastPlace(program, at, told, end == TOLD, end == LEFT)


def of_process() -> Whereabouts:
    """The page of this process, the same at each call; another one in a process that was forked."""
    page = _pages.get(os.getpid())
    if page is None:
        _pages.clear()
        page = _pages[os.getpid()] = Whereabouts()
    return page


_pages: dict[int, Whereabouts] = {}


def of_other(process: int, file: int) -> Whereabouts | None:
    """The page that another process of this machine has open as `file`; None where it cannot be
    seen. It stays readable when that process is gone."""
    if file >= 0:
        with contextlib.suppress(OSError, ValueError):
            return Whereabouts(os.open(f"/proc/{process}/fd/{file}", os.O_RDONLY | os.O_CLOEXEC))
    return None
