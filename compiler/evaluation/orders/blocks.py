"""Order blocks, compiled once to closures. Running them for a rank makes its `Taker` take operation
after operation. At hand (`env`) are the Taker first, the rank second, then whatever has a name.
"""

from collections.abc import Callable
from typing import assert_never

from msgspec import Struct

from stretto.compiler.diagnostics.diagnostic import Label
from stretto.compiler.diagnostics.source import Span
from stretto.compiler.evaluation.expressions.compile import (
    compile_expression,
    compile_whole,
    silent,
)
from stretto.compiler.evaluation.expressions.ranges import bindings, compile_ranges, walk
from stretto.compiler.evaluation.expressions.scope import Broken, QueueSlot, Scope
from stretto.compiler.evaluation.expressions.values import Env, show, truth
from stretto.compiler.evaluation.orders.references import Ask, Facts, compile_mention
from stretto.compiler.evaluation.orders.resolve import Asked, Taker
from stretto.compiler.evaluation.reports import (
    MOST_PER_RUN,
    Consequence,
    Reports,
    Stop,
    TooMuch,
    diagnosis,
    stop,
)
from stretto.compiler.language import syntax as s
from stretto.compiler.problem.spec import Unit

Run = Callable[[Env], None]
TAKER, RANK = 0, 1


class Abandon(Exception):
    """So much went wrong on this rank that going on tells nothing new."""


class QueueValue(Struct):
    """A queue, and how many of its operations were taken."""

    items: list[tuple[Asked, ...]]
    made: Span
    taken: int = 0


def compile_order(statement: s.OrderRank, outer: Scope, facts: Facts) -> tuple[Run, Scope]:
    """The order of any rank, and the scope whose size is that of the values at hand."""
    scope = outer.frame()
    assert scope.reserve() == TAKER
    assert scope.slot(statement.rank, varies=True) == RANK
    return _Blocks(facts).block(statement.body, scope, None), scope


class _Blocks:
    def __init__(self, facts: Facts):
        self.facts = facts
        self.reports = facts.reports

    def block(self, block: s.Block, scope: Scope, into: int | None) -> Run:
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

    def step(self, step: s.Step, scope: Scope, into: int | None) -> Run:
        match step:
            case s.Mention():
                ask = compile_mention(step, scope, self.facts)
                return self.listed(into, ask) if into is not None else self.single(step, ask, scope)
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

    def single(self, mention: s.Mention, ask: Ask, scope: Scope) -> Run:
        at = self.facts.intern(mention.span)

        def run(env: Env) -> None:
            taker: Taker = env[TAKER]
            try:
                operation = taker.take(ask(env), at)
                if operation is not None:
                    taker.units.append(Unit((operation,), at))
            except Stop as stopped:
                self.failed(stopped, scope, env)

        return run

    def pair(self, step: s.Pair, scope: Scope, into: int | None) -> Run:
        halves = [self.half(half, scope, into) for half in (step.first, step.second)]
        if isinstance(step.second, s.Mention):
            self.overlaps(step.second.kind, step.span)
        if into is not None:

            def listed(env: Env) -> None:
                (first,), (second,) = halves[0](env), halves[1](env)
                env[into].items.append((first, second))

            return listed
        at = self.facts.intern(step.span)

        def run(env: Env) -> None:
            try:
                asked = [*halves[0](env), *halves[1](env)]
                self.unit(env[TAKER], asked, at, step.span)
            except Stop as stopped:
                self.failed(stopped, scope, env)

        return run

    def half(
        self, half: s.Mention | s.Next, scope: Scope, into: int | None
    ) -> Callable[[Env], tuple[Asked, ...]]:
        """What a half of a pair asks for."""
        if isinstance(half, s.Mention):
            ask = compile_mention(half, scope, self.facts)
            return lambda env: (ask(env),)
        if into is not None:
            self.no_next(half)
        draw = self.draw(half, scope)

        def run(env: Env) -> tuple[Asked, ...]:
            item = draw(env)
            assert item is not None
            if len(item) > 1:
                message = f"the next of `{half.queue.text}` is a pair already"
                raise stop("wrong-pair", message, half.span, Label(item[0].place, "listed here"))
            return item

        return run

    def unit(self, taker: Taker, asked: list[Asked], at: int, span: Span) -> None:
        """Takes one operation, or two that overlap."""
        if len(asked) == 1:
            operation = taker.take(asked[0], at)
            if operation is not None:
                taker.units.append(Unit((operation,), at))
            return
        first, second = asked
        if first.kind != "F" or second.kind not in self.facts.overlap:
            message = f"`{first.kind} | {second.kind}` cannot overlap as one unit here"
            raise stop("wrong-pair", message, span, help="overlap F | B")
        forward, backward = taker.take(first, at), taker.take(second, at)
        assert forward is not None and backward is not None
        if (forward.pipeline, forward.microbatch) == (backward.pipeline, backward.microbatch):
            name = taker.pipelines[forward.pipeline].name
            raise stop(
                "wrong-pair",
                f"both halves are of micro-batch {forward.microbatch} of `{name}`: its backward "
                "needs its forward",
                span,
                help="overlap two different micro-batches",
            )
        taker.units.append(Unit((forward, backward), at))

    def overlaps(self, kind: str, span: Span) -> None:
        if kind not in self.facts.overlap:
            message = f"nothing says that an `F` may overlap with a `{kind}`"
            help_ = f"overlap F | {kind}"
            self.reports.once(help_, diagnosis("no-overlap", message, span, help=help_))

    # ---- Queues

    def listed(self, into: int, ask: Ask) -> Run:
        def run(env: Env) -> None:
            env[into].items.append((ask(env),))

        return run

    def queue(self, step: s.Queue, scope: Scope) -> Run:
        inside = scope.inner()
        ranges = compile_ranges(step.ranges, inside)
        ask = compile_mention(step.mention, inside, self.facts)
        index = self.new_queue(step.name, scope)
        budget, made = self.facts.budget, step.name.span

        def run(env: Env) -> None:
            try:
                env[index] = QueueValue([(ask(env),) for _ in walk(ranges, env, budget)], made)
            except Stop as stopped:
                raise located(stopped, inside, env) from None

        return run

    def queue_block(self, step: s.QueueBlock, scope: Scope) -> Run:
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

    def next(self, step: s.Next, scope: Scope, into: int | None) -> Run:
        if into is not None:
            self.no_next(step)
        draw = self.draw(step, scope)
        at = self.facts.intern(step.span)

        def run(env: Env) -> None:
            try:
                item = draw(env)
                if item is not None:
                    self.unit(env[TAKER], list(item), at, step.span)
            except Stop as stopped:
                self.failed(stopped, scope, env)

        return run

    def draw(self, step: s.Next, scope: Scope) -> Callable[[Env], tuple[Asked, ...] | None]:
        """The next item of a queue, spoken of as standing where it is taken; None if the queue is
        empty and the step optional."""
        found = scope.find(step.queue.text)
        name, span = step.queue.text, step.span
        if not isinstance(found, QueueSlot):
            if found is None:
                scope.unknown(step.queue, "no queue has this name")
            elif not isinstance(found, Broken):
                self.reports.add(
                    diagnosis(
                        "wrong-kind",
                        f"`{name}` is not a queue",
                        Label(step.queue.span),
                        Label(found.span, "it is defined here"),
                        help=f"queue {name} = F[…] for …",
                    )
                )
            return silent
        place = found.place

        def run(env: Env) -> tuple[Asked, ...] | None:
            queue: QueueValue = env[place]
            if queue.taken == len(queue.items):
                if step.optional:
                    return None
                raise stop(
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

    def repeat(self, step: s.Repeat, scope: Scope, into: int | None) -> Run:
        count = compile_whole(step.count, scope, "a number of repetitions")
        inside = scope.inner()
        slot = inside.slot(step.name, varies=True) if step.name else inside.reserve()
        body = self.block(step.body, inside, into)
        budget, span = self.facts.budget, step.count.span

        def run(env: Env) -> None:
            try:
                times = count(env)
                if times < 0:
                    message = f"this would repeat {show(times)} times"
                    help_ = "write `max(0, …)` where nothing is to be repeated then"
                    raise Consequence(diagnosis("negative-repeat", message, span, help=help_))
                budget.spend(times, span)
            except Stop as stopped:
                raise located(stopped, scope, env) from None
            for k in range(times):
                env[slot] = k
                body(env)

        return run

    def loop(self, step: s.Loop, scope: Scope, into: int | None) -> Run:
        inside = scope.inner()
        ranges = compile_ranges(step.ranges, inside)
        body = self.block(step.body, inside, into)
        budget = self.facts.budget

        def run(env: Env) -> None:
            rounds = walk(ranges, env, budget)
            while True:
                try:
                    next(rounds)
                except StopIteration:
                    return
                except Stop as stopped:
                    raise located(stopped, inside, env) from None
                body(env)

        return run

    def if_(self, step: s.If, scope: Scope, into: int | None) -> Run:
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
                except Stop as stopped:
                    raise located(stopped, scope, env) from None
                if holds:
                    body(env)
                    return
            if otherwise is not None:
                otherwise(env)

        return run

    def let(self, step: s.Let, scope: Scope) -> Run:
        value = compile_expression(step.value, scope)
        index = scope.slot(step.name)

        def run(env: Env) -> None:
            try:
                env[index] = value(env)
            except Stop as stopped:
                raise located(stopped, scope, env) from None

        return run

    # ---- What goes wrong

    def failed(self, stopped: Stop, scope: Scope, env: Env) -> None:
        """Records a step that could not be taken; the rank goes on with the next one."""
        if isinstance(stopped, TooMuch):
            raise stopped
        taker: Taker = env[TAKER]
        record(located(stopped, scope, env), taker, self.reports)
        if taker.failures >= MOST_PER_RUN:
            raise Abandon


def record(stopped: Stop, taker: Taker, reports: Reports) -> None:
    """A mistake in the order of a rank, told unless another one explains it."""
    if not (taker.failures and isinstance(stopped, Consequence)):
        reports.happened(stopped.diagnostic, stopped.bindings or "", taker.rank)
    taker.failures += 1


def located(stopped: Stop, scope: Scope, env: Env) -> Stop:
    """The same, with what the innermost loops around it had given their names."""
    if stopped.bindings is None:
        stopped.bindings = bindings(scope, env)
    return stopped
