"""What is said of a `split` as somebody may write it: each row of the table has its line here."""

import re

import pytest

from stretto.compiler.diagnostics.diagnostic import Diagnostic, Rejected
from stretto.compiler.diagnostics.source import Source
from stretto.compiler.language.parse import parse
from stretto.compiler.language.split_hints import HINTS

OWN = "parts have names of their own, which no operation has: `split F into attention, mlp`"
COMMA = "a comma stands between parts: `a, b`"
ONE_NAME = (
    "one name stands for the stage, and `if` says where a part is: `split F[s] into a if s == 0, b`"
)
WORD = "`{}` is a word of the language: give the part another name"
ALL = "there are `split B into I, W`, `split F into PART, …` and `split microbatch into 4 slices`"
NAMED = "a part's name comes here: `split F into attention, mlp`"
SLICES = "say how many slices: `split microbatch into 4 slices`"
LINES = [
    ("split F into F, b", OWN),
    ("split F into a, F on comm", OWN),
    ("split F into\n  a,\n  W if s == 0", OWN),
    ("split F into 2 * (a, I on comm)", OWN),
    ("split F into W", OWN),
    ("split F into", NAMED),
    ("split F into a,", NAMED),
    ("split F into a b", COMMA),
    ("split F into a + b", COMMA),
    ("split F into a on comm if s == 0 b", COMMA),
    ("split F into a if s == 0 else b", "each part says when it is there: `a if s == 0, b if s "
     "!= 0`"),
    ("split F into a, on comm", "no comma stands before `on`: `a on comm`"),
    ("split F[s] into a,\n  if s == 0", "no comma stands before `if`: `a if s == 0`"),
    ("split F into a if s == 0 on comm", "`on` stands before `if`: `a on comm if s == 0`"),
    ("split F into a on x on y", "a part runs on one stream"),
    ("split F into a@comm", "a part's stream stands behind `on`: `a on comm`"),
    ("split F into layer, b", WORD.format("layer")),
    ("split F into 2 * (for, b)", WORD.format("for")),
    ("split F into stages, b", WORD.format("stages")),
    ('split F into "a"', "parts are names, without quotes: `split F into attention, mlp`"),
    ("split F into {a, b}", "parts stand side by side: `a, b`; a group: `2 * (a, b)`"),
    ("split F into [a, b]", "parts stand side by side: `a, b`; a group: `2 * (a, b)`"),
    ("split F into 4 * attention", "a group stands in parentheses: `2 * (attention, …)`"),
    ("split F into a, (b, c)", "a group says how often it is there: `2 * (a, b)`"),
    ("split F into 2 (a, b)", "a group says how often it is there: `2 * (…)`"),
    ("split F into attention * 2", "how often comes first: `2 * (attention)`"),
    ("split F into 2 * 3 * (a)", "one number says how often: `(2 * 3) * (…)`"),
    ("split F into 2 * ()", "a group has a part at least: `2 * (a)`"),
    ("split F into 4 slices", "slices are of micro-batches: `split microbatch into 4 slices`"),
    ("split F[0] into a", ONE_NAME),
    ("split F[s, m] into a", ONE_NAME),
    ("split F main[s] into a", "the stages of every pipeline are cut alike: `split F into …` "
     "names none"),
    ("split F.x into a", "each part is named behind `into`: `split F into PART, …`"),
    ("split F in a, b", "`split F into PART, …`, a name for each part"),
    ("split B into I and W", "a backward has two halves: `split B into I, W`"),
    ("split B in I, W", "`split B into I, W`"),
    ("split microbatch into 4 slice", "`split microbatch into 4 slices`"),
    ("split microbatch into 4", "`split microbatch into 4 slices`"),
    ("split microbatch in 4 slices", SLICES),
    ("split microbatch into slices", SLICES),
    ("split sequence into 4 slices", ALL),
    ("split", ALL),
]  # fmt: skip


def told(line: str) -> tuple[Diagnostic, ...]:
    with pytest.raises(Rejected) as caught:
        parse(Source("example.pipe", f"schedule example\n{line}\n"))
    return caught.value.diagnostics


@pytest.mark.parametrize(("line", "help_"), LINES, ids=[line for line, _ in LINES])
def test_what_to_type_instead(line: str, help_: str) -> None:
    assert told(line)[0].help == help_


def test_every_hint_has_its_line() -> None:
    said = {help_ for _, help_ in LINES}
    patterns = [re.escape(h.help.format("?", "?")).replace(r"\?", r"\w+") for h in HINTS]
    assert all(any(re.fullmatch(p, help_) for help_ in said) for p in patterns)


def test_operations_cannot_be_parts() -> None:
    (one,) = told("split F into F, W")
    assert (one.message, one.help) == (
        "`F` is an operation: parts have names of their own",
        "split F into attention, mlp",
    )


def test_a_unit_belongs_to_its_number() -> None:
    """`3/2 GiB` would be three by two GiB, next to nothing."""
    (one,) = told("activation = 3/2 GiB")
    assert (one.message, one.help) == (
        "a unit belongs to its number: this divides by 2 GiB",
        "3 GiB / 2",
    )
    parse(Source("x", "schedule x\nlet a = 3 GiB / 2 GiB let b = a / 2 GiB let c = 3 GiB / 2"))


def test_the_next_statement_is_no_part() -> None:
    """A word in the next line, where a statement may begin, is not taken for a part."""
    assert [(one.message, one.help) for one in told("split F into a\nlimt 3")] == [
        ("no statement begins with `limt`", "did you mean `limit`?")
    ]
