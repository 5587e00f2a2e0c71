"""Texts and places in them. Everything that points at a file does it with a `Span`."""

from typing import NamedTuple


class Source(NamedTuple):
    """A text that was read, under the name its diagnostics show."""

    name: str
    text: str


class Span(NamedTuple):
    """A part of a source. Lines and columns count characters from 1; `end_column` is one past
    the last character, so that an empty span has equal ends."""

    file: str
    line: int
    column: int
    end_line: int
    end_column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"
