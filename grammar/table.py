"""The table of the language: what lark made of `pipe.lark`, as plain values.

`table.json` has it: `states`, for each the number that every word and rule leads to (0 and more: go
to that state; below: reduce by rule -1 - number), the `rules`, the kinds of words (`terminals`) in
the order in which they are tried, what is passed over (`ignore`), and for each start its first and
its last state. `made_of` names the grammar.
"""

import re
from functools import cache
from typing import Any, NamedTuple


class GrammarRule(NamedTuple):
    """One way to write a rule: its name, how many children it has, the method that makes its node,
    and whether a single child stands for itself."""

    name: str
    length: int
    made: str
    single: bool

    @property
    def inlined(self) -> bool:
        """Whether its children stand in the place of a node of it."""
        return self.name.startswith("_")


class Terminal(NamedTuple):
    """A kind of word: a `pattern`; where it is a fixed text, that, and whether it is a `word`,
    behind which no further letter may stand. `exact`: other kinds that are one text which this
    pattern fits too; of these two the text decides."""

    name: str
    pattern: str
    text: str
    word: bool
    exact: dict[str, str]


class GrammarTable(NamedTuple):
    """What runs the parser; see above."""

    states: list[dict[str, int]]
    rules: list[GrammarRule]
    terminals: list[Terminal]
    ignore: frozenset[str]
    start: dict[str, tuple[int, int]]


def read(saved: dict[str, Any]) -> GrammarTable:
    """The table that `saved` says."""
    return GrammarTable(
        saved["states"],
        [GrammarRule(*one) for one in saved["rules"]],
        [Terminal(*one) for one in saved["terminals"]],
        frozenset(saved["ignore"]),
        {name: (first, last) for name, (first, last) in saved["start"].items()},
    )


def saved(data: dict[str, Any], memo: dict[int, Any]) -> dict[str, Any]:
    """The table of a grammar that lark has read, as JSON has it; from lark's own."""
    parser = data["parser"]["parser"]
    kept = {k: one for k, one in memo.items() if one["__type__"] == "Rule"}
    numbers = {k: number for number, k in enumerate(kept)}
    order = {state: number for number, state in enumerate(parser["states"])}
    states = []
    for row in parser["states"].values():
        actions = {
            parser["tokens"][symbol]: -1 - numbers[to["@"]] if reduces else order[to]
            for symbol, (reduces, to) in row.items()
        }
        states.append(actions)
    kinds = [one for one in memo.values() if one["__type__"] == "TerminalDef"]
    return {
        "states": states,
        "rules": [_rule(one) for one in kept.values()],
        "terminals": _terminals(kinds),
        "ignore": sorted(data["parser"]["lexer_conf"]["ignore"]),
        "start": {
            name: (order[state], order[parser["end_states"][name]])
            for name, state in parser["start_states"].items()
        },
    }


def _rule(rule: dict[str, Any]) -> GrammarRule:
    name, alias = rule["origin"]["name"], rule["alias"]
    single = bool(rule["options"]["expand1"] and not alias)
    return GrammarRule(name, len(rule["expansion"]), alias or name, single)


def _terminals(kinds: list[dict[str, Any]]) -> list[Terminal]:
    """The kinds of words, those first that lark tries first."""
    found = []
    for one in kinds:
        pattern, value = one["pattern"], one["pattern"]["value"]
        assert not pattern["flags"], f"{one['name']}: flags of patterns are not read"
        fixed = pattern["__type__"] == "PatternStr"
        width = len(value) if fixed else pattern["_width"][1]
        word = None if fixed else re.fullmatch(r"([A-Za-z_]+)\\b", value)
        text = value if fixed else word[1] if word else ""
        source = re.escape(value) if fixed else value
        terminal = Terminal(one["name"], source, text, word is not None, {})
        found.append(((-one["priority"], -width, -len(value), one["name"]), fixed, terminal))
    found.sort(key=lambda row: row[0])
    for place, fixed, terminal in found:
        for other_place, other_fixed, other in found:
            same = not fixed and other_fixed and other_place[0] == place[0]
            if same and re.fullmatch(terminal.pattern, other.text):
                terminal.exact[other.text] = other.name
    return [terminal for *_, terminal in found]


@cache
def pattern(source: str) -> "re.Pattern[str]":
    """The pattern, compiled when the first text needs it."""
    return re.compile(source)
