"""What declaring a file works with, from its first statement to its last: `FileContext`."""

from typing import Any

from msgspec import Struct

from stretto.compiler.diagnostics.diagnostic import Label
from stretto.compiler.diagnostics.source import Span
from stretto.compiler.evaluation.declared import Declarations, Deferred
from stretto.compiler.evaluation.expressions.compile import compile_expression
from stretto.compiler.evaluation.expressions.scope import Scope
from stretto.compiler.evaluation.reports import Reports, diagnosis
from stretto.compiler.evaluation.settings import Settings
from stretto.compiler.language import syntax as s


class FileContext(Struct, frozen=True):
    """The file with its settings, the names defined so far, and what was declared so far. `unset`
    has the settings' values that no statement has taken yet."""

    schedule: s.Schedule
    settings: Settings
    reports: Reports
    scope: Scope
    declared: Declarations
    unset: dict[str, Any]


def compute(context: FileContext, e: s.Expression) -> Any:
    """The expression's value, or None where it has none; the reason is reported."""
    code = compile_expression(e, context.scope)
    return context.reports.attempt(lambda: code([]))


def defer(context: FileContext, statement: s.Statement) -> Deferred:
    """The statement, to be evaluated later with the names that are known now."""
    return Deferred(statement, context.scope.snapshot())


def is_first(context: FileContext, what: str, span: Span) -> bool:
    """Whether this is the first statement that says `what`; a second one is reported."""
    before = context.declared.stated_at.setdefault(what, span)
    if before is span:
        return True
    context.reports.add(
        diagnosis(
            "stated-twice",
            f"`{what}` stands twice",
            Label(span),
            Label(before, "here it was said already"),
            help="leave one of them out",
        )
    )
    return False
