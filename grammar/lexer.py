"""How lark finds the words of the language: its contextual lexer, made piece by piece.

In every state of the parser other words may stand. lark makes one regular expression of them for
each state that it comes to: some 35 for a page of text, which take longer to compile than the page
to read. Here each word has its own, compiled when a text first has something that begins like it;
they are tried in the order that lark gives them, so that the first that matches is the same.
"""

import re
from collections.abc import Callable, Collection, Iterator
from copy import copy
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lark.lexer import BasicLexer, ContextualLexer

if TYPE_CHECKING:
    from lark.common import LexerConf
    from lark.lexer import TerminalDef

WORD = re.compile(r"([a-z])[a-z]*\\b[^|]*")
"""The regular expressions of words that begin with this very letter."""

Attempt = tuple[str, Callable[[str, int, int], "re.Match[str] | None"]]
"""The name of a terminal, and what looks for it."""


class WordScanner:
    """In place of lark's `Scanner`: these terminals, of which the first that matches counts."""

    def __init__(self, terminals: "Collection[TerminalDef]", flags: int):
        self.terminals, self.flags = terminals, flags
        self.allowed_types = {terminal.name for terminal in terminals}
        self.attempts: dict[str, list[Attempt]] = {}

    def match(self, text: Any, position: int) -> tuple[str, str] | None:
        """What stands there, and the name of its terminal. `text`: a `str`, or since lark 1.3 a
        slice of one."""
        whole, end = (text, len(text)) if isinstance(text, str) else (text.text, text.end)
        first = whole[position]
        attempts = self.attempts.get(first)
        if attempts is None:
            attempts = self.attempts[first] = list(self._beginning(first))
        for name, match in attempts:
            found = match(whole, position, end)
            if found:
                return found[0], name
        return None

    def _beginning(self, first: str) -> Iterator[Attempt]:
        """The terminals that may begin with this character."""
        for terminal in self.terminals:
            pattern = terminal.pattern
            if pattern.type == "str":
                letter = pattern.value[0]
            else:
                word = WORD.fullmatch(pattern.value)
                letter = word[1] if word else first
            if letter == first:
                yield terminal.name, re.compile(pattern.to_regexp(), self.flags).match


class WordLexer(BasicLexer):
    """lark's lexer of one state."""

    @property
    def scanner(self) -> Any:
        """What looks for its words."""
        if self._scanner is None:
            self.callback = dict(self.user_callbacks)
            self._scanner: Any = WordScanner(self.terminals, self.g_regex_flags)
        return self._scanner


class LazyLexer(ContextualLexer):
    """lark's contextual lexer, whose lexers are made when the parser comes to their states."""

    def __init__(
        self,
        conf: "LexerConf",
        states: "dict[int, Collection[str]]",
        always_accept: Collection[str] = (),
    ):
        self.conf = copy(conf)
        self.conf.skip_validation = True  # a test holds the terminals to what this relies on
        self.lexers = _Lexers(self.conf, states, always_accept)

    @cached_property
    def root_lexer(self) -> WordLexer:  # type: ignore[override]
        """That of no state, which names what may not stand where it stands."""
        return WordLexer(self.conf)


class _Lexers(dict[int, Any]):
    """By state; states in which the same may stand share one."""

    def __init__(
        self, conf: "LexerConf", states: "dict[int, Collection[str]]", always: Collection[str]
    ):
        super().__init__()
        self.conf, self.states, self.always = conf, states, {*always, *conf.ignore}
        self.by_words: dict[frozenset[str], WordLexer] = {}

    def __missing__(self, state: int) -> WordLexer:
        words = frozenset(self.states[state])
        if words not in self.by_words:
            own = copy(self.conf)
            known = self.conf.terminals_by_name
            own.terminals = [known[name] for name in {*words, *self.always} if name in known]
            self.by_words[words] = WordLexer(own)
        self[state] = self.by_words[words]
        return self.by_words[words]
