"""Order blocks, compiled once to closures. Running them for a rank schedules one operation after
the other. The environment holds the rank's `Resolver` first, the rank second, then what has a name.
"""

from collections.abc import Callable
from typing import assert_never

from msgspec import Struct

from stretto.compiler.diagnostics.diagnostic import Label
from stretto.compiler.diagnostics.source import Span
from stretto.compiler.evaluation.expressions.compile import (
    already_reported,
    compile_expression,
    compile_whole,
)
from stretto.compiler.evaluation.expressions.ranges import bindings, compile_ranges, iterate
from stretto.compiler.evaluation.expressions.scope import ErrorBinding, QueueSlot, Scope
from stretto.compiler.evaluation.expressions.values import Env, show, truth
from stretto.compiler.evaluation.orders.references import (
    OrderContext,
    RequestCode,
    compile_reference,
)
from stretto.compiler.evaluation.orders.resolve import resolve
from stretto.compiler.evaluation.orders.resolver import Request, Resolver
from stretto.compiler.evaluation.reports import (
    MOST_PER_RANK,
    EvalError,
    Reports,
    SecondaryError,
    TooManyRounds,
    diagnosis,
    eval_error,
)
from stretto.compiler.language import syntax as s
from stretto.compiler.problem.spec import Unit

StepCode = Callable[[Env], None]
RESOLVER, RANK = 0, 1


class TooManyErrors(Exception):
    """So much went wrong on this rank that going on tells nothing new."""


class QueueValue(Struct):
    """A queue, and how many of its operations were taken."""

    items: list[tuple[Request, ...]]
    made: Span
    taken: int = 0


def compile_order(
    statement: s.OrderRank, outer: Scope, context: OrderContext
) -> tuple[StepCode, Scope]:
    """The order of any rank, and the scope whose size is that of the values at hand."""
    scope = outer.frame()
    assert scope.reserve() == RESOLVER
    assert scope.slot(statement.rank, varies=True) == RANK
    return _Blocks(context).block(statement.body, scope, None), scope


class _Blocks:
    def __init__(self, context: OrderContext):
        self.context = context
        self.reports = context.reports

    def block(self, block: s.Block, scope: Scope, into: int | None) -> StepCode:
        """The steps of a block. `into` is the place of the queue that lists them, or None where
        they are taken."""
        inside = scope.inner()
        steps = [self.step(step, inside, into) for step in block.steps]
        if len(steps) == 1:
            return steps[0]

        def run(env: Env) -> None:
            for step in steps:
                step(env)

        return run

    def step(self, step: s.Step, scope: Scope, into: int | None) -> StepCode:
        match step:
            case s.Mention():
                code = compile_reference(step, scope, self.context)
                return (
                    self.listed(into, code) if into is not None else self.single(step, code, scope)
                )
            case s.Pair():
                return self.pair(step, scope, into)
            case s.Next():
                return self.next(step, scope, into)
            case s.Repeat():
                return self.repeat(step, scope, into)
            case s.Loop():
                return self.loop(step, scope, into)
            case s.If():
                return self.if_(step, scope, into)
            case s.Let():
                return self.let(step, scope)
            case s.Queue():
                return self.queue(step, scope)
            case s.QueueBlock():
                return self.queue_block(step, scope)
            case _:
                assert_never(step)

    # ---- Operations

    def single(self, mention: s.Mention, code: RequestCode, scope: Scope) -> StepCode:
        at = self.context.intern(mention.span)

        def run(env: Env) -> None:
            resolver: Resolver = env[RESOLVER]
            try:
                operation = resolve(resolver, code(env), at)
                if operation is not None:
                    resolver.units.append(Unit((operation,), at))
            except EvalError as error:
                self.failed(error, scope, env)

        return run

    def pair(self, step: s.Pair, scope: Scope, into: int | None) -> StepCode:
        halves = [self.half(half, scope, into) for half in (step.first, step.second)]
        if isinstance(step.second, s.Mention):
            self.overlaps(step.second.kind, step.span)
        if into is not None:

            def listed(env: Env) -> None:
                (first,), (second,) = halves[0](env), halves[1](env)
                env[into].items.append((first, second))

            return listed
        at = self.context.intern(step.span)

        def run(env: Env) -> None:
            try:
                request = [*halves[0](env), *halves[1](env)]
                self.unit(env[RESOLVER], request, at, step.span)
            except EvalError as error:
                self.failed(error, scope, env)

        return run

    def half(
        self, half: s.Mention | s.Next, scope: Scope, into: int | None
    ) -> Callable[[Env], tuple[Request, ...]]:
        """What a half of a pair asks for."""
        if isinstance(half, s.Mention):
            code = compile_reference(half, scope, self.context)
            return lambda env: (code(env),)
        if into is not None:
            self.no_next(half)
        draw = self.draw(half, scope)

        def run(env: Env) -> tuple[Request, ...]:
            item = draw(env)
            assert item is not None
            if len(item) > 1:
                message = f"the next of `{half.queue.text}` is a pair already"
                raise eval_error(
                    "wrong-pair", message, half.span, Label(item[0].span, "listed here")
                )
            return item

        return run

    def unit(self, resolver: Resolver, request: list[Request], at: int, span: Span) -> None:
        """Takes one operation, or two that overlap."""
        if len(request) == 1:
            operation = resolve(resolver, request[0], at)
            if operation is not None:
                resolver.units.append(Unit((operation,), at))
            return
        first, second = request
        if first.kind != "F" or second.kind not in self.context.overlap:
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

    def overlaps(self, kind: str, span: Span) -> None:
        if kind not in self.context.overlap:
            message = f"nothing says that an `F` may overlap with a `{kind}`"
            help_ = f"overlap F | {kind}"
            self.reports.add_once(help_, diagnosis("no-overlap", message, span, help=help_))

    # ---- Queues

    def listed(self, into: int, code: RequestCode) -> StepCode:
        def run(env: Env) -> None:
            env[into].items.append((code(env),))

        return run

    def queue(self, step: s.Queue, scope: Scope) -> StepCode:
        inside = scope.inner()
        ranges = compile_ranges(step.ranges, inside)
        code = compile_reference(step.mention, inside, self.context)
        index = self.new_queue(step.name, scope)
        budget, made = self.context.budget, step.name.span

        def run(env: Env) -> None:
            try:
                env[index] = QueueValue([(code(env),) for _ in iterate(ranges, env, budget)], made)
            except EvalError as error:
                raise located(error, inside, env) from None

        return run

    def queue_block(self, step: s.QueueBlock, scope: Scope) -> StepCode:
        hidden = scope.reserve()
        fill = self.block(step.body, scope, hidden)
        index = self.new_queue(step.name, scope)

        def run(env: Env) -> None:
            env[hidden] = QueueValue([], step.name.span)
            fill(env)
            env[index] = env[hidden]

        return run

    def new_queue(self, name: s.Word, scope: Scope) -> int:
        index = scope.reserve()
        scope.define(name, QueueSlot(index, name.span))
        return index

    def next(self, step: s.Next, scope: Scope, into: int | None) -> StepCode:
        if into is not None:
            self.no_next(step)
        draw = self.draw(step, scope)
        at = self.context.intern(step.span)

        def run(env: Env) -> None:
            try:
                item = draw(env)
                if item is not None:
                    self.unit(env[RESOLVER], list(item), at, step.span)
            except EvalError as error:
                self.failed(error, scope, env)

        return run

    def draw(self, step: s.Next, scope: Scope) -> Callable[[Env], tuple[Request, ...] | None]:
        """The next item of a queue, spoken of as standing where it is taken; None if the queue is
        empty and the step optional."""
        found = scope.find(step.queue.text)
        name, span = step.queue.text, step.span
        if not isinstance(found, QueueSlot):
            if found is None:
                scope.report_unknown(step.queue, "no queue has this name")
            elif not isinstance(found, ErrorBinding):
                self.reports.add(
                    diagnosis(
                        "wrong-kind",
                        f"`{name}` is not a queue",
                        Label(step.queue.span),
                        Label(found.span, "it is defined here"),
                        help=f"queue {name} = F[…] for …",
                    )
                )
            return already_reported
        place = found.place

        def run(env: Env) -> tuple[Request, ...] | None:
            queue: QueueValue = env[place]
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

    def no_next(self, step: s.Next) -> None:
        self.reports.add(
            diagnosis(
                "misplaced",
                "a queue lists operations and cannot take from another queue",
                step.span,
                help="list the operations themselves",
            )
        )

    # ---- Control

    def repeat(self, step: s.Repeat, scope: Scope, into: int | None) -> StepCode:
        count = compile_whole(step.count, scope, "a number of repetitions")
        inside = scope.inner()
        slot = inside.slot(step.name, varies=True) if step.name else inside.reserve()
        body = self.block(step.body, inside, into)
        budget, span = self.context.budget, step.count.span

        def run(env: Env) -> None:
            try:
                times = count(env)
                if times < 0:
                    message = f"this would repeat {show(times)} times"
                    help_ = "write `max(0, …)` where nothing is to be repeated then"
                    raise SecondaryError(diagnosis("negative-repeat", message, span, help=help_))
                budget.spend(times, span)
            except EvalError as error:
                raise located(error, scope, env) from None
            for k in range(times):
                env[slot] = k
                body(env)

        return run

    def loop(self, step: s.Loop, scope: Scope, into: int | None) -> StepCode:
        inside = scope.inner()
        ranges = compile_ranges(step.ranges, inside)
        body = self.block(step.body, inside, into)
        budget = self.context.budget

        def run(env: Env) -> None:
            rounds = iterate(ranges, env, budget)
            while True:
                try:
                    next(rounds)
                except StopIteration:
                    return
                except EvalError as error:
                    raise located(error, inside, env) from None
                body(env)

        return run

    def if_(self, step: s.If, scope: Scope, into: int | None) -> StepCode:
        cases = [
            (compile_expression(condition, scope), self.block(body, scope, into), condition.span)
            for condition, body in step.cases
        ]
        otherwise = self.block(step.otherwise, scope, into) if step.otherwise else None

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

        return run

    def let(self, step: s.Let, scope: Scope) -> StepCode:
        value = compile_expression(step.value, scope)
        index = scope.slot(step.name)

        def run(env: Env) -> None:
            try:
                env[index] = value(env)
            except EvalError as error:
                raise located(error, scope, env) from None

        return run

    # ---- What goes wrong

    def failed(self, error: EvalError, scope: Scope, env: Env) -> None:
        """Records a step that could not be taken; the rank goes on with the next one."""
        if isinstance(error, TooManyRounds):
            raise error
        resolver: Resolver = env[RESOLVER]
        record(located(error, scope, env), resolver, self.reports)
        if resolver.failures >= MOST_PER_RANK:
            raise TooManyErrors


def record(error: EvalError, resolver: Resolver, reports: Reports) -> None:
    """A mistake in the order of a rank, told unless another one explains it."""
    if not (resolver.failures and isinstance(error, SecondaryError)):
        reports.add_repeated(error.diagnostic, error.bindings or "", resolver.rank)
    resolver.failures += 1


def located(error: EvalError, scope: Scope, env: Env) -> EvalError:
    """The same, with what the innermost loops around it had given their names."""
    if error.bindings is None:
        error.bindings = bindings(scope, env)
    return error
