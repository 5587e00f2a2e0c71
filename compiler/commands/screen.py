"""What a stream can show: how wide its terminal is, and which characters it has. Texts for people
are written as the locale has it, with ASCII marks where it has no others; data that programs read
is UTF-8 everywhere.
"""

import errno
import os
import sys
from typing import TextIO

from stretto.compiler.diagnostics.ascii import register

NARROWEST = 40  # columns; in fewer no table can be read


def prepare(*streams: TextIO) -> None:
    """Let the streams write what their locale lacks in marks of ASCII."""
    handler = register()
    for stream in streams:
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=handler)  # pyright: ignore[reportAttributeAccessIssue]


def width(stream: TextIO) -> int | None:
    """Columns of the terminal that the stream is, or what `COLUMNS` says; None where nothing bounds
    them: in a file or a pipe."""
    said = os.environ.get("COLUMNS", "")
    if said.isdecimal() and 0 < int(said) < 10_000:
        return max(NARROWEST, int(said))
    try:
        found = os.get_terminal_size(stream.fileno()).columns
    except (AttributeError, ValueError, OSError):
        return None
    return max(NARROWEST, found) if found else None


def encoding(stream: TextIO) -> str:
    """How the stream writes characters."""
    return stream.encoding or "utf-8"


def must_be_open() -> None:
    """Raises `OSError` where standard output, to which something asked for is to go, is closed."""
    if sys.__stdout__ is None and getattr(sys.stdout, "name", None) == os.devnull:
        raise OSError(errno.EBADF, "it is closed")


def write_data(text: str) -> None:
    """Write to standard output what programs read: UTF-8, whatever the locale. Raises `OSError`."""
    must_be_open()
    sys.stdout.flush()
    if hasattr(sys.stdout, "buffer"):
        sys.stdout.buffer.write(text.encode("utf-8", "backslashreplace"))
        sys.stdout.buffer.flush()
    else:
        sys.stdout.write(text)
