"""How a process ends that is ours from its first line to its last, as `python -m stretto.runtime`
is: by itself, when all that a user may rely on is done, and without the interpreter's teardown.
That aborts a process in which a thread that is inside torch, one of torch's own too, comes back
while it goes on: up to Python 3.13 such a thread is ended inside a destructor of C++. No success
ends so.

What a teardown does for users is done: threads that are no daemons are awaited, exit functions run,
files that were left open are written. What it does besides is to call `__del__` of what is left."""

import _io
import atexit
import ctypes
import gc
import io
import os
import signal
import stat
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

from stretto.runtime.aloud import say


def end_with(main: Callable[[], int]) -> NoReturn:
    """Ends the process with the exit code that `main` returns, or with the one that Python has for
    what it raises; with 1 where stdout cannot be written."""
    code = _code_of(main)
    for step in (_await_threads, _run_exit_functions, _close_files):
        try:
            step()
        except BaseException as error:  # as in a teardown, which goes on
            _tell(error)
    code = flushed(code)
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code & 0xFF)


def _code_of(main: Callable[[], int]) -> int:
    """As Python has them: what was raised is told, and an interrupt is the signal, below 0."""
    try:
        return main()
    except SystemExit as error:
        if error.code is None or isinstance(error.code, int):
            return (error.code or 0) & 0xFF
        say(str(error.code))
    except KeyboardInterrupt as error:
        _tell(error)
        return -signal.SIGINT
    except BaseException as error:
        _tell(error)
    return 1


def _tell(error: BaseException) -> None:
    sys.excepthook(type(error), error, error.__traceback__)


def _await_threads() -> None:
    threading._shutdown()  # type: ignore[attr-defined]  # as `multiprocessing` ends its children


def _run_exit_functions() -> None:
    atexit._run_exitfuncs()  # in this order: a teardown runs them when the threads have ended


def _close_files() -> None:
    """Those on a disk that somebody has left open to write: what they still hold would be lost.
    Each before the one that it writes to: text, what compresses, bytes."""
    files: Any = _io._IOBase  # the class in C: to ask an abstract one of every object takes long
    left = [found for found in gc.get_objects() if issubclass(type(found), files)]
    plain = (io.BufferedWriter, io.BufferedRandom)
    for file in sorted(
        (found for found in left if not isinstance(found, io.RawIOBase)),  # they hold nothing
        key=lambda f: 0 if isinstance(f, io.TextIOBase) else 1 + isinstance(f, plain),
    ):
        with suppress(Exception):  # it is closed, is in memory, or its disk is full
            number = file.fileno()
            if number > 2 and file.writable() and stat.S_ISREG(os.fstat(number).st_mode):
                file.close()


def flushed(code: int) -> int:
    """The exit code when what was printed is out, by Python and by what is written in C."""
    with suppress(OSError, ValueError, AttributeError):  # nobody can be told of stderr
        sys.stderr.flush()
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        if not code:
            say(f"error: standard output: {error.strerror}")
        code = code or 1
    except ValueError:  # somebody has closed it
        pass
    with suppress(OSError, AttributeError):  # a system without it
        ctypes.CDLL(None).fflush(None)
    return code
