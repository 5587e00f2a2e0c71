"""What the commands read: schedules and plans, by path or by a library's name. `Unusable` is raised
for what cannot be read or written, and for a command line that asks for something impossible: exit
code 2.
"""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from stretto.compiler import library
from stretto.compiler.diagnostics.printable import one_line
from stretto.compiler.diagnostics.source import Source
from stretto.compiler.diagnostics.suggest import nearest
from stretto.compiler.plan.lines import Lines
from stretto.compiler.plan.plan import Plan, read_plan

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

LARGEST_TEXT = 64 << 20  # bytes of a schedule file; expansion is bounded by --max-ops


class Unusable(Exception):
    """Nothing is wrong with what a file says: it cannot be read or written, or is not there."""


def must_be_somewhere() -> None:
    """For what loads torch, whose libraries are not found from nowhere. Raises `Unusable` where the
    folder that this process is in was removed."""
    try:
        Path.cwd()
    except FileNotFoundError:
        raise Unusable("the current folder was removed; change into another one") from None


def is_plan(name: str) -> bool:
    """Whether the file, pipe or `-` is a plan: JSON or gzip, with which no schedule can begin."""
    if is_stream(name):
        return begins_plan(_pipe(name).head)
    path = Path(name)
    if not path.is_file():
        return False
    with guarded(name), path.open("rb") as file:
        return begins_plan(file.read(2))


def begins_plan(head: bytes) -> bool:
    """Whether a file that begins with these bytes is a plan: JSON or gzip."""
    return head[:1] == b"{" or is_gzip(head)


def is_gzip(head: bytes) -> bool:
    """Whether a file that begins with these bytes is gzip (RFC 1952)."""
    return head[:2] == b"\x1f\x8b"


def is_stream(name: str) -> bool:
    """Whether it can be read only once: standard input, or a pipe such as `<(…)` makes."""
    path = Path(name)
    return name == "-" or (path.exists() and not path.is_file() and not path.is_dir())


def by_name(name: str) -> bool:
    """Whether others can read the plan by this name, and know by it whether it is packed."""
    if is_stream(name):
        return False
    with guarded(name), open(name, "rb") as file:
        return is_gzip(file.read(2)) == name.endswith(".gz")


def plan(name: str) -> Plan:
    """Read a plan from a file, a pipe or standard input, line by line, so that what comes without
    end is refused where its first line is too long. Raises `Rejected` and `Unusable`."""
    with guarded(name):
        if is_stream(name):
            pipe = _pipe(name)
            return read_plan(Lines(name, pipe.file, packed=is_gzip(pipe.head)))
        with open(name, "rb") as file:
            packed = is_gzip(file.read(2))
        return read_plan(Lines(name, packed=packed or name.endswith(".gz")))


class _Pipe(io.RawIOBase):
    """What can be read once, after its first two bytes were looked at; raises `OSError`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.source = open(0 if name == "-" else name, "rb", closefd=name != "-")  # noqa: SIM115
        self.head = self.left = self.source.read(2)
        self.file = io.BufferedReader(self)

    def readable(self) -> bool:
        """As `io` asks."""
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """The next bytes, those that were looked at first."""
        room = memoryview(buffer)
        if not self.left:
            return self.source.readinto(room)
        many = min(len(self.left), len(room))
        room[:many], self.left = self.left[:many], self.left[many:]
        return many


@cache
def _pipe(name: str) -> _Pipe:
    """Raises `Unusable` where nothing can be read."""
    if name == "-" and sys.stdin is None:
        raise Unusable("standard input is closed")
    with guarded(name):
        return _Pipe(name)


def schedule(name: str, *, ships: bool = True) -> Source:
    """The text of a schedule: of the file `name`, of standard input for `-`, else, unless none that
    `ships` would do, of the library's schedule of this name. Raises `Unusable` where there is none
    or it cannot be read."""
    if is_stream(name):
        with guarded(name):
            data = _pipe(name).file.read(LARGEST_TEXT + 1)
        return Source("<stdin>" if name == "-" else name, decoded(name, data))
    path = Path(name)
    if ships and not path.is_file() and library.has(name):
        return library.read(name)
    if not path.exists():
        raise Unusable(unknown(name, ships=ships))
    with guarded(name), path.open("rb") as file:
        return Source(name, decoded(name, file.read(LARGEST_TEXT + 1)))


def bounded(name: str, most: int) -> bytes:
    """What a file, a pipe or `-` has, if that is no more than so many bytes. Raises `Unusable`."""
    if name == "-" and sys.stdin is None:
        raise Unusable("standard input is closed")
    if name != "-" and not Path(name).exists():
        raise Unusable(unknown(name, ships=False))
    with guarded(name), open(0 if name == "-" else name, "rb", closefd=name != "-") as file:
        data: bytes = file.read(most + 1)
    if len(data) > most:
        raise Unusable(f"`{name}` is larger than {most >> 20} MiB")
    return data


def decoded(name: str, data: bytes) -> str:
    """The bytes of the file `name` as text. Raises `Unusable` if too large or no UTF-8."""
    if len(data) > LARGEST_TEXT:
        raise Unusable(f"`{name}` is larger than {LARGEST_TEXT >> 20} MiB")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unusable(f"`{name}` is not UTF-8 text (byte {error.start})") from None


def unknown(name: str, *, ships: bool = True) -> str:
    """There is no such file, or no folder for it: is a close name there, among its neighbours or,
    where one that `ships` would do, in the library?"""
    path = Path(name)
    if not path.parent.is_dir():
        return f"there is no folder `{_missing(path.parent)}`, and so no file `{name}`"
    known = {}  # what may have been typed, to what it should be
    for entry in sorted(neighbours(path.parent)):
        known[entry.name] = known[entry.name.removesuffix(".pipe")] = str(entry)
    bare = ships and path.name == name
    for schedule in library.names() if bare else ():
        for typed in (schedule, f"{schedule}.pipe"):
            known.setdefault(typed, schedule)
    near = path.name if path.name in known else nearest(path.name, known)
    if near is None and bare:
        near = library.meant(path.stem)
    meant = known[near] if near else None
    if bare and not path.suffix:
        return library.unknown(name, meant)
    what = f"there is no file `{name}`"
    return f"{what}; did you mean `{meant}`?" if meant else what


def _missing(folder: Path) -> Path:
    """The outermost of the folders above that is not there."""
    while not folder.parent.is_dir():
        folder = folder.parent
    return folder


def neighbours(folder: Path) -> Iterator[Path]:
    """The files of a folder; none where it cannot be read."""
    with suppress(OSError):
        yield from (entry for entry in folder.iterdir() if entry.is_file())


@contextmanager
def guarded(name: str) -> Iterator[None]:
    """What the operating system refuses, in a sentence: raises `Unusable` for an `OSError`."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise Unusable(f"`{name}`: {error.strerror or error}") from None


def colourful(stream: TextIO) -> bool:
    """Whether to colour what goes there: a terminal, unless the user says otherwise
    (https://no-color.org, https://force-color.org)."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def say(*lines: str) -> None:
    """Talk to the user, on stderr: each is one line. Where that is full, what was asked for goes
    on."""
    for line in lines:
        with suppress(OSError):
            print(one_line(line), file=sys.stderr, flush=True)
