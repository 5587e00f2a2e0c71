"""A Problem with some of its split backwards run in full: an engine that overlaps a forward with a
full backward decides so for single micro-batches."""

from collections.abc import Mapping

from stretto.compiler.problem.problem import EdgeKind, Problem
from stretto.compiler.problem.spec import Costs


def fuse_backwards(problem: Problem, full: Mapping[int, int]) -> tuple[Problem, list[int]]:
    """The Problem in which every I of `full` and its W are one B, and the new number of each
    old operation. The edges of either are the B's."""
    if not full:
        return problem, list(range(len(problem.operations)))
    spec, costs = problem.spec, Costs(problem.spec)
    gone = set(full.values())
    new = [0] * len(problem.operations)
    kept: list[int] = []
    for i in range(len(problem.operations)):
        if i not in gone:
            new[i] = len(kept)
            kept.append(i)
    for i, w in full.items():
        new[w] = new[i]
    operations = [
        problem.operations[i]._replace(kind="B") if i in full else problem.operations[i]
        for i in kept
    ]
    free = [problem.free[i] + (problem.free[full[i]] if i in full else 0) for i in kept]
    edges = [
        (new[a], new[b], lag, why)
        for a, b, lag, why in zip(problem.tail, problem.head, problem.lag, problem.why, strict=True)
        if not (why is EdgeKind.LOCAL and new[a] == new[b])
    ]
    return (
        Problem(
            spec=spec,
            operations=operations,
            rank=[problem.rank[i] for i in kept],
            stream=[problem.stream[i] for i in kept],
            duration=[costs.of(operation) for operation in operations],
            alloc=[problem.alloc[i] for i in kept],
            free=free,
            overlaps_with=[problem.overlaps_with[i] for i in kept],
            at=[problem.at[i] for i in kept],
            tail=[a for a, _, _, _ in edges],
            head=[b for _, b, _, _ in edges],
            lag=[lag for _, _, lag, _ in edges],
            why=[why for _, _, _, why in edges],
        ),
        new,
    )
