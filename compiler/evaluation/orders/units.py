"""Units of an order: one operation, or an F and the B or I that overlaps with it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from stretto.compiler.diagnostics.source import Span
from stretto.compiler.evaluation.expressions.values import Env
from stretto.compiler.evaluation.orders.failures import fail
from stretto.compiler.evaluation.orders.references import OrderContext, RequestCode
from stretto.compiler.evaluation.orders.resolve import resolve
from stretto.compiler.evaluation.orders.resolver import Request, Resolver
from stretto.compiler.evaluation.orders.site import RESOLVER, Site, StepCode
from stretto.compiler.evaluation.reports import EvalError, diagnosis, eval_error
from stretto.compiler.problem.spec import Unit, unit_of

if TYPE_CHECKING:  # most schedules have no parts
    from stretto.compiler.evaluation.orders.part_resolver import PartResolver


def compile_single(code: RequestCode, span: Span, site: Site) -> StepCode:
    """A step that schedules the operation that is requested at `span`."""
    at, scope, context = site.context.intern(span), site.scope, site.context
    if context.parts is not None:

        def run_parts(env: Env) -> None:
            try:
                schedule(context, env[RESOLVER], (code(env),), at, span)
            except EvalError as error:
                fail(error, env[RESOLVER], scope, env)

        return run_parts

    def run(env: Env) -> None:
        resolver: Resolver = env[RESOLVER]
        try:
            operation = resolve(resolver, code(env), at)
            if operation is not None:
                resolver.units.append(unit_of(((operation,), at)))
        except EvalError as error:
            fail(error, resolver, scope, env)

    return run


def schedule(
    context: OrderContext,
    resolver: "Resolver | PartResolver",
    requests: Sequence[Request],
    at: int,
    span: Span,
) -> None:
    """Schedules one operation, or two that overlap, as one unit; where stages are cut, the parts of
    one operation or of two. Raises `EvalError`."""
    if not isinstance(resolver, Resolver):
        from stretto.compiler.evaluation.orders.part_units import schedule_parts

        assert context.parts is not None
        schedule_parts(resolver, requests, at, span, context.parts.costs)
        return
    if len(requests) == 1:
        operation = resolve(resolver, requests[0], at)
        if operation is not None:
            resolver.units.append(Unit((operation,), at))
        return
    first, second = requests
    if first.kind != "F" or second.kind not in context.overlap:
        message = f"`{first.kind} | {second.kind}` cannot overlap as one unit here"
        raise eval_error("wrong-pair", message, span, help="overlap F | B")
    forward, backward = resolve(resolver, first, at), resolve(resolver, second, at)
    assert forward is not None and backward is not None
    if (forward.pipeline, forward.microbatch) == (backward.pipeline, backward.microbatch):
        name = resolver.pipelines[forward.pipeline].name
        raise eval_error(
            "wrong-pair",
            f"both halves are of micro-batch {forward.microbatch} of `{name}`: its backward "
            "needs its forward",
            span,
            help="overlap two different micro-batches",
        )
    resolver.units.append(Unit((forward, backward), at))


def check_overlap(context: OrderContext, kind: str, span: Span) -> None:
    """Reports a pair whose second operation nothing allows to overlap with an F. (Parts need no
    permission.)"""
    if context.parts is None and kind not in context.overlap:
        message = f"nothing says that an `F` may overlap with a `{kind}`"
        help_ = f"overlap F | {kind}"
        context.reports.add_once(help_, diagnosis("no-overlap", message, span, help=help_))
