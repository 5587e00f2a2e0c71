"""`F near | B far`: two operations of an order that overlap as one unit or, where stages are cut,
whose parts become one sequence."""

from collections.abc import Callable

from stretto.compiler.diagnostics.diagnostic import Label
from stretto.compiler.evaluation.expressions.values import Env
from stretto.compiler.evaluation.orders.failures import fail
from stretto.compiler.evaluation.orders.queues import compile_draw
from stretto.compiler.evaluation.orders.references import compile_reference
from stretto.compiler.evaluation.orders.resolver import Request
from stretto.compiler.evaluation.orders.site import RESOLVER, Site, StepCode
from stretto.compiler.evaluation.orders.units import check_overlap, schedule
from stretto.compiler.evaluation.reports import EvalError, diagnosis, eval_error
from stretto.compiler.language import syntax as s


def compile_pair(step: s.Pair, site: Site) -> StepCode:
    """Schedules the pair as one unit, or lists it as one item of a queue."""
    context, scope, queue = site.context, site.scope, site.queue
    if context.parts is None:
        _check_kinds(step, site)
    first, second = (_compile_half(half, site) for half in (step.first, step.second))
    if isinstance(step.second, s.Mention):
        check_overlap(context, step.second.kind, step.span)
    if queue is not None:

        def listed(env: Env) -> None:
            env[queue].items.append((first(env), second(env)))

        return listed
    at = context.intern(step.span)

    def run(env: Env) -> None:
        try:
            schedule(context, env[RESOLVER], (first(env), second(env)), at, step.span)
        except EvalError as error:
            fail(error, env[RESOLVER], scope, env)

    return run


def _check_kinds(step: s.Pair, site: Site) -> None:
    kinds = [
        half.kind if isinstance(half, s.Mention) else None for half in (step.first, step.second)
    ]
    if kinds[0] not in ("F", None) or kinds[1] not in ("B", "I", None):
        site.context.reports.add(
            diagnosis(
                "wrong-pair",
                "an overlapped pair is an `F`, then the `B` or `I` that runs beside it",
                step.span,
                help="write the `F` first" if kinds[1] == "F" else "F … | B …",
            )
        )


def _compile_half(half: s.Mention | s.Next, site: Site) -> Callable[[Env], Request]:
    """What a half of a pair requests."""
    if isinstance(half, s.Mention):
        return compile_reference(half, site.scope, site.context)
    draw = compile_draw(half, site)

    def run(env: Env) -> Request:
        item = draw(env)
        assert item is not None
        first, *others = item
        if others:
            message = f"the next of `{half.queue.text}` is a pair already"
            raise eval_error("wrong-pair", message, half.span, Label(first.span, "listed here"))
        return first

    return run
