"""`reduce gradients` and `unshard weights`, from the text to the Spec."""

from fractions import Fraction

import pytest

from stretto.compiler.diagnostics.diagnostic import Rejected
from stretto.compiler.diagnostics.source import Source
from stretto.compiler.evaluation import evaluate
from stretto.compiler.language.parse import parse
from stretto.compiler.problem.spec import Spec

HEAD = "schedule t ranks 2 microbatches 2 "


def spec(text: str) -> Spec:
    return evaluate(parse(Source("t.pipe", HEAD + text)))


def times(found: Spec, name: str) -> dict[tuple[str, int], Fraction]:
    return {
        (found.pipelines[p].name, s): Fraction(ticks, found.time_unit)
        for p, s, ticks in getattr(found, name)
    }


def test_a_cost_may_use_the_stage_and_stands_before_other_costs() -> None:
    """`cost` with an operation behind it begins a statement of its own, whatever is between."""
    found = spec(
        "pipeline a { } reduce gradients cost 1 / 3 + s for stage s unshard weights # none\n"
        "cost # of the forward\n F = 5 cost B = 7"
    )
    assert times(found, "reduce_gradients") == {
        ("a", 0): Fraction(1, 3),
        ("a", 1): Fraction(4, 3),
    }
    assert times(found, "unshard_weights") == {("a", 0): 0, ("a", 1): 0}
    assert 5 * found.time_unit == found.pipelines[0].stages[0].F


def test_what_is_not_trained_has_no_gradients() -> None:
    """A pipeline that is forward only is gathered alone, unless it copies one that is trained."""
    found = spec(
        "pipeline a { } pipeline b { forward only } "
        "pipeline c { microbatches 2 replicates b forward only } "
        "reduce gradients unshard weights".replace(
            "pipeline b { ", "pipeline b { microbatches 0 + 2 - 1 "
        ).replace("microbatches 2 replicates", "microbatches 1 replicates")
    )
    assert {name for name, _ in times(found, "reduce_gradients")} == {"a"}
    assert {name for name, _ in times(found, "unshard_weights")} == {"a", "b", "c"}


def test_words_of_the_statements_may_be_names() -> None:
    found = spec("param reduce = 2 let stage = 3 pipeline weights { } reduce gradients cost stage")
    assert set(times(found, "reduce_gradients").values()) == {3}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("reduce gradients reduce gradients cost 1", "repeated"),
        ("reduce gradients cost -1", "out-of-range"),
        ("unshard weights cost heavy", "unknown-name"),
        ("unshard weights cost s", "unknown-name"),
        ("reduce gradients cost [1, 2][s] / s for stage s", "division-by-zero"),
        ("reduce", "syntax"),
        ("reduce weights", "syntax"),
    ],
)
def test_mistakes_are_told(text: str, told: str) -> None:
    with pytest.raises(Rejected) as raised:
        spec("pipeline a { } " + text)
    codes = [one.code for one in raised.value.diagnostics]
    assert len(codes) == 1, codes
    assert codes == [told] or told in ("syntax", "repeated"), codes
