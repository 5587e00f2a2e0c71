"""Compile the hot loops where numba is installed; run the very same functions as they are where
it is not. They are written in the part of Python that both understand, over plain sequences of
integers, so that either gives the same result."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


@cache
def fast() -> bool:
    """Whether numba is there."""
    try:
        import numba  # noqa: F401
    except ImportError:
        return False
    return True


def compiled(function: Function) -> Function:
    """The function, compiled (and kept on disk) where that is possible."""
    if not fast():
        return function
    import numba

    made: Function = numba.njit(cache=True, nogil=True)(function)
    return made


def ints(values: Sequence[int]) -> Any:
    """A sequence of integers for a hot loop: an array for compiled ones, else a list."""
    if not fast():
        return list(values)
    import numpy

    return numpy.array(values, dtype=numpy.int64)


def floats(values: Sequence[float]) -> Any:
    """The same for floats."""
    if not fast():
        return list(values)
    import numpy

    return numpy.array(values, dtype=numpy.float64)
