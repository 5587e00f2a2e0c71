"""The operators of expressions, on values. Those of `ARITHMETIC` get the spans of both operands and
raise `EvalError` where an operand is no number or the result too large."""

import operator
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from stretto.compiler.diagnostics.source import Span
from stretto.compiler.evaluation.expressions.values import bounded, describe
from stretto.compiler.evaluation.reports import eval_error


def _add(x: Any, y: Any, a: Span, b: Span) -> Any:
    return bounded(_operand(x, a, "+") + _operand(y, b, "+"), b)


def _subtract(x: Any, y: Any, a: Span, b: Span) -> Any:
    return bounded(_operand(x, a, "-") - _operand(y, b, "-"), b)


def _multiply(x: Any, y: Any, a: Span, b: Span) -> Any:
    return bounded(_operand(x, a, "*") * _operand(y, b, "*"), b)


def _divide(x: Any, y: Any, a: Span, b: Span) -> Any:
    x, y = _operand(x, a, "/"), _divisor(y, b, "/")
    return bounded(Fraction(x, y) if type(x) is int and type(y) is int else Fraction(x) / y, b)


def _floor_divide(x: Any, y: Any, a: Span, b: Span) -> Any:
    return bounded(_operand(x, a, "//") // _divisor(y, b, "//"), b)


def _modulo(x: Any, y: Any, a: Span, b: Span) -> Any:
    return bounded(_operand(x, a, "%") % _divisor(y, b, "%"), b)


def _operand(value: Any, span: Span, sign: str) -> Any:
    if type(value) is int or type(value) is Fraction:
        return value
    raise eval_error("wrong-kind", f"`{sign}` needs numbers, and this is {describe(value)}", span)


def _divisor(value: Any, span: Span, sign: str) -> Any:
    if _operand(value, span, sign) == 0:
        raise eval_error("division-by-zero", "this divides by zero", span)
    return value


ARITHMETIC: dict[str, Callable[[Any, Any, Span, Span], Any]] = {
    "+": _add,
    "-": _subtract,
    "*": _multiply,
    "/": _divide,
    "//": _floor_divide,
    "%": _modulo,
}

COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
