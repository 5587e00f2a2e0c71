"""A row of the tables of codes."""

from typing import NamedTuple


class ErrorCode(NamedTuple):
    """`title` says in a line what is wrong, `explanation` why it matters and what to do."""

    title: str
    explanation: str
    wrong: str = ""
    mended: str = ""

    def __str__(self) -> str:
        return self.title
