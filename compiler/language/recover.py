"""Where to go on reading after a mistake in the grammar: at the next statement."""

import re
from typing import Any

from stretto.compiler.diagnostics.suggest import nearest
from stretto.compiler.language.lookahead import (
    SCAN,
    STARTS,
    accepts,
    balanced,
    between_statements,
    list_height,
)

ELSE = re.compile(r"\s*else\b")


def go_on(text: str, state: Any, lexer: Any, at: int) -> int:
    """Skips to the next statement at or behind position `at`: shortens the parser's stack to the
    list of statements that it belongs to and puts the lexer there. Returns the position, or -1 if
    there is none."""
    states, stack = state.parse_conf.states, state.state_stack
    closes = not balanced(text)  # whether a statement may end blocks that are still open
    if text.startswith("//", at):  # meant as a comment: what it says is no part of the schedule
        ended = between_statements(states, stack[-1]) or accepts(states, stack, "SEMICOLON")
        at = max(text.find("\n", at), at)
        if ended:
            return _resume(text, state, lexer, list_height(states, state, ";"), at)
    before = text[text.rfind("\n", 0, at) + 1 : at].lstrip()
    if before.startswith("//") or (closes and "//" in before):  # taken for a division so far
        at = max(text.find("\n", at), at)
    depth = 0
    first = not text[text.rfind("\n", 0, at) + 1 : at].strip()
    for match in SCAN.finditer(text, at):
        word = match[0]
        if word == "\n":
            first = True
            continue
        if word[0] == "#" or word.isspace() or word.lstrip().startswith("//"):
            continue
        start = _start(text, match, first, at) if depth == 0 else None
        if word == "}" and depth == 1 and not ELSE.match(text, match.end()):
            start = ";"  # the block was the mistaken statement's
        if start is not None:
            height = list_height(states, state, start, closes)
            if height:
                go_on_at = match.end() if start == ";" else match.start()
                return _resume(text, state, lexer, height, go_on_at)
        depth = max(0, depth + (word == "{") - (word == "}"))
        first = word == "}" and depth == 0
    return -1


def _resume(text: str, state: Any, lexer: Any, height: int, at: int) -> int:
    """Forgets what stands above this height of the stack, and reads on at the position."""
    del state.state_stack[height:]
    del state.value_stack[height - 1 :]
    counter = lexer.line_ctr
    counter.char_pos = at
    counter.line = text.count("\n", 0, at) + 1
    counter.line_start_pos = text.rfind("\n", 0, at) + 1
    counter.column = at - counter.line_start_pos + 1
    lexer.last_token = None
    return at


def _start(text: str, match: "re.Match[str]", first: bool, at: int) -> str | None:
    """The word that begins a statement here, though it may be misspelled, if it is not the very
    mistake at `at`; `;` and `}` end one."""
    word = match[0]
    if word in ";}":
        return word
    if not first or not word.isidentifier():
        return None
    if word not in STARTS:
        # One letter is rather a name, as where a `for` goes on in the next line.
        return nearest(word, STARTS) if match.start() > at and len(word) > 1 else None
    return word if _is_start(text, match) else None


def _is_start(text: str, match: "re.Match[str]") -> bool:
    """Whether a `for` or `if` at the start of a line begins a statement: one that goes on an
    expression has no block."""
    if match[0] not in ("for", "if"):
        return True
    for later in SCAN.finditer(text, match.end()):
        if later[0] == "{":
            return True
        if later[0] in ";}" or (later[0] in STARTS - {"if", "F", "B", "I", "W", "stages"}):
            return False
    return False
