"""Ctrl-C, and SIGTERM, which is treated like it. While an order is searched for it ends the search,
which keeps the best so far. Once there is an order that took a search, the rest of the command (its
proof, and the writing) is finished first; a second one stops at once.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from stretto.compiler.commands.files import say

CAUGHT = (signal.SIGINT, signal.SIGTERM)
AGAIN = "once more stops at once"


class Terminated(KeyboardInterrupt):
    """A SIGTERM came."""


class Interrupts:
    """What came and what becomes of it. `settled`: a search has ended with an order. `asked`: one
    has come already."""

    def __init__(self) -> None:
        self.settled = False
        self.asked = False

    def __call__(self, number: int, _: FrameType | None) -> None:
        """A signal has come. Raises `KeyboardInterrupt`, unless the command only has to finish."""
        if self.settled and not self.asked:
            self.asked = True
            say(f"interrupted: the order is there, and its plan is finished; {AGAIN}")
            return
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt

    def search_ended(self) -> None:
        """A search has ended with an order, which is not to be lost."""
        self.settled = True

    def search_interrupted(self) -> None:
        """The first one has ended the search: say so."""
        self.asked = True
        say(f"interrupted: the best order so far is kept; {AGAIN}")

    def begin_again(self) -> bool:
        """What was found by then is safe: from here the next one raises `KeyboardInterrupt`
        anew. Returns whether one has come."""
        self.settled = False
        return self.asked

    @contextmanager
    def caught(self) -> Iterator[None]:
        """While this lasts, signals come here; those that the process ignores stay ignored."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {n: signal.getsignal(n) for n in CAUGHT}
        for number, own in before.items():
            if own in (signal.SIG_DFL, signal.default_int_handler):
                signal.signal(number, self)
        try:
            yield
        finally:
            for number, own in before.items():
                if own in (signal.SIG_DFL, signal.default_int_handler):
                    signal.signal(number, own)
