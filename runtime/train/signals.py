"""The signals that end a rank. One that waits inside a backend runs no Python, and so no handler of
Python's; a thread is told by a pipe and ends the process."""

import ctypes
import os
import signal
import threading
from collections.abc import Callable

ENDS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def on_signals(act: Callable[[int], None]) -> None:
    """When a signal comes that ends a process, calls `act` with its number from a thread of its
    own, and exits with 128 more than that. To be called in the main thread; signals that are
    ignored, as `nohup` asks for, stay so."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    for number in ENDS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _nothing)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)

    def watch() -> None:
        while True:
            number = os.read(read, 1)[0]
            if number in ENDS:
                try:
                    act(number)
                finally:
                    os._exit(128 + number)

    threading.Thread(target=watch, name="stretto-signals", daemon=True).start()


def _nothing(*_: object) -> None:
    """Stands in for the default, which ends the process at once."""


def end_with_parent() -> None:
    """Lets the kernel kill this process when the one that started it ends, as torchrun does when it
    is killed itself. Only on Linux."""
    parent = os.getppid()
    try:
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    except (OSError, AttributeError):
        return
    if os.getppid() != parent:  # it has ended meanwhile
        os._exit(1)
