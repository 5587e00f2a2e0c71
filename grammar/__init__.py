"""The grammar of the schedule language, and its parser.

`pipe.lark` is the language. lark makes a table of it, which takes longer than parsing a file, so
the table is kept in `table.json`; `python -m stretto.grammar` writes it anew, and a test holds the
two together. What runs the table is here (`lexer`, `parser`): lark is needed only to make one, and
loading it would take longer than proving a schedule.
"""

import json
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from stretto.grammar import table
from stretto.grammar.parser import Parser

OPTIONS: dict[str, Any] = {
    "parser": "lalr",
    "lexer": "contextual",
    "start": ["schedule", "costs"],
    "keep_all_tokens": True,
    "maybe_placeholders": False,
}
FOLDER = Path(__file__).parent


def parser(build: object, text: str, start: str) -> Parser:
    """The parse of a text that has not begun; `start`: `schedule` or `costs`. Every rule that is
    read calls the method of `build` that has its name, with the list of the rule's children."""
    return Parser(_table(), build, text, start)


def grammar() -> str:
    """The text of `pipe.lark`."""
    return (FOLDER / "pipe.lark").read_text("utf-8")


def make_table() -> str:
    """The text of `table.json`, made by lark."""
    import lark
    from lark.grammar import Rule
    from lark.lexer import TerminalDef

    data, memo = lark.Lark(grammar(), **OPTIONS).memo_serialize([TerminalDef, Rule])
    kept = {"made_of": _digest(), **table.saved(data, memo)}
    return json.dumps(kept, separators=(",", ":")) + "\n"


def _digest() -> str:
    """Names the grammar."""
    return sha256(grammar().encode()).hexdigest()


@cache
def _table() -> table.GrammarTable:
    """The table that is kept; where there is none, or of another grammar, one made now."""
    try:
        kept = json.loads((FOLDER / "table.json").read_bytes())
    except FileNotFoundError:
        kept = {}
    if kept.get("made_of") != _digest():
        kept = json.loads(make_table())
    return table.read(kept)
