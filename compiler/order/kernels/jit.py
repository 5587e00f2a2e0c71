"""The hot loops, plain and compiled. They are written in the part of Python that numba understands
too, over plain sequences of integers, so that both give the same result. A process begins with the
very functions that stand in the files; `engage` puts compiled ones in their place, everywhere.
"""

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from hashlib import sha256
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from stretto.compiler.order.kernels.own_folder import shared

Function = TypeVar("Function", bound=Callable[..., Any])

ROOM = "stretto.compiler.order."
"""Modules below this name hold the loops, and call them."""


class _HotLoop(NamedTuple):
    """A function as it stands in its file, what is compiled for it, and numba's options."""

    plain: Callable[..., Any]
    source: Callable[..., Any]
    options: dict[str, Any]


_loops: dict[int, _HotLoop] = {}
_inlined: list[Callable[..., Any]] = []
_engaged: dict[int, Any] = {}

numpy: Any = None
"""The package, once loops have been compiled."""

_fast = [False]


@cache
def available() -> bool:
    """Whether loops can be compiled: whether numba is there."""
    return find_spec("numba") is not None


def fast() -> bool:
    """Whether loops run compiled in this process, from arrays; else they run plain, from lists."""
    return _fast[0]


def engage() -> None:
    """From now on loops run compiled. What was made for plain ones (lists) is of no use to them.
    Raises `ImportError` where numba is not there."""
    global numpy
    if fast():
        return
    extending: Any = import_module("numba.extending")
    numpy = import_module("numpy")
    import_module("stretto.compiler.order.kernels.native")
    while _inlined:
        extending.register_jitable(_inlined.pop())
    for key, loop in _loops.items():
        if key not in _engaged:
            _engaged[key] = _dispatcher(loop)
    _fast[0] = True
    _put({id(loop.plain): _engaged[key] for key, loop in _loops.items()})


def disengage() -> None:
    """From now on loops run plain. What was made for compiled ones (arrays) is of no use to them:
    they would run, but slowly."""
    _fast[0] = False
    _put({id(made): _loops[key].plain for key, made in _engaged.items()})


def _put(forms: dict[int, Any]) -> None:
    """Put other forms of loops in the place of those with these numbers."""
    for name, module in list(sys.modules.items()):
        if name.startswith(ROOM):
            for own, value in list(vars(module).items()):
                if id(value) in forms:
                    setattr(module, own, forms[id(value)])


def compiled(function: Function) -> Function:
    """The function, which plain code calls: compiled and kept on disk once loops are engaged.

    It must make no list and no array: it is compiled without reference counting. (`counted` is for
    those that make some.)"""
    return _loop(function, function, {"_nrt": False, "cache": True})


def inner(function: Function) -> Function:
    """The same for a function that only other loops call: it is kept as a part of them, and needs
    no entry from plain code, which would take as long to compile as the function itself."""
    return _loop(function, function, {"_nrt": False, **INNER})


def part(function: Function) -> Function:
    """The same for a part of one loop, which is compiled as if it stood in place of the call."""
    return _loop(function, function, {"_nrt": False, "forceinline": True, **INNER})


def counted(function: Function) -> Function:
    """The same as `compiled` for a function that makes lists."""
    return _loop(function, function, {"_nrt": True, "cache": True})


DEFINES = "\n@compiled\n"
"""What stands in every engine that defines loops."""

INNER = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}


def inlined(function: Function) -> Function:
    """The function as it is, for plain Python; compiled loops may call it too, and the compiler
    puts its text in place of the call."""
    if fast():
        import_module("numba.extending").register_jitable(function)
    else:
        _inlined.append(function)
    return function


def _loop(plain: Function, source: Any, options: dict[str, Any]) -> Function:
    """The function in the form that loops have in this process now."""
    loop = _HotLoop(plain, source, options)
    _loops[id(plain)] = loop
    if not fast():
        return plain
    made: Function = _dispatcher(loop)
    _engaged[id(plain)] = made
    return made


def _dispatcher(loop: _HotLoop) -> Any:
    """numba's function for a loop."""
    numba: Any = import_module("numba")
    options = dict(loop.options)
    folder = loops_folder() if options.pop("cache", False) else None
    if folder is not None:
        before = numba.config.CACHE_DIR
        numba.config.CACHE_DIR = str(folder)
        try:
            made = numba.njit(cache=True, nogil=True, **options)(loop.source)
            made._cache = _Forgiving(made._cache)
            return made
        except (RuntimeError, OSError):  # no place to keep it
            pass
        finally:
            numba.config.CACHE_DIR = before
    made = numba.njit(nogil=True, **options)(loop.source)
    if "no_cpython_wrapper" in options:
        kind: Any = type(made)
        made.__class__ = _inner_kind(kind)
    return made


@cache
def _inner_kind(dispatcher: type[Any]) -> type[Any]:
    """numba's kind of function for a loop that has no entry from plain code, which would end the
    process there: called from plain code, it runs plain."""

    def plain(self: Any, *arguments: Any) -> Any:
        return self.py_func(*arguments)

    return type("InnerLoop", (dispatcher,), {"__call__": plain})


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


def cache_home() -> Path:
    """The folder for files that can be made again (`XDG_CACHE_HOME`, else `~/.cache`). Raises
    `OSError` where neither is the full name of a folder: nothing is kept then."""
    for home in (os.environ.get("XDG_CACHE_HOME", ""), os.path.expanduser("~/.cache")):
        if os.path.isabs(home):
            return Path(home) / "stretto"
    raise OSError("no folder of one's own is known")


@cache
def loops_folder() -> Path | None:
    """Where compiled loops are kept: under a hash of every module that may define some, because
    numba does not notice when a function that was compiled into another changes; of where and how
    old they are, which numba does look at; and of what compiles them for what processor. None where
    no folder of one's own is known, or others may write into it."""
    kernels = Path(__file__).parent
    engines = (kernels.parent / "engines").rglob("*.py")
    files = sorted([*kernels.glob("*.py"), *(one for one in engines if DEFINES in one.read_text())])
    said = [sys.version, *(_version(name) for name in ("numba", "llvmlite", "numpy")), _processor()]
    for path in files:
        said += [str(path), str(path.stat().st_mtime_ns)]
    text = "\n".join(said).encode() + b"".join(path.read_bytes() for path in files)
    try:
        folder = cache_home() / "loops" / sha256(text).hexdigest()[:16]
        return None if shared(folder) else folder
    except (OSError, RuntimeError):  # the latter for links in a circle
        return None


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _processor() -> str:
    """What code is compiled for."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return line
    uname = os.uname()
    return f"{uname.sysname} {uname.machine}"


def ints(values: Sequence[Any]) -> Any:
    """A sequence of integers for a hot loop: an array for compiled ones, else a list."""
    if not fast():
        return list(values)
    return numpy.array(values, dtype=numpy.int64)


def _longer(values: Any) -> Any:
    return values + [0] * len(values)


def _longer_array(values: Any) -> Any:
    return numpy.concatenate((values, numpy.zeros_like(values)))


doubled = _loop(_longer, _longer_array, {"_nrt": True, "cache": True})
"""The sequence made twice as long by zeros; for `counted` functions."""
