"""`for i in a .. b, j in …` outside of order blocks: compiled once, then walked."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from stretto.compiler import syntax as s
from stretto.compiler.evaluate.expressions import compile_whole
from stretto.compiler.evaluate.reports import TooMuch, diagnosis
from stretto.compiler.evaluate.scope import Scope
from stretto.compiler.evaluate.values import Code
from stretto.compiler.source import Span


class Budget:
    """How many rounds loops may still make. One budget serves a whole file."""

    def __init__(self, rounds: int):
        self.most = rounds
        self.rounds = rounds

    def spend(self, rounds: int, span: Span) -> None:
        """Raises `TooMuch` before the rounds are made, if there are too many."""
        if rounds > self.rounds:
            raise TooMuch(
                diagnosis(
                    "too-large",
                    f"the loops of this file make more than {self.most:,} rounds",
                    span,
                    notes=(f"{rounds:,} would begin here",) if 1 < rounds < 10**18 else (),
                    help="`--max-ops` allows more",
                )
            )
        self.rounds -= rounds


class RangeCode(NamedTuple):
    slot: int
    first: Code
    last: Code
    span: Span


def compile_ranges(ranges: tuple[s.Range, ...], scope: Scope) -> list[RangeCode]:
    """Defines the ranges' names in the scope; later ranges may use earlier names."""
    codes = []
    for r in ranges:
        first = compile_whole(r.first, scope, "the start of a range")
        last = compile_whole(r.last, scope, "the end of a range")
        codes.append(RangeCode(scope.slot(r.name, varies=True), first, last, r.span))
    return codes


def walk(codes: list[RangeCode], env: list[Any], budget: Budget) -> Iterator[None]:
    """Gives the names their values in the environment, the last name fastest; one round each."""
    if not codes:
        yield
        return
    code, rest = codes[0], codes[1:]
    first, last = code.first(env), code.last(env)
    if first < last:
        budget.spend(last - first, code.span)
    slot = code.slot
    for value in range(first, last):
        env[slot] = value
        if rest:
            yield from walk(rest, env, budget)
        else:
            yield
