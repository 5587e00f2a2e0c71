"""The one place where the runtime speaks. What it says is in part the words of others: of a model's
exceptions, of names in plans, files and metrics, of hosts. None of them steers a terminal, turns a
line around, or is a command in the log of a CI: `told` spells such characters out."""

import argparse
import inspect
import sys
import warnings
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING, TextIO

from stretto.compiler.diagnostics.ascii import marked
from stretto.compiler.diagnostics.printable import told

if TYPE_CHECKING:
    from _typeshed import SupportsWrite


OURS = ("stretto", "torch", "runpy", "threading", "contextlib", "functools", "importlib")
"""Packages and modules that are no user's."""


def say(words: str) -> None:
    """Talk, on stderr. Where that is full, or nobody reads it, what was asked for goes on."""
    with suppress(OSError):
        print(_shown(words, sys.stderr), file=sys.stderr, flush=True)


def caution(words: str) -> None:
    """Talk of what goes on all the same."""
    say(f"warning: {words}")


def answer(words: str) -> None:
    """What was asked for, on stdout."""
    print(_shown(words, sys.stdout), flush=True)


def _shown(words: str, stream: TextIO) -> str:
    """The words in characters that the stream's locale has."""
    return marked(told(words), stream.encoding or "utf-8")


def warn(words: str, category: type[Warning] = UserWarning) -> None:
    """As `warnings.warn`, at the line of the user's that led here; where none did, as in `stretto
    run`, in a line of our own."""
    level, frame = 1, inspect.currentframe()
    while frame is not None and is_ours(frame):
        level, frame = level + 1, frame.f_back
    if frame is None:
        caution(words)
    else:
        warnings.warn(told(words), category, stacklevel=level)


def is_ours(frame: FrameType) -> bool:
    """Whether it is of no code of the user's."""
    return _package(frame) in OURS


def _package(frame: FrameType) -> str:
    """The outermost one; of a module that is in none its own name."""
    told = frame.f_globals.get("__package__") or frame.f_globals.get("__name__") or ""
    return str(told).partition(".")[0]


class ArgumentReader(argparse.ArgumentParser):
    """What it says of arguments has them in it."""

    def _print_message(self, message: str, file: "SupportsWrite[str] | None" = None) -> None:
        super()._print_message(told(message), file)
