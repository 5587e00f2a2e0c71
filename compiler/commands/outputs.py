"""What the commands write: files, whole or not at all, and standard output under the name `-`.
Before a command begins, `check` compares what it is to write with what it reads and with each
other, by whatever names, and refuses what would lose anything: `Unusable`, exit code 2.
"""

import os
import stat
import sys
import unicodedata
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from stretto.compiler import library
from stretto.compiler.atomic import atomic_write, open_already
from stretto.compiler.commands import screen
from stretto.compiler.commands.files import Unusable, guarded, is_stream

STDOUT = ("-", "/dev/stdout", "/dev/fd/1")
READ = ("file", "files", "what", "costs", "plan")
"""Where the arguments have what a command reads."""


def add_output(parser: ArgumentParser, *flags: str, metavar: str, help: str) -> None:
    """Declare a flag that names a file to be written."""
    added = parser.add_argument(*flags, metavar=metavar, help=help)
    parser.set_defaults(outputs=(*(parser.get_default("outputs") or ()), added.dest))


def check(chosen: Namespace) -> None:
    """Refuse outputs that cannot be written, or that would replace what is read or another output.
    Raises `Unusable`; nothing has been read or written then."""
    outputs = [getattr(chosen, dest) for dest in getattr(chosen, "outputs", ())]
    outputs = [name for name in outputs if name is not None]
    inputs = list(_inputs(chosen))
    for name in inputs:
        if inputs.count(name) > 1 and is_stream(name):
            raise Unusable(f"`{name}` can be read only once")
    for name in outputs:
        if is_stdout(name):
            screen.must_be_open()
        else:
            _writable(name)
            for read in inputs:
                if _same(_status(name), _status(read)):
                    raise Unusable(f"cannot write `{name}`: it is `{read}`, which is read")
    for k, name in enumerate(outputs):
        for other in outputs[:k]:
            if _one(name, other):
                raise Unusable(f"cannot write both `{other}` and `{name}`: they are one file")
    for number, stream in ((1, "standard output"), (2, "standard error")):
        own = _descriptor(number)
        for name in outputs:
            if not is_stdout(name) and _same(own, _status(name)):
                raise Unusable(f"cannot write `{name}`: {stream} goes there")
        for read in inputs:
            if _same(own, _status(read)):
                raise Unusable(f"`{read}` is read, and {stream} goes there")


def is_stdout(name: str) -> bool:
    """Whether the name stands for standard output."""
    return name in STDOUT or open_already(Path(name)) == 1


def write(name: str, data: str) -> None:
    """Write one file. Raises `Unusable`."""
    write_all({name: [data.encode("utf-8", "backslashreplace")]})


def write_all(files: Mapping[str, Iterable[bytes]]) -> None:
    """Write these files, by their names: all of them, or, where one cannot be written, none.
    Raises `Unusable`."""
    with ExitStack() as stack:
        opened = {}
        for name, pieces in files.items():
            with guarded(name):
                opened[name] = file = stack.enter_context(_opened(name))
                for piece in pieces:
                    file.write(piece)
        for name in sorted(opened, key=is_stdout):  # before the first one takes its place
            with guarded(name):
                opened[name].flush()
                if not is_stdout(name) and stat.S_ISREG(os.fstat(opened[name].fileno()).st_mode):
                    os.fsync(opened[name].fileno())


@contextmanager
def _opened(name: str) -> Iterator[IO[bytes]]:
    """A file to write to, which is there once the context has ended well."""
    if is_stdout(name):
        sys.stdout.flush()
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    _writable(name)
    with guarded(name), atomic_write(Path(name)) as file:
        yield file


def _inputs(chosen: Namespace) -> Iterator[str]:
    """The files that the command reads, the library's among them."""
    for dest in READ:
        value = getattr(chosen, dest, None)
        for name in value if isinstance(value, list) else [value]:
            if isinstance(name, str):
                own = not Path(name).exists() and library.has(name)
                yield library.path(name) if own else name


def _writable(name: str) -> None:
    """Raises `Unusable` where no file of this name can be written, as far as can be told."""
    path = Path(name)
    if not name:
        raise Unusable("cannot write a file without a name; `-` is standard output")
    with guarded(name):
        if name.endswith(("/", os.sep)) or path.is_dir():
            raise Unusable(f"cannot write `{name}`: it is a folder")
        target = path
        if path.is_symlink() and not path.exists():
            target = Path(os.path.realpath(path))  # of a circle: the circle, which is then refused
        folder = target.parent
        if not folder.exists():
            raise Unusable(f"cannot write `{name}`: there is no folder `{folder}`")
        if not folder.is_dir():
            raise Unusable(f"cannot write `{name}`: `{folder}` is no folder")
        there = path.exists()
        if there and not os.access(path, os.W_OK):
            raise Unusable(f"cannot write `{name}`: it may not be written")
        if open_already(path) is not None:
            return
        if (not there or path.is_file()) and not os.access(folder, os.W_OK | os.X_OK):
            raise Unusable(f"cannot write `{name}`: nothing may be written in `{folder}`")


def _status(name: str) -> os.stat_result | None:
    """The file that the name leads to: of `-`, standard input. None where there is none."""
    if name == "-":
        return _descriptor(0)
    try:
        return os.stat(name)
    except (OSError, ValueError):
        return None


def _descriptor(number: int) -> os.stat_result | None:
    try:
        return os.fstat(number)
    except OSError:
        return None


def _same(a: os.stat_result | None, b: os.stat_result | None) -> bool:
    """Whether both are one regular file: what goes to devices and pipes replaces nothing."""
    both = a is not None and b is not None and os.path.samestat(a, b)
    return both and a is not None and stat.S_ISREG(a.st_mode)


def _one(a: str, b: str) -> bool:
    """Whether two outputs are one, be they there or not. Names that differ in case only, or in how
    their letters are put together, are one file in many folders, and taken for one in all."""
    if is_stdout(a) or is_stdout(b):
        return is_stdout(a) and is_stdout(b)
    if _same(_status(a), _status(b)):
        return True
    if any(Path(name).exists() and not Path(name).is_file() for name in (a, b)):
        return False
    names = [unicodedata.normalize("NFC", os.path.realpath(name)).casefold() for name in (a, b)]
    return names[0] == names[1]
