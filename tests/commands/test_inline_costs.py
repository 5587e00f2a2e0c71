"""`--cost F=10`, and `costs={"F": 10}` in Python, say what a file of costs says."""

import json
from fractions import Fraction
from pathlib import Path

import pytest

from stretto.compiler import compile_file
from stretto.compiler.diagnostics.diagnostic import Rejected
from stretto.compiler.language.inline_costs import GivenCosts, as_statement
from tests.support.command_line import Run

SIZE = ("--set", "ranks=4", "--set", "microbatches=8")
INLINE = ("F=10", "I[0] = 12.5", "I[s]=9/2 for s in 1 .. 4", "W=7", "transfer=1/10")
INLINE_TEXT = """\
cost F = 10
cost I[0] = 12.5
cost I[s] = 9/2 for s in 1 .. 4
cost W = 7
transfer 1/10
"""


def told(stretto: Run, *words: str) -> dict[str, object]:
    """The summary without what names the texts: hash and places."""
    code, out, err = stretto("compile", "zb_h1", *SIZE, *words, "--json")
    assert code == 0, err
    found: dict[str, object] = json.loads(out)
    return {key: value for key, value in found.items() if key not in ("hash", "warnings")}


def test_statements_of_the_command_line_are_those_of_a_file(stretto: Run, folder: Path) -> None:
    (folder / "all.pipe").write_text(INLINE_TEXT)
    flags = [word for statement in INLINE for word in ("--cost", statement)]
    assert told(stretto, *flags) == told(stretto, "--costs", "all.pipe")
    assert told(stretto, *flags) != told(stretto)


def test_they_count_behind_those_of_the_file(stretto: Run, folder: Path) -> None:
    """No line break at its end: the statement stands on a line of its own all the same."""
    (folder / "some.pipe").write_text("cost F = 10\ncost I = 10\ncost W = 99")
    (folder / "all.pipe").write_text("cost F = 10\ncost I = 10\ncost W = 10")
    mixed = told(stretto, "--costs", "some.pipe", "--cost", "W=10")
    assert mixed == told(stretto, "--costs", "all.pipe")


def test_sizes_too(stretto: Run) -> None:
    found = told(stretto, "--cost", "activation=1.5GiB")
    assert found["sizes_in"] == "GiB"
    assert found["peak_activations"] == [4 * 3 << 29] * 4


def test_a_mistake_is_located(stretto: Run, folder: Path) -> None:
    flags = ("--cost", "F=10", "--cost", "W = fast")
    code, _, err = stretto("compile", "zb_h1", *flags)
    assert code == 1 and "--cost:2:10" in err and "cost W = fast" in err
    (folder / "some.pipe").write_text("cost F = 10\n")
    code, _, err = stretto("check", "zb_h1", "--costs", "some.pipe", "--cost", "W = fast")
    assert code == 1 and "some.pipe and --cost:2:10" in err


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("measured.pipe", "a file of costs is `--costs measured.pipe`"),
        ("F", "is not OP=VALUE, such as `F=10`"),
        ("F=", "is not OP=VALUE"),
    ],
)
def test_what_is_no_statement_is_refused(stretto: Run, word: str, said: str) -> None:
    code, _, err = stretto("check", "zb_h1", "--cost", word)
    assert code == 2 and said in err


def test_a_plan_has_its_costs_and_is_verified_with_them(stretto: Run) -> None:
    flags = ("--cost", "F=10", "--cost", "I=9", "--cost", "W=8")
    assert stretto("compile", "zb_h1", *SIZE, *flags, "-o", "a.plan")[0] == 0
    code, out, _ = stretto("check", "a.plan")
    assert code == 0 and "assumed" not in out
    code, _, err = stretto("check", "a.plan", "--cost", "F=11")
    assert code == 2 and "--cost changes nothing" in err


def test_python_takes_them_as_a_mapping(stretto: Run) -> None:
    costs: GivenCosts = {"F": 10, "I[0]": 12.5, "I[s]": "9/2 for s in 1 .. 4", "W": 7}
    given: GivenCosts = {**costs, "transfer": Fraction(1, 10)}
    summary = compile_file("zb_h1", ranks=4, microbatches=8, costs=given).summary()
    flags = [word for statement in INLINE for word in ("--cost", statement)]
    assert {key: value for key, value in summary.items() if key != "hash"} == told(stretto, *flags)
    with pytest.raises(Rejected) as caught:
        compile_file("zb_h1", costs={"F": 10, "Q": 2})
    assert caught.value.diagnostics[0].labels[0].span[:2] == ("costs", 2)
    assert compile_file("zb_h1", costs={}).hash == compile_file("zb_h1").hash


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ("F=10", "cost F=10"),
        ("cost F = 10", "cost F = 10"),
        ("activation after I=1", "activation after I=1"),
        ("transfer = 1", "transfer 1"),
        ("transfer 1 for rank a -> b", "transfer 1 for rank a -> b"),
    ],
)
def test_what_a_statement_is_short_for(short: str, long: str) -> None:
    assert as_statement(short) == long
