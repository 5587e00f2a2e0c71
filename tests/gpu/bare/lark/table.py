"""The table of states, read."""

import re
from importlib.resources import files
from typing import Any, NamedTuple


class Shift:
    """The token is put on the stack."""


class Reduce:
    """What is on the stack becomes a rule."""


class Symbol(NamedTuple):
    """A word or a rule of the grammar."""

    name: str


class Rule(NamedTuple):
    """One way to write a rule; `made` is the method that makes its node."""

    origin: Symbol
    expansion: tuple[Symbol, ...]
    made: str
    expand1: bool


class Terminal(NamedTuple):
    """One kind of word."""

    name: str
    priority: int
    pattern: str
    text: str | None  # where it is one word
    width: int


class Table:
    """States with their actions by symbol, and the kinds of words."""

    def __init__(self, data: Any, memo: Any):
        names = data["parser"]["parser"]["tokens"]
        self.rules = {k: _rule(v) for k, v in memo.items() if v["__type__"] == "Rule"}
        self.states = {
            state: {
                names[symbol]: (Reduce, self.rules[to["@"]]) if kind else (Shift, to)
                for symbol, (kind, to) in row.items()
            }
            for state, row in data["parser"]["parser"]["states"].items()
        }
        self.start = data["parser"]["parser"]["start_states"]
        self.end = data["parser"]["parser"]["end_states"]
        self.ignore = frozenset(data["parser"]["lexer_conf"]["ignore"])
        found = [_terminal(v) for v in memo.values() if v["__type__"] == "TerminalDef"]
        found.sort(key=lambda t: (-t.priority, -t.width, -len(t.text or t.pattern), t.name))
        self.terminals = found


def version() -> str:
    """Of the lark that made the table."""
    with (files("stretto.grammar") / "table.json").open() as file:
        found = re.match(r'\{"made":"(\S+) ', file.read(80))
    assert found, "grammar/table.json does not begin with what made it"
    return found[1]


def _rule(saved: Any) -> Rule:
    expansion = tuple(Symbol(symbol["name"]) for symbol in saved["expansion"])
    name = saved["origin"]["name"]
    single = saved["options"]["expand1"] and not saved["alias"]
    return Rule(Symbol(name), expansion, saved["alias"] or name, bool(single))


def _terminal(saved: Any) -> Terminal:
    pattern = saved["pattern"]
    assert not pattern["flags"], "flags of patterns are not read"
    value = pattern["value"]
    if pattern["__type__"] == "PatternStr":
        return Terminal(saved["name"], saved["priority"], re.escape(value), value, len(value))
    return Terminal(saved["name"], saved["priority"], value, None, pattern["_width"][1])
