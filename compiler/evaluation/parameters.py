"""Names with values: `param`, `let`, `ranks` and `microbatches`, and the settings that replace
their values."""

from fractions import Fraction
from typing import Any

from stretto.compiler.diagnostics.suggest import nearest
from stretto.compiler.evaluation.expressions.compile import compile_expression
from stretto.compiler.evaluation.expressions.scope import Constant, ErrorBinding
from stretto.compiler.evaluation.expressions.values import (
    describe,
    exact,
    is_number,
    positive_count,
    show,
)
from stretto.compiler.evaluation.file_context import FileContext, compute
from stretto.compiler.evaluation.reports import diagnosis
from stretto.compiler.language import syntax as s


def define(context: FileContext, name: s.Word, value: Any) -> None:
    """Gives the name its value; None where it could not be computed."""
    binding = ErrorBinding(name.span) if value is None else Constant(value, name.span)
    context.scope.define(name, binding)


def parameter(context: FileContext, name: s.Word, default: s.Expression) -> None:
    """`param NAME = E`."""
    value = _setting(context, name, default)
    if value is not None and not is_number(value):
        message = f"a parameter is a number, and `{name.text}` would be {describe(value)}"
        help_ = "name other values with `let`"
        context.reports.add(diagnosis("wrong-kind", message, default.span, help=help_))
        value = None
    if value is not None:
        context.declared.parameters[name.text] = str(value)
    define(context, name, value)


def size(
    context: FileContext, word: s.Word, default: s.Expression, most: int, what: str
) -> int | None:
    """`ranks E` or `microbatches E`, whichever the `word` is: a whole number from 1 to `most`. None
    where it has no such value, which is then reported."""
    found = _setting(context, word, default)
    overridden = word.text in context.declared.overridden
    notes = (f"`{word.text}` was set to {show(found)}",) if overridden else ()
    value: int | None = context.reports.attempt(
        lambda: positive_count(found, default.span, what, most, notes)
    )
    if value is not None:
        context.declared.parameters[word.text] = str(value)
    define(context, word, value)
    return value


def _setting(context: FileContext, name: s.Word, default: s.Expression) -> Any:
    """The value from the settings, else the default from the file."""
    given = context.unset.pop(name.text, None)
    if given is None:
        return compute(context, default)
    context.declared.overridden.add(name.text)
    compile_expression(default, context.scope)  # reports mistakes in the unused default
    return exact(Fraction(given))


def unknown_setting(context: FileContext, name: str) -> None:
    """Reports a setting that no statement of the file takes."""
    known = [n for n in context.declared.stated_at if n in ("ranks", "microbatches")]
    known += [x.name.text for x in context.schedule.statements if isinstance(x, s.Param)]
    near = nearest(name, known)
    listed = ", ".join(f"`{n}`" for n in known)
    context.reports.add(
        diagnosis(
            "unknown-name",
            f"the schedule has no parameter `{name}` to be set",
            help=f"did you mean `{near}`?" if near else f"it has {listed}",
        )
    )
