"""What to say about a word or character that does not fit the grammar."""

import re
from typing import Any

from lark import Token
from lark.exceptions import UnexpectedCharacters, UnexpectedToken

from stretto.compiler.diagnostics.diagnostic import Diagnostic, Label
from stretto.compiler.diagnostics.source import Source, Span
from stretto.compiler.diagnostics.suggest import nearest
from stretto.compiler.diagnostics.wording import joined
from stretto.compiler.language.lookahead import (
    STARTS,
    accepts,
    balanced,
    between_statements,
    list_height,
    word_set,
)

RESERVED = word_set(
    "F B I W let repeat as for in if then else queue next and or not stages slice layer "
    "min max abs ceil floor len"
)
PUNCTUATION = {
    "LBRACE": "{", "RBRACE": "}", "LSQB": "[", "RSQB": "]", "LPAR": "(", "RPAR": ")",
    "EQUAL": "=", "COMMA": ",", "VBAR": "|", "DOT": ".", "QMARK": "?", "SEMICOLON": ";",
    "TIMES": "*", "__ANON_0": "->", "__ANON_1": "<=", "__ANON_2": "..",
}  # fmt: skip
OPERATORS = word_set(
    "PLUS MINUS TIMES DIVIDE FLOOR_DIVIDE MODULO COMPARE AND OR LSQB DOT QMARK UNIT"
)
VALUES = word_set("NUMBER NAME KIND FUNCTION STAGES LSQB LPAR MINUS NOT IF")
KINDS = {
    "NAME": "a name",
    "KIND": "an operation (`F`, `B`, `I` or `W`)",
    "STRING": 'a text between `"`',
}
COSTS = word_set("cost activation transfer")
STEPS = word_set("F B I W next repeat for if queue")
PROPERTIES = word_set("stages place replicates model feeds forward")
FOREIGN = {
    "&": "write `and`", "!": "write `not`, or `!=`", "^": "there is no power: write `*`",
    "'": 'a text stands between `"`',
    ":": "blocks stand in `{ }`; ranges are `a .. b`",
}  # fmt: skip


def span(file: str, token: Token) -> Span:
    """The place of a token."""
    assert token.line and token.column and token.end_line and token.end_column
    return Span(file, token.line, token.column, token.end_line, token.end_column)


def culprit(error: UnexpectedToken | UnexpectedCharacters) -> Token:
    """The word or character that does not fit."""
    if isinstance(error, UnexpectedToken):
        token: Token = error.token
        return token
    return Token(
        "CHARACTER", error.char, error.pos_in_stream, error.line, error.column,
        error.line, error.column + 1, (error.pos_in_stream or 0) + 1,
    )  # fmt: skip


def explain(source: Source, state: Any, token: Token, before: Token | None) -> Diagnostic:
    """What to say about a token that does not fit in this state of the parser, behind the token
    `before`."""
    from stretto.compiler.language.hints import hint
    from stretto.compiler.language.split_hints import split_hint

    states, stack = state.parse_conf.states, state.state_stack
    fits = {t for t in states[stack[-1]] if t.isupper() and accepts(states, stack, t)}
    here = Label(span(source.name, token))
    opened = _open_block(source.name, state)
    next_line = before is not None and (before.end_line or 0) < here.span.line
    ends = accepts(states, stack, "SEMICOLON")
    starts = between_statements(states, stack[-1]) or (ends and (next_line or token == "}"))
    keywords = _starts(states, state) if starts or ends else set()
    place = {"start"} if starts else {"end"} if ends else set()
    place |= {"step"} if "F" in keywords else set()
    at = len(source.text.rstrip()) if token.type == "$END" else token.start_pos or 0
    help_ = None if ends and next_line else split_hint(place, state, source.text, at)
    if token.type == "$END":
        return _end(here, opened, fits, help_)
    help_ = help_ or hint(place, *_line_around(source.text, at))
    if token.type == "CHARACTER":
        return _character(token, here, fits, help_)
    if starts:
        return _no_start(source, token, keywords, here, opened, help_)
    unfitting = _unfitting(token, here, fits)
    if unfitting is not None and help_ is None:
        return unfitting
    if next_line and before is not None:
        here = _behind(source.name, before)
    return _syntax(f"{_expected(fits)}, found `{token}`", here, help_=help_)


def _starts(states: Any, state: Any) -> set[str]:
    """The words that begin a statement of the innermost list."""
    stack = state.state_stack[: list_height(states, state, ";")]
    kinds = {word: "KIND" if word in "FBIW" else word.upper() for word in STARTS}
    return {word for word, kind in kinds.items() if accepts(states, stack, kind)}


def _line_around(text: str, at: int) -> tuple[str, str]:
    """The line of a position, before and behind it."""
    end = text.find("\n", at)
    return text[text.rfind("\n", 0, at) + 1 : at], text[at : end if end >= 0 else len(text)]


def _end(here: Label, opened: Label | None, fits: set[str], help_: str | None) -> Diagnostic:
    if opened is None:
        message = f"the file ends in the middle of a statement: {_expected(fits)}"
        return _syntax(message, here, help_=help_)
    return _syntax("the file ends inside a block: `}` is missing", here, opened)


def _unfitting(token: Token, here: Label, fits: set[str]) -> Diagnostic | None:
    """A more helpful message than what was expected instead, where there is one: for a word that
    does not fit inside a statement."""
    if token.type == "COMPARE" and "COMPARE" not in fits and "AND" in fits:
        help_ = "join two comparisons: `a < b and b < c`"
        return _syntax("comparisons do not chain", here, help_=help_)
    if token.type == "EQUAL" and "COMPARE" in fits:
        return _syntax("`=` gives a name its value", here, help_="compare with `==`")
    if token in RESERVED and fits <= {"NAME", *OPERATORS}:
        message = f"`{token}` is a word of the language and cannot be a name"
        return _syntax(message, here, help_="choose another name")
    near = nearest(str(token), [w for w in map(_text, fits) if w.isalpha()])
    if near is not None:
        message = f"{_expected(fits)}, found `{token}`"
        return _syntax(message, here, help_=f"did you mean `{near}`?")
    return None


def _syntax(message: str, *labels: Label | None, help_: str | None = None) -> Diagnostic:
    return Diagnostic("syntax", message, tuple(x for x in labels if x is not None), help=help_)


def _character(token: Token, here: Label, fits: set[str], help_: str | None) -> Diagnostic:
    if token == '"':
        return _syntax("this text does not end", here, help_='put `"` behind it, on its line')
    message = f"`{token}` is not part of the language"
    if not token.isascii():
        names = "names are made of the letters a to z, digits and `_`"
        return _syntax(message, here, help_=help_ or names)
    if str(token) in FOREIGN:
        return _syntax(message, here, help_=help_ or FOREIGN[str(token)])
    return _syntax(f"{_expected(fits)}, found `{token}`", here, help_=help_)


def _no_start(
    source: Source,
    token: Token,
    keywords: set[str],
    here: Label,
    opened: Label | None,
    help_: str | None,
) -> Diagnostic:
    """A word where a statement should begin."""
    if token == "}":
        return _syntax("this `}` closes nothing", here)
    if token in STARTS and opened is not None:
        message = f"`{token}` cannot stand in this block"
        where = _where_it_belongs(token) if balanced(source.text) else "is a `}` missing above?"
        return _syntax(message, here, opened, help_=where)
    if token in STARTS and keywords == COSTS:
        message = f"`{token}` cannot stand in a file of costs"
        only = "it holds only `cost`, `activation` and `transfer` statements"
        return Diagnostic("unknown-statement", message, (here,), help=only)
    if token in STARTS - {"rank", "microbatch"} and help_ is None:
        help_ = _where_it_belongs(token)
    if help_ is None:
        # `micro-batches` is three tokens and one mistake.
        whole = re.match(r"\w*(-[A-Za-z]\w*)*", source.text[token.start_pos or 0 :])
        near = _nearest_keyword(whole[0] if whole else "", keywords)
        help_ = f"did you mean `{near}`?" if near else f"one of {_begins(keywords)}"
    message = f"no statement begins with `{token}`"
    if not token.isidentifier():
        return _syntax(message, here, help_=help_)
    return Diagnostic("unknown-statement", message, (here,), help=help_)


def _where_it_belongs(token: str) -> str:
    """Where a statement that begins with this word belongs."""
    if token in PROPERTIES | STEPS:
        block = "pipeline" if token in PROPERTIES else "order rank"
        return f"`{token}` stands inside the block of `{block}`"
    if token == "let":
        return "`let` stands outside of the block of `pipeline`"
    return f"`{token}` stands outside of all blocks"


def _nearest_keyword(word: str, keywords: set[str]) -> str | None:
    plain = word.replace("-", "")
    return plain if plain in keywords else nearest(plain, sorted(keywords))


def _begins(keywords: set[str]) -> str:
    kinds = [kind for kind in "FBIW" if kind in keywords]
    return joined([f"`{word}`" for word in kinds + sorted(keywords - set(kinds))], "or")


def _expected(fits: set[str]) -> str:
    """What would have fitted, as a list in English."""
    rest = set(fits)
    names = []
    if "NUMBER" in rest:
        names.append("a value" if "MINUS" in rest else "a part, or a group such as `2 * (a, b)`")
        rest -= VALUES
    if sum(_text(t) in STARTS for t in rest) > 3:
        names.append("the next statement")
        rest = {t for t in rest if _text(t) not in STARTS} - {"SEMICOLON", "KIND"}
    for kind, name in KINDS.items():
        if kind in rest:
            names.append(name)
    rest -= {*KINDS, "$END"}
    if names or rest - OPERATORS:
        rest -= OPERATORS
    names += [f"`{_text(t)}`" for t in sorted(rest)]
    return "expected " + joined(names, "or")


def _text(kind: str) -> str:
    """A terminal as it is written."""
    return PUNCTUATION.get(kind, kind.lower())


def _open_block(file: str, state: Any) -> Label | None:
    closed = 0
    for value in reversed(state.value_stack):
        if isinstance(value, Token) and value.type in ("LBRACE", "RBRACE"):
            closed += 1 if value.type == "RBRACE" else -1
            if closed < 0:
                return Label(span(file, value), "the block begins here")
    return None


def _behind(file: str, before: Token) -> Label:
    """The place right behind the last word that was read."""
    *_, line, column = span(file, before)
    return Label(Span(file, line, column, line, column + 1))
