"""The written orders of stages that are cut into parts, rank by rank. Streams do not wait for each
other, so an order may let a part of one stream stand before one of another that it needs, and the
rank would still finish; but the list is the sequence in which one thread issues it, and so nobody
may stand in it before something of its rank that it needs.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from stretto.compiler.diagnostics.diagnostic import Diagnostic, Label
from stretto.compiler.problem.problem import EdgeKind, Problem
from stretto.compiler.problem.spec import show
from stretto.compiler.problem.topological import topological


def too_early(problem: Problem) -> list[Diagnostic]:
    """For every rank whose order has a part before one that it needs, directly or by way of other
    ranks, the diagnostic `listed-too-early` of the first such part."""
    rows = [[unit[0] for unit in units] for units in problem.written]
    if not any(rows) or _one_sequence(problem, rows):
        return []
    found = (_first(problem, row) for row in rows)
    return [_sentence(problem, *pair) for pair in found if pair is not None]


def _one_sequence(problem: Problem, rows: Sequence[Sequence[int]]) -> bool:
    """Whether all ranks could run their lists with one stream each: then nothing is too early."""
    after: list[list[int]] = [[] for _ in problem.operations]
    waits = [0] * len(problem.operations)
    for a, b in _edges(problem, rows):
        after[a].append(b)
        waits[b] += 1
    return len(topological(after, waits)) == len(problem.operations)


def _edges(problem: Problem, rows: Sequence[Sequence[int]]) -> Iterator[tuple[int, int]]:
    yield from zip(problem.tail, problem.head, strict=True)
    for row in rows:
        yield from pairwise(row)


def _first(problem: Problem, row: Sequence[int]) -> tuple[int, int] | None:
    """The first of the list that stands before one of the list that it needs, and that one."""
    position = {i: at for at, i in enumerate(row)}
    latest = [-1] * len(problem.operations)  # in the list, of all that an operation needs
    before: list[list[int]] = [[] for _ in problem.operations]
    for a, b, why in zip(problem.tail, problem.head, problem.why, strict=True):
        if why is not EdgeKind.ORDER:
            before[b].append(a)
    for i in problem.topological():
        latest[i] = max((max(latest[a], position.get(a, -1)) for a in before[i]), default=-1)
    for at, i in enumerate(row):
        if latest[i] > at:
            return i, row[latest[i]]
    return None


def _sentence(problem: Problem, early: int, needed: int) -> Diagnostic:
    spec = problem.spec
    first, second = (show(spec, problem.operations[i]) for i in (early, needed))
    return Diagnostic(
        code="listed-too-early",
        message=f"rank {problem.rank[early]} lists `{first}` before `{second}`, which it needs",
        labels=(
            Label(spec.spans[problem.at[early]], "this stands too early"),
            Label(spec.spans[problem.at[needed]], f"`{second}`"),
        ),
        help=f"write `{second}` first",
    )
