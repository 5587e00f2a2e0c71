"""`require E, "why"`: judged where it stands; the message shows the values that made it fail."""

from typing import Any

from stretto.compiler.diagnostics.source import Span
from stretto.compiler.evaluation.expressions.compile import compile_expression
from stretto.compiler.evaluation.expressions.names import names_in, text_of
from stretto.compiler.evaluation.expressions.scope import Constant, Scope
from stretto.compiler.evaluation.expressions.values import PipelineValue, describe, show
from stretto.compiler.evaluation.file_context import FileContext
from stretto.compiler.evaluation.reports import diagnosis, eval_error
from stretto.compiler.language import syntax as s


def require(context: FileContext, statement: s.Require) -> None:
    """Adds the requirement to those that failed, if it does not hold."""
    condition = statement.condition
    code = compile_expression(condition, context.scope)
    holds = context.reports.attempt(lambda: _judge(code([]), condition.span))
    if holds is not False:
        return
    text = " ".join(text_of(context.schedule.source, condition.span).split())
    values = _values_in(condition, context.scope)
    message = f"`{text}` does not hold" + (f" for {', '.join(values)}" if values else "")
    if statement.why:
        message += f": {statement.why}"
    failed = diagnosis("requirement", message, condition.span)
    context.declared.failed_requirements.append(failed)


def _judge(value: Any, span: Span) -> bool:
    if type(value) is bool:
        return value
    message = f"a requirement is true or false, and this is {describe(value)}"
    raise eval_error("wrong-kind", message, span)


def _values_in(e: s.Expression, scope: Scope) -> list[str]:
    """`ranks = 3` for every name in an expression, in the order of the text."""
    found: dict[str, str] = {}
    for name in names_in(e):
        binding = scope.find(name)
        if isinstance(binding, Constant):
            if type(binding.value) is PipelineValue:
                found[f"{name}.stages"] = show(binding.value.stages)
                found[f"{name}.microbatches"] = show(binding.value.microbatches)
            else:
                found[name] = show(binding.value)
    return [f"{name} = {value}" for name, value in found.items()]
