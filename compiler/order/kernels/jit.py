"""Compile the hot loops where numba is installed; run the very same functions as they are where
it is not. They are written in the part of Python that both understand, over plain sequences of
integers, so that either gives the same result.
"""

import os
from collections.abc import Callable, Sequence
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


def kept() -> bool:
    """Whether loops that were compiled on this machine before are there to be used again."""
    return any(_kept().rglob("*.nbi"))


def compiled(function: Function) -> Function:
    """The function, compiled (and kept on disk) where that is possible."""
    if not fast():
        return function
    numba: Any = import_module("numba")
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(_kept())
    try:
        made: Function = numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # no place to keep it
        made = numba.njit(nogil=True)(function)
    finally:
        numba.config.CACHE_DIR = before
    return made


def cache_home() -> Path:
    """Where things are kept that can be made again."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(home) / "stretto"


@cache
def _kept() -> Path:
    """Where compiled loops are kept: by the text of all of them, because numba does not notice
    when a function that was compiled into another changes."""
    kernels = Path(__file__).parent
    files = sorted([*kernels.glob("*.py"), *(kernels.parent / "engines").glob("*.py")])
    text = b"".join(path.read_bytes() for path in files)
    return cache_home() / "loops" / sha256(text).hexdigest()[:16]


def ints(values: Sequence[int]) -> Any:
    """A sequence of integers for a hot loop: an array for compiled ones, else a list."""
    if not fast():
        return list(values)
    import numpy

    return numpy.array(values, dtype=numpy.int64)
