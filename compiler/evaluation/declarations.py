"""The declarations of a file, from top to bottom: parameters and names get their values,
requirements are judged, pipelines get their numbers of stages and micro-batches. What depends on
all of the file (placement, costs, rules, orders) is deferred, with the names that are known where
it stands.
"""

from fractions import Fraction
from typing import assert_never

from stretto.compiler.diagnostics.diagnostic import Label
from stretto.compiler.diagnostics.source import Span
from stretto.compiler.evaluation.chains import parts_of
from stretto.compiler.evaluation.declared import Declarations
from stretto.compiler.evaluation.expressions.names import definitions, local_names
from stretto.compiler.evaluation.expressions.scope import Constant, Scope
from stretto.compiler.evaluation.expressions.values import describe, is_number, positive_count
from stretto.compiler.evaluation.file_context import FileContext, compute, defer, is_first
from stretto.compiler.evaluation.parameters import define, parameter, size, unknown_setting
from stretto.compiler.evaluation.pipelines import declare_pipeline
from stretto.compiler.evaluation.reports import Reports, diagnosis
from stretto.compiler.evaluation.requirements import require
from stretto.compiler.evaluation.settings import Settings
from stretto.compiler.language import syntax as s

MOST_RANKS = 65_536


def declare(schedule: s.Schedule, settings: Settings, reports: Reports) -> Declarations:
    """Everything that the statements declare; mistakes go to the reports."""
    scope = Scope(reports)
    scope.defined_later = definitions(schedule)
    scope.local_names = local_names(schedule)
    context = FileContext(schedule, settings, reports, scope, Declarations(), dict(settings.values))
    for statement in schedule.statements:
        _statement(context, statement)
    scope.defined_later = {}
    if settings.costs is not None:
        _cost_file(context, settings.costs)
    _complete(context)
    return context.declared


def _statement(context: FileContext, statement: s.Statement) -> None:
    """Declares what one statement says."""
    declared, span = context.declared, statement.span
    match statement:
        case s.Titled(name):
            if is_first(context, "schedule", span):
                _titled(context, statement, name)
        case s.Ranks(value):
            if is_first(context, "ranks", span):
                declared.ranks = size(context, s.Word("ranks", span), value, MOST_RANKS, "ranks")
        case s.Microbatches(value):
            if is_first(context, "microbatches", span):
                word, most = s.Word("microbatches", span), context.settings.max_ops
                declared.microbatches = size(context, word, value, most, "micro-batches")
        case s.Param(name, value):
            parameter(context, name, value)
        case s.Let(name, value):
            define(context, name, compute(context, value))
        case s.Require():
            require(context, statement)
        case s.Pipeline():
            _pipeline(context, statement)
        case s.SplitBackward():
            if is_first(context, "split B", span):
                declared.split = statement
        case s.SplitForward():
            if is_first(context, "split F", span):
                _unique_parts(declared, context.reports, statement)
                declared.parts = defer(context, statement)
        case s.SplitMicrobatch(slices):
            if is_first(context, "split microbatch", span):
                declared.slices = _slices(context, slices)
        case s.Overlap(kind):
            if is_first(context, f"overlap F | {kind}", span):
                declared.overlap[kind] = span
        case s.Cost() | s.Activation() | s.PartActivation() | s.Kept():
            declared.costs.append(defer(context, statement))
        case s.Transfer():
            if is_first(context, "transfer", span):
                declared.transfer = defer(context, statement)
        case s.Limit():
            declared.limits.append(defer(context, statement))
        case s.ReduceGradients():
            if is_first(context, "reduce gradients", span):
                declared.reduce_gradients = defer(context, statement)
        case s.UnshardWeights():
            if is_first(context, "unshard weights", span):
                declared.unshard_weights = defer(context, statement)
        case s.Minimize():
            if is_first(context, "minimize", span):
                _minimize(context, statement)
        case s.Rule():
            declared.rules.append(defer(context, statement))
        case s.OrderRank():
            if is_first(context, "order rank", span):
                declared.order = defer(context, statement)
        case s.OrderAuto():
            if is_first(context, "order auto", span):
                declared.order_auto = statement
        case _:
            assert_never(statement)


# ---- Single statements


def _titled(context: FileContext, statement: s.Titled, name: s.Word) -> None:
    context.declared.name = name.text
    if context.schedule.statements[0] is not statement:
        message = "`schedule` must be the first statement"
        context.reports.add(diagnosis("misplaced", message, statement.span))


def _pipeline(context: FileContext, statement: s.Pipeline) -> None:
    scope, declared = context.scope, context.declared
    new = declare_pipeline(statement, scope.snapshot(), declared, context.settings)
    declared.pipelines.append(new)
    declared.by_name.setdefault(new.name.text, new)
    scope.define(statement.name, Constant(new.value, statement.name.span))


def _unique_parts(declared: Declarations, reports: Reports, statement: s.SplitForward) -> None:
    """Notes the names of parts. Reports a part whose name another one has."""
    for part in parts_of(statement):
        declared.part_names[part.name.text] = part
        first = reports.parts.setdefault(part.name.text, part.name.span)
        if first is not part.name.span:
            reports.add(
                diagnosis(
                    "name-taken",
                    f"two parts are called `{part.name.text}`",
                    Label(part.name.span),
                    Label(first, "the first one"),
                    help="choose another name; both may be there under conditions",
                )
            )


def _slices(context: FileContext, e: s.Expression) -> int | None:
    found = compute(context, e)
    most = context.settings.max_ops
    slices: int | None = context.reports.attempt(
        lambda: positive_count(found, e.span, "slices", most)
    )
    return slices


def _minimize(context: FileContext, statement: s.Minimize) -> None:
    context.declared.minimize = statement
    if statement.jitter is None:
        return
    found = compute(context, statement.jitter)
    if found is None:
        return
    if is_number(found) and 0 <= found <= 1:
        context.declared.jitter = Fraction(found)
        return
    message = f"jitter is a fraction from 0 to 1, and this is {describe(found)}"
    context.reports.add_for_values(diagnosis("out-of-range", message, statement.jitter.span))


def _cost_file(context: FileContext, costs: s.CostFile) -> None:
    """The statements of a file of costs, as if they stood at the end of the schedule; its
    `transfer` replaces the schedule's."""
    declared = context.declared
    transfer: s.Transfer | None = None
    for statement in costs.statements:
        if not isinstance(statement, s.Transfer):
            declared.costs.append(defer(context, statement))
        elif transfer is None:
            transfer = statement
            declared.transfer = defer(context, statement)
        else:
            declared.stated_at["transfer"] = transfer.span
            is_first(context, "transfer", statement.span)


# ---- What is missing


def _complete(context: FileContext) -> None:
    """Reports statements that a file needs and this one does not have, and settings for
    parameters that it does not have."""
    declared, reports = context.declared, context.reports
    top = Span(context.schedule.source.name, 1, 1, 1, 1)
    if not context.schedule.statements:
        help_ = "`stretto new NAME` writes a file to begin with"
        reports.add(diagnosis("missing", "the file says nothing", top, help=help_))
        return
    if all(isinstance(one, s.CostStatement) for one in context.schedule.statements):
        help_ = f"give it to a schedule: `stretto compile SCHEDULE --costs {top.file}`"
        reports.add(
            diagnosis("missing", "this is a file of costs, and no schedule", top, help=help_)
        )
        return
    title = declared.stated_at.get("schedule", top)
    if "schedule" not in declared.stated_at:
        message = "a schedule file begins with its name"
        reports.add(diagnosis("missing", message, top, help="schedule NAME"))
    for what in ("ranks", "microbatches"):
        if what not in declared.stated_at:
            reports.add(diagnosis("missing", f"`{what}` is missing", title, help=f"{what} 8"))
    if not declared.pipelines:
        help_ = "pipeline main { }"
        reports.add(diagnosis("missing", "there is no pipeline", title, help=help_))
    for name in context.unset:
        unknown_setting(context, name)
    if declared.parts is not None:
        _beside_parts(declared, reports)


def _beside_parts(declared: Declarations, reports: Reports) -> None:
    """Reports what cannot be compiled yet where stages are cut into parts."""
    for what in ("split microbatch", "reduce gradients", "unshard weights"):
        if what in declared.stated_at:
            reports.add(
                diagnosis(
                    "not-yet",
                    f"`{what}` beside stages that are cut into parts cannot be compiled yet",
                    Label(declared.stated_at[what]),
                    Label(declared.stated_at["split F"], "the parts"),
                    help="leave one of them out",
                )
            )
    declared.slices, declared.reduce_gradients, declared.unshard_weights = 0, None, None
