"""Files of lines, written whole or not at all and read line by line; packed where the name ends in
`.gz`. Nothing here knows what a line says.

A packed line is a gzip member of its own, so that `zcat` gives the plain file; an extra field in
each member's head tells its length (as blocked gzip does), so that a reader hops over the lines
that it does not want. What is read is bounded by what the caller allows, never by what the file
claims.
"""

import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, NoReturn

from stretto.compiler.atomic import atomic_write
from stretto.compiler.diagnostics.diagnostic import Diagnostic, Rejected

# RFC 1952: magic, deflate, "an extra field follows"; no time; no hint; no system. The extra field
# is one subfield, `St`, of four bytes: the length of the whole member.
_HEAD = struct.Struct("<4sIBBH2sHI")
_TAIL = struct.Struct("<II")
_MAGIC = b"\x1f\x8b\x08\x04"
_AROUND = _HEAD.size + _TAIL.size


def write_lines(path: Path, lines: Iterable[bytes]) -> None:
    """Write the lines, each with its line break. Raises `OSError`."""
    with atomic_write(path) as file:
        for line in as_written(lines, path.suffix == ".gz"):
            file.write(line)


def as_written(lines: Iterable[bytes], packed: bool) -> Iterator[bytes]:
    """The lines as they stand in a file, packed or not."""
    return (_pack(line) if packed else line for line in lines)


def _pack(line: bytes) -> bytes:
    """The line as a gzip member. (Other versions of zlib may find other bytes for it; they unpack
    to the same line.)"""
    deflate = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = deflate.compress(line) + deflate.flush()
    head = _HEAD.pack(_MAGIC, 0, 0, 255, _HEAD.size - 12, b"St", 4, len(body) + _AROUND)
    return head + body + _TAIL.pack(zlib.crc32(line), len(line) & 0xFFFFFFFF)


class Lines:
    """An open file of lines. `line` counts those begun; every refusal names it."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        file: IO[bytes] | None = None,
        *,
        packed: bool | None = None,
    ):
        """`file`: what was opened already, such as a pipe, from which no line can be skipped.
        `packed`: if not given, the name tells. Raises `OSError`."""
        self.name = os.fspath(path)
        self.packed = self.name.endswith(".gz") if packed is None else packed
        self.line = 0
        self.file = file or open(self.name, "rb")  # noqa: SIM115  closed by `__exit__`

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def next(self, most: int) -> bytes:
        """The next line, with its line break: of at most so many bytes, else it is refused."""
        self.line += 1
        line = self._member(most) if self.packed else self.file.readline(most + 1)
        if len(line) > most:
            self.refuse("plan-too-large", f"it has more than the {most} bytes that it may have")
        if not line.endswith(b"\n"):
            self.refuse("damaged-plan", "it ends in the middle, or is missing")
        return line

    def skip(self, lengths: Iterable[int]) -> None:
        """Pass over lines of these lengths (in bytes, unpacked) without reading them."""
        for length in lengths:
            self.line += 1
            self.file.seek(self._packed_size() if self.packed else length, os.SEEK_CUR)

    def end(self) -> None:
        """Nothing may follow."""
        if self.file.read(1):
            self.line += 1
            self.refuse("damaged-plan", "something follows after the last rank's line")

    def _packed_size(self) -> int:
        """Read the head of a gzip member: how many bytes follow."""
        head = self.file.read(_HEAD.size)
        if self.line > 1 and len(head) < _HEAD.size:
            self.refuse("damaged-plan", "it is missing")
        if not head.startswith(_MAGIC[:2]):
            what = "it is not compressed, in spite of the name"
            self.refuse("not-a-plan" if self.line == 1 else "damaged-plan", what)
        head = head.ljust(_HEAD.size, b"\0")
        *fixed, total = _HEAD.unpack(head)
        if fixed != [_MAGIC, 0, 0, 255, _HEAD.size - 12, b"St", 4] or total < _AROUND:
            text = "its lines were not compressed one by one, as stretto does it"
            self.refuse("damaged-plan", f"{text}; unpack it, and give it a name without .gz")
        return int(total) - _HEAD.size

    def _member(self, most: int) -> bytes:
        """The content of the next gzip member; where it has more than `most` bytes, one more."""
        left = self._packed_size() - _TAIL.size
        inflate, found, room = zlib.decompressobj(-zlib.MAX_WBITS), [], most + 1
        try:
            while left and room and not inflate.eof:
                raw = self.file.read(min(left, 1 << 20))
                if not raw:
                    break
                left -= len(raw)
                while raw and room:
                    found.append(inflate.decompress(raw, room))
                    room -= len(found[-1])
                    raw = inflate.unconsumed_tail
        except zlib.error:
            self.refuse("damaged-plan", "its compressed data are damaged")
        line = b"".join(found)
        if not room:
            return line
        tail = self.file.read(_TAIL.size)
        whole = inflate.eof and not left and not inflate.unused_data and len(tail) == _TAIL.size
        if not whole or _TAIL.unpack(tail) != (zlib.crc32(line), len(line)):
            self.refuse("damaged-plan", "its compressed data are damaged, or end too early")
        return line

    def refuse(self, code: str, words: str) -> NoReturn:
        """Raise `Rejected` for the line that was begun last."""
        raise Rejected([self.diagnostic(code, words)])

    def diagnostic(self, code: str, words: str) -> Diagnostic:
        """What is wrong with the line that was begun last."""
        where = "header" if self.line == 1 else f"line {self.line} (rank {self.line - 2})"
        return Diagnostic(code, f"{self.name}, {where}: {words}")
