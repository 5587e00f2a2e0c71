"""The grammar of the schedule language, and its loader.

`pipe.lark` is the language. Building its LALR table takes longer than parsing a file, so the table
is kept beside it in `table.json`, which `python -m stretto.grammar` writes anew; a test holds the
two together. Where the table is missing, or another lark made it, it is built on the spot.
"""

from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.json import decode

if TYPE_CHECKING:
    from lark import Lark

FOLDER = Path(__file__).parent

OPTIONS: dict[str, Any] = {
    "parser": "lalr",
    "lexer": "contextual",
    "start": ["schedule", "costs"],
    "keep_all_tokens": True,
    "maybe_placeholders": False,
}


def parser(build: object) -> "Lark":
    """The parser of the language. Every rule that matches calls the method of `build` that has
    its name, with the list of the rule's children."""
    from lark import Lark

    from stretto.grammar.lexer import LazyLexer

    plugins = {"ContextualLexer": LazyLexer}
    table = _table()
    if table is None:
        return Lark(grammar(), transformer=build, _plugins=plugins, **OPTIONS)
    load: Callable[..., Lark] = Lark._load_from_dict
    return load(table["data"], table["memo"], transformer=build, _plugins=plugins)


def grammar() -> str:
    """The text of `pipe.lark`."""
    return (FOLDER / "pipe.lark").read_text("utf-8")


def make_table() -> str:
    """The text of `table.json`: what lark knows after reading the grammar."""
    import lark
    from lark.grammar import Rule
    from lark.lexer import TerminalDef

    data, memo = lark.Lark(grammar(), **OPTIONS).memo_serialize([TerminalDef, Rule])
    import json

    return json.dumps({"made": _made(), "data": data, "memo": memo}, separators=(",", ":"))


def _made() -> str:
    """Names the grammar and the lark that belong together."""
    import lark

    return f"{lark.__version__} {sha256(grammar().encode()).hexdigest()}"


@cache
def _table() -> dict[str, Any] | None:
    try:
        table: dict[str, Any] = decode((FOLDER / "table.json").read_bytes())
    except FileNotFoundError:
        return None
    if table["made"] != _made():
        return None
    # JSON made strings of the integers that were keys.
    states = table["data"]["parser"]["parser"]["states"]
    table["data"]["parser"]["parser"]["states"] = {int(k): v for k, v in states.items()}
    table["memo"] = {int(k): v for k, v in table["memo"].items()}
    return table
