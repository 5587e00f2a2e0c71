"""How a process tells why it ends. By default a line on stderr; where ranks were started together
one of them tells for all (`train.telling`)."""

import os
import sys
from collections.abc import Callable

from stretto.runtime.aloud import say

Tell = Callable[[str], None]


def to_stderr(report: str) -> None:
    """The default: a line on stderr."""
    say(f"error: {report}")


_tell: list[Tell] = [to_stderr]


def tell_by(tell: Tell) -> None:
    """From now on `leave` tells by this function."""
    _tell[:] = [tell]


def leave(report: str) -> None:
    """Ends the process at once, with code 1: a thread that waits inside a backend cannot be
    interrupted."""
    try:
        _tell[0](report)
        sys.stdout.flush()
    finally:
        os._exit(1)
