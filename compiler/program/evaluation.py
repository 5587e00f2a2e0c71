"""The forwards of an Order with streams → the same, with what an evaluation holds in memory, and
with what keeps it within a limit that the step keeps."""

from dataclasses import replace

from stretto.compiler.order import Order
from stretto.compiler.problem.problem import EdgeKind, Holding, Problem
from stretto.compiler.program.issue import Issue
from stretto.compiler.program.limited import frees_before


def evaluated(forwards: Order, problem: Problem, issued: Issue) -> Order:
    """The Order of the forwards. Where the step, the whole `problem`, which is `issued` so, frees
    one activation before it takes another on a rank with a limit, its last F part comes before the
    other's first: what an evaluation can hold at once the step can, too."""
    lasts = _last_parts(problem)

    def last(holding: Holding) -> tuple[int, ...]:
        return (lasts[problem.operations[holding.taken_by][1:4]],)

    holdings = [one._replace(freed_by=last(one)) for one in problem.holdings]
    edges = [
        (a, b)
        for b, row in frees_before(problem, problem.holdings, issued, last).items()
        for a in row
    ]
    found = replace(
        problem,
        holdings=holdings,
        tail=problem.tail + [a for a, _ in edges],
        head=problem.head + [b for _, b in edges],
        lag=problem.lag + [0] * len(edges),
        why=problem.why + [EdgeKind.LOCAL] * len(edges),
    )
    return replace(forwards, problem=found)


def _last_parts(problem: Problem) -> dict[tuple[int, ...], int]:
    """The last F part of each stage, by pipeline, stage and micro-batch."""
    parts = problem.spec.parts
    return {
        one[1:4]: i
        for i, one in enumerate(problem.operations)
        if one.kind == "F" and one.part == len(parts[one.pipeline][one.stage]) - 1
    }
