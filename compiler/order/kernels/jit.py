"""Compile the hot loops where numba is installed; run the very same functions as they are where it
is not. They are written in the part of Python that both understand, over plain sequences of
integers, so that both give the same result.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


@cache
def fast() -> bool:
    """Whether numba is there."""
    try:
        import_module("numba")
    except ImportError:
        return False
    return True


numpy: Any = import_module("numpy") if fast() else None


def kept() -> bool:
    """Whether this machine has compiled the present loops before and kept them."""
    folder = _loops()
    return folder is not None and any(folder.rglob("*.nbi"))


def compiled(function: Function) -> Function:
    """The function, compiled and kept on disk where numba is installed, else as it is.

    It must make no list and no array: it is compiled without reference counting. A state is a tuple
    of dozens of arrays, and to count every use of each of them, by counters that two threads share,
    takes ten times as long as the search itself. (`counted` is for those that make some.)"""
    return _compile(function, {"_nrt": False})


def part(function: Function) -> Function:
    """The same for a part of one loop, which is compiled as if its text stood in place of the
    call: to hand dozens of arrays over takes longer than what it does with them."""
    return _compile(function, {"_nrt": False, "inline": "always"})


def counted(function: Function) -> Function:
    """The same for a function that makes lists."""
    return _compile(function, {"_nrt": True})


def _compile(function: Function, options: dict[str, Any]) -> Function:
    if not fast():
        return function
    numba: Any = import_module("numba")
    folder = _loops()
    made: Any = None
    if folder is not None:
        before = numba.config.CACHE_DIR
        numba.config.CACHE_DIR = str(folder)
        try:
            made = numba.njit(cache=True, nogil=True, **options)(function)
            made._cache = _Forgiving(made._cache)
        except (RuntimeError, OSError):  # no place to keep it
            made = None
        finally:
            numba.config.CACHE_DIR = before
    return made or numba.njit(nogil=True, **options)(function)  # type: ignore[no-any-return]


class _Forgiving:
    """numba's folder of one compiled loop, of which nothing that goes wrong is an error: what is
    damaged is compiled again, what cannot be written is not kept."""

    def __init__(self, cache: Any) -> None:
        self.cache = cache

    def __getattr__(self, name: str) -> Any:
        return getattr(self.cache, name)

    def load_overload(self, *arguments: Any) -> Any:
        """What was kept; None where there is nothing, or it is damaged."""
        try:
            return self.cache.load_overload(*arguments)
        except Exception:  # unpickled from whatever stands there
            with suppress(Exception):
                self.cache.flush()
            return None

    def save_overload(self, *arguments: Any) -> None:
        """Keep it, where it can be kept."""
        with suppress(Exception):
            self.cache.save_overload(*arguments)


def inlined(function: Function) -> Function:
    """The function as it is, for plain Python; where loops are compiled they may call it too, and
    the compiler puts its text in place of the call."""
    if fast():
        extending: Any = import_module("numba.extending")
        extending.register_jitable(function)
    return function


def cache_home() -> Path:
    """The folder for files that can be made again (`XDG_CACHE_HOME`, else `~/.cache`). Raises
    `OSError` where neither is the full name of a folder: nothing is kept then."""
    for home in (os.environ.get("XDG_CACHE_HOME", ""), os.path.expanduser("~/.cache")):
        if os.path.isabs(home):
            return Path(home) / "stretto"
    raise OSError("no folder of one's own is known")


@cache
def _loops() -> Path | None:
    """Where compiled loops are kept: under a hash of every module that may define some, because
    numba does not notice when a function that was compiled into another changes. None where no
    folder of one's own is known."""
    kernels = Path(__file__).parent
    files = sorted([*kernels.glob("*.py"), *(kernels.parent / "engines").rglob("*.py")])
    text = b"".join(path.read_bytes() for path in files)
    try:
        return cache_home() / "loops" / sha256(text).hexdigest()[:16]
    except OSError:
        return None


def ints(values: Sequence[int]) -> Any:
    """A sequence of integers for a hot loop: an array for compiled ones, else a list."""
    if not fast():
        return list(values)
    return numpy.array(values, dtype=numpy.int64)


def _longer(values: Any) -> Any:
    return values + [0] * len(values)


def _longer_array(values: Any) -> Any:
    return numpy.concatenate((values, numpy.zeros_like(values)))


doubled = counted(_longer_array) if fast() else _longer
"""The sequence made twice as long by zeros; for `counted` functions."""
