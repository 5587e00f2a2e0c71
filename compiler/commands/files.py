"""What the commands read and write: schedules and plans in, by path or by a library's name; files
out, whole or not at all. `Unusable` is raised for what cannot be read or written, and for a command
line that asks for something impossible: exit code 2.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import cache
from pathlib import Path
from typing import TextIO

from stretto.compiler import library
from stretto.compiler.atomic import atomic_write
from stretto.compiler.diagnostics.printable import one_line
from stretto.compiler.diagnostics.source import Source
from stretto.compiler.diagnostics.suggest import nearest
from stretto.compiler.plan.plan import MAX_FILE

LARGEST_TEXT = 64 << 20  # bytes of a schedule file; expansion is bounded by --max-ops


class Unusable(Exception):
    """Nothing is wrong with what a file says: it cannot be read or written, or is not there."""


def is_plan(name: str) -> bool:
    """Whether the file, pipe or `-` is a plan: JSON or gzip, with which no schedule can begin."""
    if is_stream(name):
        return begins_plan(streamed(name))
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


@cache
def streamed(name: str) -> bytes:
    """All that comes, up to what a file of its kind may have and one byte more. Raises `Unusable`
    where nothing can be read."""
    if name == "-" and sys.stdin is None:
        raise Unusable("standard input is closed")
    with guarded(name), open(0 if name == "-" else name, "rb", closefd=name != "-") as file:
        head = file.read(2)
        return head + file.read(MAX_FILE if begins_plan(head) else LARGEST_TEXT)


@contextmanager
def plan_file(name: str) -> Iterator[str]:
    """Where a plan can be read by name, which says whether it is packed: its own, or in a
    temporary folder if it came through a pipe or is packed in spite of its name."""
    stream = is_stream(name)
    with guarded(name), nullcontext() if stream else open(name, "rb") as file:
        packed = is_gzip(file.read(2) if file else streamed(name))
    if not stream and packed <= name.endswith(".gz"):
        yield name
        return
    from tempfile import TemporaryDirectory

    with TemporaryDirectory(prefix="stretto-") as folder:
        path = Path(folder, "plan.gz" if packed else "plan")
        if stream:
            path.write_bytes(streamed(name))
        else:
            path.symlink_to(Path(name).resolve())
        yield str(path)


def schedule(name: str) -> Source:
    """The text of a schedule: of the file `name`, of standard input for `-`, else of the library's
    schedule of this name. Raises `Unusable` where there is none or it cannot be read."""
    if name == "-":
        return Source("<stdin>", decoded(name, streamed(name)))
    if is_stream(name):
        return Source(name, decoded(name, streamed(name)))
    path = Path(name)
    if not path.is_file() and library.has(name):
        return library.read(name)
    if not path.exists():
        raise Unusable(unknown(name))
    with guarded(name), path.open("rb") as file:
        return Source(name, decoded(name, file.read(LARGEST_TEXT + 1)))


def bounded(name: str, most: int) -> bytes:
    """What a file, a pipe or `-` has, if that is no more than so many bytes. Raises `Unusable`."""
    if name == "-" and sys.stdin is None:
        raise Unusable("standard input is closed")
    if name != "-" and not Path(name).exists():
        raise Unusable(f"there is no file `{name}`")
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


def unknown(name: str) -> str:
    """There is no such file: is a close name there, among its neighbours or in the library?"""
    path = Path(name)
    known = {}  # what may have been typed, to what it should be
    for entry in sorted(neighbours(path.parent)):
        known[entry.name] = known[entry.name.removesuffix(".pipe")] = str(entry)
    bare = path.name == name
    for schedule in library.names() if bare else ():
        for typed in (schedule, f"{schedule}.pipe"):
            known.setdefault(typed, schedule)
    near = path.name if path.name in known else nearest(path.name, known)
    asked = bare and not name.endswith(".pipe")
    what = f"there is no file `{name}`"
    if asked:
        what += ", and the library has no schedule of this name"
    if near:
        return f"{what}; did you mean `{known[near]}`?"
    return f"{what}; `stretto list` shows the library" if asked else what


def neighbours(folder: Path) -> Iterator[Path]:
    """The files of a folder; none where it cannot be read."""
    with suppress(OSError):
        yield from (entry for entry in folder.iterdir() if entry.is_file())


def write(name: str, data: str) -> None:
    """Write the file whole, or leave what was there. Raises `Unusable`."""
    path = Path(name)
    if path.is_dir() or not path.parent.is_dir():
        what = "a folder" if path.is_dir() else "in a folder that does not exist"
        raise Unusable(f"cannot write `{name}`: it is {what}")
    with guarded(name), atomic_write(path) as file:
        file.write(data.encode("utf-8", "backslashreplace"))


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
    """Talk to the user, on stderr: each is one line."""
    for line in lines:
        print(one_line(line), file=sys.stderr)
