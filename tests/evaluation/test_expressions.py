"""Expressions: their values against Python's own, and those that have none."""

from fractions import Fraction
from math import ceil, floor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stretto.compiler.language import syntax as s
from tests.support import printed
from tests.support.evaluated import MAIN, refused, value


class Unlike(Exception):
    """Python would go on where the language stops."""


def python(e: s.Expression) -> Any:
    """The expression's value by Python's operators on fractions."""
    match e:
        case s.Number(number):
            return Fraction(number)
        case s.Chain(first, rest):
            text, values = "v[0]", [numeric(first)]
            for sign, of in rest:
                text += f" {sign} v[{len(values)}]"
                values.append(numeric(of))
            return Fraction(eval(text, {"v": values}))  # Python's own tightness and grouping
        case s.Negative(of):
            return -numeric(of)
        case s.Comparison(left, sign, right):
            return eval(f"a {sign} b", {"a": numeric(left), "b": numeric(right)})
        case s.Not(of):
            return not truth(of)
        case s.Both(operands):
            return all(truth(o) for o in operands)
        case s.Either(operands):
            return any(truth(o) for o in operands)
        case s.Conditional(cases, otherwise):
            for condition, then in cases:
                if truth(condition):
                    return python(then)
            return python(otherwise)
        case s.Call(function, arguments):
            apply = {"min": min, "max": max, "abs": abs, "ceil": ceil, "floor": floor}
            if function.text == "len" or (function.text in ("min", "max") and not arguments):
                raise Unlike
            if function.text in ("min", "max"):
                return Fraction(apply[function.text]([numeric(a) for a in arguments]))  # type: ignore[operator]
            if len(arguments) != 1:
                raise Unlike
            return Fraction(apply[function.text](numeric(arguments[0])))  # type: ignore[operator]
    raise Unlike


def numeric(e: s.Expression) -> Fraction:
    found = python(e)
    if not isinstance(found, Fraction):
        raise Unlike
    return found


def truth(e: s.Expression) -> bool:
    found = python(e)
    if not isinstance(found, bool):
        raise Unlike
    return found


NUMBERS = st.integers(0, 99).map(lambda n: s.Number(printed.whole(Fraction(n, 4)), printed.NOWHERE))


@given(st.recursive(NUMBERS, printed.larger, max_leaves=12))
@settings(max_examples=600, deadline=None)
def test_expressions_are_worth_what_python_says(e: s.Expression) -> None:
    text = printed.expression(e)
    try:
        expected = python(e)
        if not isinstance(expected, Fraction):
            raise Unlike
    except (Unlike, ZeroDivisionError):
        # A wrong part may stand in a branch that is not needed; then it has a value nevertheless.
        return
    assert value(text) == expected, text


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("1 / 3 * 3", 1),
        ("7 // 2 * 2", 6),
        ("-7 // 2", -4),
        ("-7 % 3", 2),
        ("7/2 % 1", Fraction(1, 2)),
        ("2 - 3 - 4", -5),
        ("- 2 * 3 + 1", -5),
        ("min([3, 1, 2])", 1),
        ("max(1, 5/2, 2)", Fraction(5, 2)),
        ("[1, [2, 3]][1][0]", 2),
        ("len([1, 2, 3])", 3),
        ("if 1 == 1 then 2 else 1 / 0", 2),
        ("if not 1 == 2 and 1 < 2 or 1 / 0 == 1 then 3 else 4", 3),
        ("main.stages * main.microbatches", 32),
        ("if main == main then 1 else 0", 1),
        ("2 GiB // 1 MiB", 2048),
        ("ranks + microbatches", 12),
    ],
)
def test_expressions(expression: str, expected: Fraction) -> None:
    assert value(expression) == expected


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("1 + (1 == 1)", "`+` needs numbers, and this is the truth value true"),
        ("main + 1", "`+` needs numbers, and this is the pipeline `main`"),
        ("[1, 2][2]", "there is no item 2: this list has 2 items, from 0"),
        ("[1, 2][-1]", "there is no item -1: this list has 2 items, from 0"),
        ("[1, 2][1/2]", "an index must be a whole number, and this is 1/2"),
        ("1[0]", "`[ ]` needs a list, not the number 1"),
        ("if 1 then 2 else 3", "a condition must be true or false, and this is the number 1"),
        ("1 / (2 - 2)", "this divides by zero"),
        ("max([])", "`max` of an empty list has no value"),
        ("max()", "`max` needs values or a list"),
        ("abs(1, 2)", "`abs` needs one value"),
        ("if main < main then 1 else 2",
         "`<` cannot compare the pipeline `main` with the pipeline `main`"),
        ("main.ranks", "a pipeline has no `ranks`"),
        ("ranks.stages", "`.stages` needs a pipeline, not the number 4"),
        ("F", "`F` is an operation, and not a value"),
        ("stages", "`stages` alone is known only in `place` and inside the `[ ]` of costs"),
        ("true", "`true` is not defined"),
        ("1 == 1", "a parameter is a number, and `x` would be the truth value true"),
    ],
)  # fmt: skip
def test_expressions_that_have_no_value(expression: str, message: str) -> None:
    assert refused(MAIN + f"param x = {expression}\n") == [message]
