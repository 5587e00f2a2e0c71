"""The values of expressions: exact numbers, truth values, lists, pipelines. Python's `bool`
is an `int`; here truth values are not numbers, so types are compared exactly."""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

from msgspec import Struct

from stretto.compiler.diagnostics.source import Span
from stretto.compiler.evaluation.reports import AlreadyReported, eval_error

Env = list[Any]
"""The environment: the values of the names in scope, by the index of their slot."""
Code = Callable[[Env], Any]
"""A compiled expression: from the environment to its value. Raises `EvalError`."""

LARGEST = 2**1024


class PipelineValue(Struct, frozen=True, eq=False):
    """A pipeline as expressions see it; `stages` and `microbatches` are None where they could not
    be computed. Compared by identity."""

    index: int
    name: str
    stages: int | None
    microbatches: int | None


def exact(value: Fraction) -> int | Fraction:
    """A whole fraction as an int."""
    return value.numerator if value.denominator == 1 else value


def bounded(value: Any, span: Span) -> Any:
    """The number, unless it has more than about 300 digits. Raises `EvalError`."""
    if type(value) is Fraction:
        value = exact(value)
    if type(value) is int:
        if -LARGEST < value < LARGEST:
            return value
    elif -LARGEST < value.numerator < LARGEST and value.denominator < LARGEST:
        return value
    raise eval_error("too-large", "this number has more than 300 digits", span)


def is_number(value: Any) -> bool:
    """Whether it is an int or a fraction; truth values are not."""
    return type(value) is int or type(value) is Fraction


def number(value: Any, span: Span, what: str) -> int | Fraction:
    """The value, which has to be a number; `what` names it in the message. Raises `EvalError`."""
    if type(value) is int or type(value) is Fraction:
        return value
    raise eval_error("wrong-kind", f"{what} must be a number, not {describe(value)}", span)


def whole(value: Any, span: Span, what: str) -> int:
    """The value, which has to be a whole number. Raises `EvalError`."""
    if type(value) is int:
        return value
    if type(value) is Fraction:
        raise eval_error(
            "not-whole",
            f"{what} must be a whole number, and this is {show(value)}",
            span,
            help="`//` rounds down, `ceil(… / …)` up; `require a % b == 0` asks for what divides",
        )
    raise eval_error("wrong-kind", f"{what} must be a whole number, not {describe(value)}", span)


def positive_count(
    value: Any, span: Span, what: str, most: int, notes: tuple[str, ...] = ()
) -> int:
    """A number of things, from 1 to `most`. Raises `EvalError`; `AlreadyReported` for None."""
    if value is None:
        raise AlreadyReported
    count = whole(value, span, f"the number of {what}")
    if count < 1:
        message = f"the number of {what} must be at least 1, and this is {show(count)}"
        raise eval_error("out-of-range", message, span, notes=notes)
    if count > most:
        message = f"{show(count)} {what} are too many: {most:,} are the most"
        raise eval_error("too-large", message, span, notes=notes)
    return count


def truth(value: Any, span: Span) -> bool:
    """The value, which has to be true or false. Raises `EvalError`."""
    if value is True or value is False:
        return bool(value)
    raise eval_error(
        "wrong-kind",
        f"a condition must be true or false, and this is {describe(value)}",
        span,
        help="compare it: `… != 0`" if is_number(value) else None,
    )


def pipeline(value: Any, span: Span) -> PipelineValue:
    """The value, which has to be a pipeline. Raises `EvalError`."""
    if type(value) is PipelineValue:
        return value
    raise eval_error("wrong-kind", f"this must be a pipeline, and it is {describe(value)}", span)


def computed(value: int | None) -> int:
    """A number of a pipeline. Raises `AlreadyReported` where it could not be computed."""
    if value is None:
        raise AlreadyReported
    return value


def describe(value: Any) -> str:
    """What the value is, for messages: `the number 3`, `a list`."""
    if type(value) is bool:
        return f"the truth value {show(value)}"
    if type(value) is PipelineValue:
        return f"the pipeline `{value.name}`"
    if type(value) is tuple:
        return "a list"
    return f"the number {show(value)}"


def show(value: Any) -> str:
    """The value as a file would say it, shortened where it is long."""
    if type(value) is bool:
        return "true" if value else "false"
    if type(value) is PipelineValue:
        return value.name
    if type(value) is tuple:
        inner = ", ".join("[…]" if type(v) is tuple else show(v) for v in value[:6])
        return f"[{inner}{', …' if len(value) > 6 else ''}]"
    if type(value) is Fraction and value.denominator.bit_length() > 200:
        return "a fraction of long numbers"
    text = str(value)
    return text if len(text) <= 40 else f"{text[:20]}… ({len(text)} digits)"
