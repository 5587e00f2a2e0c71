"""Queues of an order: lists of requests that `next` resolves one after the other. The expressions
of a request are computed when it is listed, what it leaves out is filled in when it is taken."""

from collections.abc import Callable

from msgspec import Struct

from stretto.compiler.diagnostics.diagnostic import Label
from stretto.compiler.diagnostics.source import Span
from stretto.compiler.evaluation.expressions.compile import already_reported
from stretto.compiler.evaluation.expressions.ranges import compile_ranges, iterate
from stretto.compiler.evaluation.expressions.scope import (
    ErrorBinding,
    QueueSlot,
    Scope,
    report_wrong_kind,
)
from stretto.compiler.evaluation.expressions.values import Env
from stretto.compiler.evaluation.orders.failures import fail, located
from stretto.compiler.evaluation.orders.references import compile_reference
from stretto.compiler.evaluation.orders.resolver import Request
from stretto.compiler.evaluation.orders.site import RESOLVER, Site, StepCode
from stretto.compiler.evaluation.orders.units import schedule
from stretto.compiler.evaluation.reports import EvalError, Reports, diagnosis, eval_error
from stretto.compiler.language import syntax as s


class QueueValue(Struct):
    """A queue: its items, each one request or the two of a pair, the place that makes it, and how
    many items were taken."""

    items: list[tuple[Request, ...]]
    made: Span
    taken: int = 0


Draw = Callable[[Env], tuple[Request, ...] | None]
"""Takes the next item of a queue; None if it is empty and the step optional. Raises `EvalError`."""


def compile_queue(step: s.Queue, site: Site) -> StepCode:
    """`queue q = OP for …`: makes the queue with one request for every binding of the ranges."""
    inside = site.inner()
    ranges = compile_ranges(step.ranges, inside.scope)
    code = compile_reference(step.mention, inside.scope, inside.context)
    slot = define_queue(step.name, site.scope)
    budget, made, scope = site.context.budget, step.name.span, inside.scope

    def run(env: Env) -> None:
        try:
            env[slot] = QueueValue([(code(env),) for _ in iterate(ranges, env, budget)], made)
        except EvalError as error:
            raise located(error, scope, env) from None

    return run


def define_queue(name: s.Word, scope: Scope) -> int:
    """Defines the name as that of a queue; its slot."""
    slot = scope.reserve()
    scope.define(name, QueueSlot(slot, name.span))
    return slot


def compile_next(step: s.Next, site: Site) -> StepCode:
    """`next q`: schedules the next item of the queue."""
    context, scope = site.context, site.scope
    draw = compile_draw(step, site)
    at = context.intern(step.span)

    def run(env: Env) -> None:
        resolver = env[RESOLVER]
        try:
            item = draw(env)
            if item is not None:
                schedule(context, resolver, item, at, step.span)
        except EvalError as error:
            fail(error, resolver, scope, env)

    return run


def compile_draw(step: s.Next, site: Site) -> Draw:
    """Takes the next item of a queue; refused inside of a block that makes another one."""
    if site.queue is not None:
        message = "a queue lists operations and cannot take from another queue"
        help_ = "list the operations themselves"
        site.context.reports.add(diagnosis("misplaced", message, step.span, help=help_))
    slot = _slot(step.queue, site.scope, site.context.reports)
    if slot is None:
        return already_reported
    name, span = step.queue.text, step.span

    def run(env: Env) -> tuple[Request, ...] | None:
        queue: QueueValue = env[slot]
        if queue.taken == len(queue.items):
            if step.optional:
                return None
            raise eval_error(
                "no-such-operation",
                f"the queue `{name}` is empty: it was made with {len(queue.items)} operations",
                Label(span),
                Label(queue.made, "it is made here"),
            )
        queue.taken += 1
        return queue.items[queue.taken - 1]

    return run


def _slot(name: s.Word, scope: Scope, reports: Reports) -> int | None:
    """The slot of the queue of this name; None where there is none, which is then reported."""
    found = scope.find(name.text)
    if isinstance(found, QueueSlot):
        return found.slot
    if found is None:
        scope.report_unknown(name, "no queue has this name")
    elif not isinstance(found, ErrorBinding):
        report_wrong_kind(
            scope.reports, name, "a queue", found.span, f"queue {name.text} = F[…] for …"
        )
    return None
