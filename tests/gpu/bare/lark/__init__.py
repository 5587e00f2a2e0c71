"""In place of lark on a machine that has torch and nothing else: runs the table that lark made of
the grammar (`grammar/table.json`), as lark would. It makes no tables."""

from typing import Any

from lark.lexer import LexerThread
from lark.lexer import Token as Token
from lark.parser import ParserState
from lark.table import Table, version

__version__ = version()  # of the lark that made the table


class Lark:
    """A parser for the table; `callbacks` has what each rule is made by."""

    def __init__(self, *_: Any, **__: Any):
        raise NotImplementedError("this stand-in for lark builds no tables: see grammar/table.json")

    @classmethod
    def _load_from_dict(cls, data: Any, memo: Any, transformer: Any, **_: Any) -> "Lark":
        made = object.__new__(cls)
        made.table = Table(data, memo)  # type: ignore[attr-defined]
        made.transformer = transformer  # type: ignore[attr-defined]
        return made

    def parse_interactive(self, text: str, start: str) -> Any:
        """A parse that is fed token by token."""
        table: Any = self.table  # type: ignore[attr-defined]
        state = ParserState(table, self.transformer, start)  # type: ignore[attr-defined]
        return Session(state, LexerThread(table, text))


class Session:
    """A parse under way."""

    def __init__(self, parser_state: ParserState, lexer_thread: LexerThread):
        self.parser_state, self.lexer_thread = parser_state, lexer_thread
