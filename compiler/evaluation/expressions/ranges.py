"""`for i in a .. b, j in …`: compiled once, then iterated within the budget of the file."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from stretto.compiler.diagnostics.source import Span
from stretto.compiler.evaluation.expressions.compile import compile_whole
from stretto.compiler.evaluation.expressions.names import names_in
from stretto.compiler.evaluation.expressions.scope import Scope
from stretto.compiler.evaluation.expressions.values import Code, Env, show
from stretto.compiler.evaluation.reports import (
    MOST_PER_RANK,
    AlreadyReported,
    EvalError,
    Reports,
    TooManyRounds,
    diagnosis,
)
from stretto.compiler.language import syntax as s


class LoopBudget:
    """How many rounds loops may still make, for the whole of a file."""

    def __init__(self, rounds: int):
        self.most = rounds
        self.rounds = rounds

    def spend(self, rounds: int, span: Span) -> None:
        """Raises `TooManyRounds` before the rounds are made, if there are too many."""
        if rounds > self.rounds:
            raise TooManyRounds(
                diagnosis(
                    "too-large",
                    f"the loops of this file make more than {self.most:,} rounds",
                    span,
                    notes=(f"{rounds:,} would begin here",) if 1 < rounds < 10**18 else (),
                    help="`--max-ops` allows more",
                )
            )
        self.rounds -= rounds

    def foresee(self, rounds: int, span: Span) -> None:
        """Raises `TooManyRounds` where loops that begin now will make so many rounds and those are
        too many; else nothing is spent."""
        left = self.rounds
        self.spend(rounds, span)
        self.rounds = left


class ForeseenRounds(NamedTuple):
    """How many rounds nested ranges make, as far as that is known before the first: all together,
    and of the last one (0 where that is not known)."""

    all: int
    last: int


class CompiledRange(NamedTuple):
    """`name in first .. last`: the slot of the name, and the code of its ends. `apart`: these are
    the same whatever the values of the ranges before it."""

    slot: int
    first: Code
    last: Code
    span: Span
    apart: bool


def compile_ranges(ranges: tuple[s.Range, ...], scope: Scope) -> list[CompiledRange]:
    """Defines the ranges' names in the scope; later ranges may use earlier names."""
    codes = []
    before: set[str] = set()
    for r in ranges:
        first = compile_whole(r.first, scope, "the start of a range")
        last = compile_whole(r.last, scope, "the end of a range")
        apart = before.isdisjoint([*names_in(r.first), *names_in(r.last)])
        before.add(r.name.text)
        slot = scope.define_slot(r.name, varies=True)
        codes.append(CompiledRange(slot, first, last, r.span, apart))
    return codes


def foreseen(codes: list[CompiledRange], env: Env) -> ForeseenRounds:
    """The rounds of nested ranges, as far as they do not depend on each other."""
    total, last = 0, 1
    for code in codes:
        if not code.apart:
            return ForeseenRounds(total, 0)
        try:
            last *= max(0, code.last(env) - code.first(env))
        except (EvalError, AlreadyReported):  # told when the range is reached
            return ForeseenRounds(total, 0)
        total += last
        if not last:
            break
    return ForeseenRounds(total, last)


def iterate(codes: list[CompiledRange], env: Env, budget: LoopBudget) -> Iterator[None]:
    """Gives the names their values in the environment, one round after the other, the last name
    fastest. Raises `TooManyRounds` and `EvalError`."""
    if not codes:
        yield
        return
    if len(codes) > 1:
        budget.foresee(foreseen(codes, env).all, codes[-1].span)
    last, open_ = len(codes) - 1, [_values(codes[0], env, budget)]
    while open_:
        depth = len(open_) - 1
        slot = codes[depth].slot
        for env[slot] in open_[-1]:
            if depth < last:
                open_.append(_values(codes[depth + 1], env, budget))
                break
            yield
        else:
            open_.pop()


def _values(code: CompiledRange, env: Env, budget: LoopBudget) -> Iterator[int]:
    first, last = code.first(env), code.last(env)
    if first < last:
        budget.spend(last - first, code.span)
    return iter(range(first, last))


def for_each(
    codes: list[CompiledRange],
    scope: Scope,
    budget: LoopBudget,
    reports: Reports,
    action: Callable[[Env], None],
) -> None:
    """Runs the action for every binding of the ranges, in a new environment. An error is reported
    with its binding and the next binding tried, up to `MOST_PER_RANK` errors."""
    env: Env = [None] * scope.size
    failures = 0
    try:
        for _ in iterate(codes, env, budget):
            try:
                action(env)
            except TooManyRounds:
                raise
            except EvalError as error:
                reports.add_repeated(error.diagnostic, bindings(scope, env))
                failures += 1
                if failures >= MOST_PER_RANK:
                    return
    except EvalError as error:
        reports.add_repeated(error.diagnostic, bindings(scope, env))
    except AlreadyReported:
        pass


def bindings(scope: Scope, env: Env) -> str:
    """`r = 3, k = 2`: the values that the loops around a place have given their names."""
    return ", ".join(
        f"{name} = {show(env[index])}" for name, index in scope.varying() if env[index] is not None
    )
