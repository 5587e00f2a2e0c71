"""What the parser would take next, read off its own table of states, so that nothing of the grammar
is repeated. `states` is that table, a stack the parser's stack of states."""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from lark import Token
from lark.parsers.lalr_analysis import Shift


def word_set(text: str) -> frozenset[str]:
    """The words of a text, separated by blanks."""
    return frozenset(text.split())


LISTED = word_set("statement cost_statement property step")  # rules whose nodes stand in lists
STARTS = word_set(
    "schedule ranks microbatches param let require pipeline split overlap cost activation "
    "transfer limit minimize rule reduce unshard order stages place replicates model feeds forward "
    "F B I W next repeat for if queue"
)
# The text's words, roughly; a line that begins with `//` is meant as a comment.
SCAN = re.compile(
    r'^[^\S\n]*//[^\n]*|"[^"\n]*"|#[^\n]*|[A-Za-z_][A-Za-z0-9_]*|[0-9]+|\n|[^\S\n]+|.',
    re.DOTALL | re.MULTILINE,
)


@lru_cache(maxsize=1)
def balanced(text: str) -> bool:
    """Whether every `{` of the file has its `}`."""
    braces = [match[0] for match in SCAN.finditer(text) if match[0] in ("{", "}")]
    return braces.count("{") == braces.count("}")


def list_height(states: Any, parser: Any, word: str, closes: bool = False) -> int:
    """How much of the stack remains when `word` begins the next statement of the innermost list
    of statements that takes it (any does for `;`, which is skipped); 0 if none does. Only where it
    `closes` open blocks may that list lie outside of them."""
    kind = "RBRACE" if word == "}" else "KIND" if word in "FBIW" else word.upper()
    stack, values = parser.state_stack, parser.value_stack
    closed = 0  # blocks that have ended already
    for height in range(len(stack), 0, -1):
        above = values[height - 1] if height <= len(values) else None
        if isinstance(above, Token) and above.type in ("LBRACE", "RBRACE"):
            if above.type == "LBRACE" and not closed and not closes:
                return 0
            closed = max(0, closed + (1 if above.type == "RBRACE" else -1))
        if (
            not closed
            and between_statements(states, stack[height - 1])
            and (word == ";" or accepts(states, stack[:height], kind))
        ):
            return height
    return 0


def between_statements(states: Any, state: Any) -> bool:
    """Whether the parser stands between two statements in this state."""
    return not LISTED.isdisjoint(states[state])


def accepts(states: Any, stack: Iterable[Any], kind: str) -> bool:
    """Whether a terminal fits behind this stack, all reductions done."""
    stack = list(stack)
    while True:
        action = states[stack[-1]].get(kind)
        if action is None:
            return False
        if action[0] is Shift:
            return True
        rule = action[1]
        del stack[len(stack) - len(rule.expansion) :]
        stack.append(states[stack[-1]][rule.origin.name][1])
