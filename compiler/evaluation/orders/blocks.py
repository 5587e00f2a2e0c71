"""Order blocks, compiled once to closures. Running them for a rank schedules one operation after
the other. The environment holds the rank's `Resolver` first, the rank second, then what has a name.
"""

from collections.abc import Iterable
from functools import partial
from typing import assert_never

from stretto.compiler.diagnostics.source import Span
from stretto.compiler.evaluation.expressions.compile import compile_expression, compile_whole
from stretto.compiler.evaluation.expressions.ranges import (
    ForeseenRounds,
    compile_ranges,
    foreseen,
    iterate,
)
from stretto.compiler.evaluation.expressions.scope import Scope
from stretto.compiler.evaluation.expressions.values import Code, Env, show, truth
from stretto.compiler.evaluation.orders.failures import located
from stretto.compiler.evaluation.orders.nests import Count, Nest, nest
from stretto.compiler.evaluation.orders.pairs import compile_pair
from stretto.compiler.evaluation.orders.queues import (
    QueueValue,
    compile_next,
    compile_queue,
    define_queue,
)
from stretto.compiler.evaluation.orders.references import OrderContext, compile_reference
from stretto.compiler.evaluation.orders.site import RANK, RESOLVER, Site, StepCode
from stretto.compiler.evaluation.orders.units import compile_single
from stretto.compiler.evaluation.reports import (
    AlreadyReported,
    EvalError,
    SecondaryError,
    diagnosis,
)
from stretto.compiler.language import syntax as s

FEW = 8
"""Steps that are not counted where they stand together: rounds of loops are."""


def compile_order(
    statement: s.OrderRank, outer: Scope, context: OrderContext
) -> tuple[StepCode, Scope]:
    """The order of any rank, and the scope whose size is that of the environment."""
    scope = outer.frame()
    resolver, rank = scope.reserve(), scope.define_slot(statement.rank, varies=True)
    assert (resolver, rank) == (RESOLVER, RANK)
    return _block(statement.body, Site(context, scope, {})), scope


def _block(block: s.Block, site: Site) -> StepCode:
    """The steps of a block, one after the other."""
    inside = site.inner()
    steps = [_step(step, inside) for step in block.steps]
    if len(steps) == 1:
        return steps[0]

    def run(env: Env) -> None:
        for step in steps:
            step(env)

    return _counted(run, len(steps), block.span, site)


def _counted(run: StepCode, many: int, span: Span, site: Site) -> StepCode:
    """The code of so many steps that stand together: where these are a great many, they are
    counted."""
    if many <= FEW:
        return run
    work, scope = site.context.reports.work, site.scope

    def counted(env: Env) -> None:
        try:
            work.spend(many, span)
        except EvalError as error:
            raise located(error, scope, env) from None
        run(env)

    return counted


def _step(step: s.Step, site: Site) -> StepCode:
    match step:
        case s.Mention():
            return _operation(step, site)
        case s.Pair():
            return compile_pair(step, site)
        case s.Next():
            return compile_next(step, site)
        case s.Repeat():
            return _repeat(step, site)
        case s.Loop():
            return _loop(step, site)
        case s.If():
            return _if(step, site)
        case s.Let():
            return _let(step, site)
        case s.Queue():
            return compile_queue(step, site)
        case s.QueueBlock():
            return _queue_block(step, site)
        case _:
            assert_never(step)


def _operation(step: s.Mention, site: Site) -> StepCode:
    """Schedules the operation, or lists it in the queue."""
    code = compile_reference(step, site.scope, site.context)
    queue = site.queue
    if queue is None:
        return compile_single(code, step.span, site)

    def run(env: Env) -> None:
        env[queue].items.append((code(env),))

    return run


def _queue_block(step: s.QueueBlock, site: Site) -> StepCode:
    """`queue q { … }`: the block lists its operations in a queue that has no name yet."""
    hidden = site.scope.reserve()
    fill = _block(step.body, site._replace(queue=hidden))
    slot = define_queue(step.name, site.scope)

    def run(env: Env) -> None:
        env[hidden] = QueueValue([], step.name.span)
        fill(env)
        env[slot] = env[hidden]

    return run


# ---- Control


def _repeat(step: s.Repeat, site: Site) -> StepCode:
    scope, budget, span = site.scope, site.context.budget, step.count.span
    count = compile_whole(step.count, scope, "a number of repetitions")
    inside = site.inner()._replace(looped=True)
    names = inside.scope
    slot = names.define_slot(step.name, varies=True) if step.name else names.reserve()
    body = _block(step.body, inside)
    site.counts[id(step)] = _times(count)
    within = _within(step.body, site, [step.name])

    def run(env: Env) -> None:
        try:
            times = count(env)
            if times < 0:
                message = f"this would repeat {show(times)} times"
                help_ = "write `max(0, …)` where nothing is to be repeated then"
                raise SecondaryError(diagnosis("negative-repeat", message, span, help=help_))
            budget.spend(times, span)
            if within is not None and times:
                budget.foresee(times * within.rounds(env), span)
        except EvalError as error:
            raise located(error, scope, env) from None
        for k in range(times):
            env[slot] = k
            body(env)

    return run


def _times(count: Code) -> Count:
    def foreseen_rounds(env: Env) -> ForeseenRounds:
        try:
            times = max(0, count(env))
        except (EvalError, AlreadyReported):  # told when the loop is reached
            times = 0
        return ForeseenRounds(times, times)

    return foreseen_rounds


def _within(body: s.Block, site: Site, own: Iterable[s.Word | None]) -> Nest | None:
    """The loops in that of a loop that stands in none and gives these names values; None where
    there are none to be foreseen."""
    if site.looped:
        return None
    found = nest(body, site.counts, [name.text for name in own if name])
    return found if found.loops else None


def _loop(step: s.Loop, site: Site) -> StepCode:
    inside = site.inner()._replace(looped=True)
    scope, budget = inside.scope, site.context.budget
    ranges = compile_ranges(step.ranges, scope)
    body = _block(step.body, inside)
    site.counts[id(step)] = partial(foreseen, ranges)
    within = _within(step.body, site, [one.name for one in step.ranges])

    def run(env: Env) -> None:
        if within is not None and (last := foreseen(ranges, env).last):
            try:
                budget.foresee(last * within.rounds(env), step.ranges[-1].span)
            except EvalError as error:
                raise located(error, scope, env) from None
        rounds = iterate(ranges, env, budget)
        while True:
            try:
                next(rounds)
            except StopIteration:
                return
            except EvalError as error:
                raise located(error, scope, env) from None
            body(env)

    return run


def _if(step: s.If, site: Site) -> StepCode:
    scope = site.scope
    cases = [
        (compile_expression(condition, scope), _block(body, site), condition.span)
        for condition, body in step.cases
    ]
    otherwise = _block(step.otherwise, site) if step.otherwise else None

    def run(env: Env) -> None:
        for condition, body, span in cases:
            try:
                holds = condition(env)
                if type(holds) is not bool:
                    truth(holds, span)
            except EvalError as error:
                raise located(error, scope, env) from None
            if holds:
                body(env)
                return
        if otherwise is not None:
            otherwise(env)

    return _counted(run, len(cases), step.span, site)


def _let(step: s.Let, site: Site) -> StepCode:
    scope = site.scope
    value = compile_expression(step.value, scope)
    slot = scope.define_slot(step.name)

    def run(env: Env) -> None:
        try:
            env[slot] = value(env)
        except EvalError as error:
            raise located(error, scope, env) from None

    return run
