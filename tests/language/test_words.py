"""The words of a text: those that lark's own lexer finds, in every state of the parser."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lark import Lark
from lark.exceptions import UnexpectedCharacters, UnexpectedToken

from stretto import grammar
from stretto.compiler.language.build import builders
from stretto.compiler.language.refusals import Refusal
from tests.support import printed
from tests.support.paths import ROOT

TEXTS = sorted([*(ROOT / "schedules").glob("*.pipe"), *(ROOT / "tests/cases").rglob("*.pipe")])
LARKS = Lark(grammar.grammar(), transformer=builders("example.pipe"), **grammar.OPTIONS)
OURS = grammar.parser(builders("example.pipe"))


def words(parser: Lark, text: str) -> list[Any]:
    """Every word as it is fed to the parser, and what may stand where the first one does not
    fit."""
    reading: Any = parser.parse_interactive(text, start="schedule")
    found: list[Any] = []
    try:
        for token in reading.lexer_thread.lex(reading.parser_state):
            place = token.start_pos, token.line, token.column, token.end_line, token.end_column
            found.append((token.type, token.value, *place, token.end_pos))
            reading.parser_state.feed_token(token)
    except UnexpectedCharacters as error:
        found.append((error.pos_in_stream, sorted(error.allowed)))
    except UnexpectedToken as error:
        found.append((error.token.type, error.token.start_pos, sorted(error.accepts or ())))
        found.append(sorted(error.expected))
    except Refusal:
        found.append("refused")
    return found


def same(text: str) -> None:
    assert words(OURS, text) == words(LARKS, text)


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.stem)
def test_words_are_those_of_lark(path: Path) -> None:
    same(path.read_text("utf-8-sig"))


@given(
    printed.SCHEDULES,
    st.integers(0, 10_000),
    st.text(alphabet='FBIWabcost_ {}[]"#.%|\n0=<', max_size=4),
)
@settings(max_examples=100, deadline=None)
def test_also_where_something_was_put_in_between(schedule: Any, place: int, between: str) -> None:
    text = printed.schedule(schedule)
    at = place % (len(text) + 1)
    same(text[:at] + between + text[at:])
