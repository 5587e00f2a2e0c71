"""From text to a `Schedule`: every statement of the file with its place, or every mistake in its
grammar at once, in the order of the text.

Whatever the text is, the answer comes within seconds: its size, its number of tokens and the depth
of its nesting are bounded, and nothing here recurses over it. After a mistake, reading goes on at
the next statement (`recover`).
"""

import re
from functools import lru_cache
from itertools import islice
from typing import Any

from lark import Lark, Token
from lark.exceptions import UnexpectedCharacters, UnexpectedToken

from stretto.compiler.diagnostics.diagnostic import Diagnostic, Label, Rejected
from stretto.compiler.diagnostics.source import Source, Span
from stretto.compiler.language.build import builders
from stretto.compiler.language.refusals import Refusal
from stretto.compiler.language.syntax import CostFile, Schedule
from stretto.grammar import parser

MOST_CHARACTERS = 2**20
MOST_TOKENS = 100_000
MOST_MISTAKES = 50
DEEPEST = 200  # tokens on the parser's stack: about 40 nested blocks or 190 parentheses

# Control characters, direction marks and halves of surrogate pairs: invisible, and never intended.
HIDDEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"
    "\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff]"
)
TOKENS = re.compile(r'"[^"\n]*"|#[^\n]*|\w+|[^\s\w]')


def parse(source: Source) -> Schedule:
    """The syntax of a schedule file."""
    return Schedule(source, _read(source, "schedule"))


def parse_costs(source: Source) -> CostFile:
    """The syntax of a file of costs: `cost`, `activation` and `transfer` statements only."""
    return CostFile(source, _read(source, "costs"))


def _read(source: Source, start: str) -> Any:
    text = _checked(source)
    session = _parser(source.name).parse_interactive(text, start=start)
    state: Any = session.parser_state
    lexer: Any = session.lexer_thread
    found: list[Diagnostic] = []
    resumed = -1  # the position where reading last went on
    before: Token | None = None  # the last token that fitted
    while True:
        token = Token("$END", "", len(text))
        try:
            for token in lexer.lex(state):
                if len(state.state_stack) > DEEPEST:
                    raise Refusal((_too_deep(source.name, token),))
                state.feed_token(token)
                before = token
            token = _end(text)
            result = state.feed_token(token, True)
            if not found:
                return result
            break
        except Refusal as refusal:
            at, mistakes = token.start_pos or 0, list(refusal.diagnostics)
        except (UnexpectedToken, UnexpectedCharacters) as error:
            from stretto.compiler.language.explain import culprit, explain  # most files are right

            token = culprit(error)
            at = token.start_pos or 0
            mistakes = [explain(source, state, token, before)]
        from stretto.compiler.language.recover import go_on

        found.extend(mistakes)
        resumed = go_on(text, state, lexer.state, max(at, resumed + 1))
        if resumed < 0 or len(found) >= MOST_MISTAKES:
            break
    raise Rejected(sorted(found, key=lambda d: d.labels[0].span[1:]))


@lru_cache(maxsize=16)
def _parser(file: str) -> Lark:
    return parser(builders(file))


def _checked(source: Source) -> str:
    """The text, with a blank for a byte order mark. Raises `Rejected` where it is too large or has
    hidden characters."""
    name, text = source
    if len(text) > MOST_CHARACTERS:
        _refuse(name, f"the file has {len(text):,} characters; {MOST_CHARACTERS:,} are the most")
    if text.startswith("\ufeff"):
        text = " " + text[1:]
    found = islice(HIDDEN.finditer(text), MOST_MISTAKES)
    hidden = [_hidden(name, text, match) for match in found]
    if hidden:
        raise Rejected(hidden)
    tokens = sum(1 for _ in TOKENS.finditer(text))
    if tokens > MOST_TOKENS:
        _refuse(name, f"the file has {tokens:,} words; {MOST_TOKENS:,} are the most")
    return text


def _refuse(name: str, message: str) -> None:
    help_ = "say it with `repeat`, `for` and `queue`"
    raise Rejected([Diagnostic("too-large", message, (Label(Span(name, 1, 1, 1, 1)),), help=help_)])


def _hidden(name: str, text: str, match: "re.Match[str]") -> Diagnostic:
    at = match.start()
    line, column = text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)
    message = f"the hidden character U+{ord(match[0]):04X} may not stand in a schedule file"
    label = Label(Span(name, line, column, line, column + 1))
    return Diagnostic("hidden-character", message, (label,), help="delete it")


def _too_deep(name: str, token: Token) -> Diagnostic:
    from stretto.compiler.language.explain import span

    return Diagnostic(
        "too-large",
        "this is nested too deeply",
        (Label(span(name, token)),),
        help="name the inner parts with `let`",
    )


def _end(text: str) -> Token:
    """The end of the file, at the end of its last line that says something."""
    rest = text.rstrip()
    line, column = rest.count("\n") + 1, len(rest) - rest.rfind("\n")
    return Token("$END", "", len(rest), line, column, line, column, len(rest))
