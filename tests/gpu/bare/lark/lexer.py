"""From text to words: in every state of the parser those that it may take there."""

import re
from collections.abc import Iterator
from typing import Any

from lark.exceptions import UnexpectedCharacters
from lark.table import Table, Terminal


class BasicLexer:
    """As there, where others are made of it."""


class ContextualLexer:
    """As there, where others are made of it."""


class Token(str):
    """A word with its kind and place."""

    __slots__ = (
        "column",
        "end_column",
        "end_line",
        "end_pos",
        "line",
        "start_pos",
        "type",
        "value",
    )

    def __new__(cls, type: str, value: str, *place: Any) -> "Token":
        made = super().__new__(cls, value)
        made.type, made.value = type, value
        names = ("start_pos", "line", "column", "end_line", "end_column", "end_pos")
        for name, one in zip(names, (*place, *[None] * (6 - len(place))), strict=True):
            setattr(made, name, one)
        return made


class LineCounter:
    """Where in the text the lexer is."""

    def __init__(self) -> None:
        self.char_pos, self.line, self.column, self.line_start_pos = 0, 1, 1, 0

    def feed(self, text: str) -> None:
        lines = text.count("\n")
        if lines:
            self.line += lines
            self.line_start_pos = self.char_pos + text.rindex("\n") + 1
        self.char_pos += len(text)
        self.column = self.char_pos - self.line_start_pos + 1


class LexerState:
    """What a parse remembers of its text."""

    def __init__(self, text: str):
        self.text, self.line_ctr, self.last_token = text, LineCounter(), None


class LexerThread:
    """The lexer of one text."""

    def __init__(self, table: Table, text: str):
        self.table, self.state = table, LexerState(text)
        self.scanners: dict[int, Any] = table.__dict__.setdefault("scanners", {})

    def lex(self, parser: Any) -> Iterator[Token]:
        at, text = self.state.line_ctr, self.state.text
        while at.char_pos < len(text):
            pattern, words = self._scanner(parser.state_stack[-1])
            found = pattern.match(text, at.char_pos)
            if found is None:
                char = text[at.char_pos]
                raise UnexpectedCharacters(char, at.line, at.column, at.char_pos)
            kind, value = found.lastgroup, found[0]
            kind = words.get(kind, {}).get(value, kind)
            begun = at.char_pos, at.line, at.column
            at.feed(value)
            if kind not in self.table.ignore:
                yield Token(kind, value, *begun, at.line, at.column, at.char_pos)

    def _scanner(self, state: int) -> Any:
        """A pattern for the words that the state takes; and for each kind that is a pattern itself,
        the single words that are of another kind."""
        if state not in self.scanners:
            taken = self.table.states[state].keys() | self.table.ignore
            own = [one for one in self.table.terminals if one.name in taken]
            words: dict[str, dict[str, str]] = {}
            for one in own:
                if one.text is None:
                    words[one.name] = {t.text: t.name for t in own if t.text and _is_one(one, t)}
            inside = {name for found in words.values() for name in found.values()}
            rest = [f"(?P<{t.name}>{t.pattern})" for t in own if t.name not in inside]
            self.scanners[state] = re.compile("|".join(rest)), words
        return self.scanners[state]


def _is_one(pattern: Terminal, word: Terminal) -> bool:
    found = re.match(pattern.pattern, word.text or "")
    return pattern.priority == word.priority and bool(found and found[0] == word.text)
