"""Files that are written whole or not at all, by whoever writes one."""

import errno
import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import IO

ENDS = (signal.SIGTERM, signal.SIGHUP)
"""Signals that end a process without a word, and without its `finally`."""

OPEN_FILES = re.compile(r"/proc/(\d+)(?:/task/\d+)?/fd/(\d+)")
"""An entry of a process's table of open files, as Linux shows it."""

FOLLOWED = 40  # links, as many as Linux follows


@contextmanager
def atomic_write(path: Path, *, new: bool = False) -> Iterator[IO[bytes]]:
    """A file to write to that takes the place of `path` once all of it is on disk, and is gone when
    anything fails, or a signal ends the process. A link is written through, to what it points at; a
    file that is replaced keeps its permissions, extended attributes and, where that is allowed, its
    owner; its other hard links keep what was in it. One that may not be written stays; with `new`,
    any that is there does. What is no regular file (a pipe, a device), or is open already and named
    so (`/dev/fd/3`), is written to as it is. Raises `OSError`."""
    if not new:
        opened = open_already(path)
        if opened is not None or (path.exists() and not path.is_file()):
            with open(path if opened is None else os.dup(opened), "wb") as file:
                yield file
            return
    target = path.absolute() if new else _target(path)
    beside = target.with_name(f".stretto-{os.urandom(6).hex()}")  # the name may be the longest
    with _removed_at_the_end(beside), _draft(beside) as file:
        try:
            _as_before(file, target)
            yield file
            file.flush()
            os.fsync(file.fileno())
            if not beside.exists():
                _name(file, beside)
            if new:
                _take_free_place(beside, target)
            else:
                os.replace(beside, target)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise


def open_already(path: Path) -> int | None:
    """The number of the open file of this process that a name leads to, as `/dev/fd/3` does: what
    its name was may be another's by now, or nobody's. None where it leads to a file by its name."""
    with suppress(OSError, RuntimeError, ValueError):  # of circles; of no name
        for _ in range(FOLLOWED):
            path = path.parent.resolve() / path.name
            found = OPEN_FILES.fullmatch(str(path))
            if found and int(found[1]) == os.getpid():
                return int(found[2])
            if not path.is_symlink():
                return None
            path = path.parent / os.readlink(path)
    return None


def _draft(beside: Path) -> IO[bytes]:
    """A new file in this folder: without a name where the system has such files, which are gone
    however the process ends, else under this one."""
    with suppress(AttributeError, OSError):
        unnamed = os.open(beside.parent, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o666)
        if os.path.exists(f"/proc/self/fd/{unnamed}"):
            return open(unnamed, "wb")
        os.close(unnamed)
    return open(beside, "xb")


def _name(file: IO[bytes], path: Path) -> None:
    """Give a file without a name this one."""
    here = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:  # that a folder is given makes Python ask for the file behind the link
        os.link(f"/proc/self/fd/{file.fileno()}", path, src_dir_fd=here, follow_symlinks=True)
    finally:
        os.close(here)


def _target(path: Path) -> Path:
    """What a chain of links ends at, be it there or not."""
    try:
        target = path.resolve()
    except RuntimeError:  # as Python up to 3.12 tells of a circle
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path)) from None
    if target.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    return target


def _take_free_place(beside: Path, target: Path) -> None:
    """Give the file its name, where no other has it. Raises `FileExistsError`."""
    try:
        os.link(beside, target)
        beside.unlink()
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
        os.rename(beside, target)


def _as_before(file: IO[bytes], target: Path) -> None:
    """The permissions, attributes, and where that is allowed the owner, of the file that will be
    replaced."""
    try:
        there = target.stat()
    except OSError:
        return
    if not os.access(target, os.W_OK):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(target))
    now = os.fstat(file.fileno())
    if (now.st_uid, now.st_gid) != (there.st_uid, there.st_gid):
        with suppress(OSError):
            os.fchown(file.fileno(), there.st_uid, there.st_gid)
    os.fchmod(file.fileno(), there.st_mode & 0o777)
    if hasattr(os, "listxattr"):
        with suppress(OSError):
            for name in os.listxattr(target):
                os.setxattr(file.fileno(), name, os.getxattr(target, name))


@contextmanager
def _removed_at_the_end(beside: Path) -> Iterator[None]:
    """While this lasts, a signal that ends the process takes the file with it."""

    def end(number: int, _: FrameType | None) -> None:
        beside.unlink(missing_ok=True)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    main = threading.current_thread() is threading.main_thread()
    caught = [n for n in ENDS if main and signal.getsignal(n) is signal.SIG_DFL]
    for number in caught:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in caught:
            signal.signal(number, signal.SIG_DFL)
