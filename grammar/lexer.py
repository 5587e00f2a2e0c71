"""From text to words: in every state of the parser those that it takes there.

A state takes some kinds of words; the first that fits, in the order of the table, is the next word.
What fits none of them, but would elsewhere, is a word all the same: one that does not fit.
"""

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import NamedTuple

from stretto.grammar.table import GrammarTable, pattern


class Token(str):
    """A word with its kind and its place: positions from 0, lines and columns from 1, the end
    behind it."""

    __slots__ = ("column", "end_column", "end_line", "end_pos", "line", "start_pos", "type")

    type: str
    start_pos: int
    line: int
    column: int
    end_line: int
    end_column: int
    end_pos: int


def token(kind: str, text: str, begin: tuple[int, int, int], end: tuple[int, int, int]) -> Token:
    """A word of this kind; its place is said by position, line and column of both ends."""
    made = Token(text)
    made.type = kind
    made.start_pos, made.line, made.column = begin
    made.end_pos, made.end_line, made.end_column = end
    return made


class Unfitting(Exception):
    """A word that the grammar does not take here, or a character that begins none; its kind is
    `CHARACTER` then."""

    def __init__(self, word: Token):
        super().__init__(word)
        self.word = word


class _Possible(NamedTuple):
    """A kind of word that may stand somewhere: its name; a fixed text, and whether it is a word; or
    what matches a pattern, and the names of the texts that are a kind of their own."""

    name: str
    text: str
    word: bool
    match: Callable[[str, int], re.Match[str] | None] | None
    exact: dict[str, str]


class Lexer:
    """The words of one text. `at`: the position it has reached; it may be set."""

    def __init__(self, table: GrammarTable, text: str):
        self.table, self.text, self.at = table, text, 0
        self._place = (0, 1, 0)  # a position, its line, and where that line begins
        self._possible: dict[tuple[int, str], list[_Possible]] = {}

    def words(self, states: Sequence[int]) -> Iterator[Token]:
        """One word after another, up to the end; `states` is the parser's stack, which it changes
        meanwhile. Raises `Unfitting`."""
        text, end, known, ignore = self.text, len(self.text), self._possible, self.table.ignore
        while self.at < end:
            state, char = states[-1], text[self.at]
            kinds = known.get((state, char))
            if kinds is None:
                kinds = known[state, char] = _possible(self.table, self.table.states[state], char)
            found = self._next(kinds)
            if found is None:
                raise Unfitting(self._elsewhere(char))
            kind, value = found
            if kind not in ignore:
                made = self._word(kind, value)
                self.at += len(value)
                yield made
            else:
                self.at += len(value)

    def _next(self, kinds: list[_Possible]) -> tuple[str, str] | None:
        """Kind and text of the word that stands here, if it is of one of these kinds."""
        text, at = self.text, self.at
        for name, fixed, word, match, exact in kinds:
            if match is not None:
                if found := match(text, at):
                    return exact.get(found[0], name), found[0]
            elif text.startswith(fixed, at):
                behind = text[at + len(fixed) : at + len(fixed) + 1]
                if not (word and (behind.isalnum() or behind == "_")):
                    return name, fixed
        return None

    def _elsewhere(self, char: str) -> Token:
        """The word that stands here, though the parser does not take it; or the character."""
        everywhere = _possible(self.table, [kind.name for kind in self.table.terminals], char)
        return self._word(*self._next(everywhere) or ("CHARACTER", char))

    def _word(self, kind: str, text: str) -> Token:
        """The word that begins here."""
        at, (known, line, start) = self.at, self._place
        if at < known:
            known, line, start = 0, 1, 0
        if breaks := self.text.count("\n", known, at):
            line, start = line + breaks, self.text.rfind("\n", known, at) + 1
        self._place = at, line, start
        begin = at, line, at - start + 1
        end = at + len(text)
        if breaks := text.count("\n"):
            line, start = line + breaks, at + text.rindex("\n") + 1
        return token(kind, text, begin, (end, line, end - start + 1))


def _possible(table: GrammarTable, taken: Collection[str], char: str) -> list[_Possible]:
    """The kinds of words of these names, and those that are passed over, in the order in which they
    are tried, but for those that cannot begin with this character. What a pattern among them fits
    as well is found by the pattern."""
    own = [one for one in table.terminals if one.name in taken or one.name in table.ignore]
    names = {one.name for one in own}
    found, by_pattern = [], set[str]()
    for one in own:
        exact = {text: name for text, name in one.exact.items() if name in names}
        by_pattern.update(exact.values())
        match = None if one.text else pattern(one.pattern).match
        if match is not None or one.text[0] == char:
            found.append(_Possible(one.name, one.text, one.word, match, exact))
    return [one for one in found if one.name not in by_pattern]
