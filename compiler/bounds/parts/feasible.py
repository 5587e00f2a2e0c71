"""The least that a rank must hold where stages are cut into parts: while a part of a micro-batch
runs, all that parts before it took and that parts behind it, or it, help to free."""

from typing import NamedTuple

from stretto.compiler.bounds.parts.graph import parts_graph, upto_of
from stretto.compiler.diagnostics.diagnostic import Diagnostic, Label, Rejected
from stretto.compiler.problem.figures import size_figure
from stretto.compiler.problem.problem import Problem
from stretto.compiler.problem.spec import show


class PartsNeed(NamedTuple):
    """The least limit in grains that a rank could have, and the operation during which it holds
    that much; -1 where it holds nothing."""

    grains: int
    during: int


def feasible_parts(problem: Problem) -> None:
    """Refuses limits below what every order needs. Raises `Rejected`: one diagnostic
    (`limit-too-small`) for each `limit` that is too small."""
    spec = problem.spec
    short: dict[int, list[tuple[int, PartsNeed]]] = {}
    for rank, (limit, need) in enumerate(zip(spec.limits, parts_needs(problem), strict=True)):
        if limit is not None and need.grains > limit.grains:
            short.setdefault(limit.at, []).append((rank, need))
    if short:
        raise Rejected([_diagnostic(problem, ranks) for ranks in short.values()])


def parts_needs(problem: Problem) -> list[PartsNeed]:
    """For every rank the least limit that could be met."""
    graph = parts_graph(problem)
    upto = upto_of(graph)
    found = [PartsNeed(0, -1)] * problem.spec.ranks
    for rank in range(problem.spec.ranks):
        own = [
            holding
            for holding in problem.holdings
            if problem.rank[holding.taken_by] == rank and holding.taken_by in upto
        ]
        for x, before in upto.items():
            held = sum(
                grains
                for grains, taken_by, freed_by in own
                if before >> taken_by & 1 and any(upto[y] >> x & 1 for y in freed_by)
            )
            if held > found[rank].grains:
                found[rank] = PartsNeed(held, x)
    return found


def _diagnostic(problem: Problem, ranks: list[tuple[int, PartsNeed]]) -> Diagnostic:
    """The refusal of one limit, about the rank that needs most of those that cannot meet it."""
    spec = problem.spec
    rank, need = max(ranks, key=lambda one: one[1].grains)
    limit = spec.limits[rank]
    assert limit is not None
    least = size_figure(spec, need.grains, "up")  # so that it is enough where it is allowed
    given = size_figure(spec, limit.grains, "down")
    during = show(spec, problem.operations[need.during])
    notes = [f"of one micro-batch alone it holds that much while `{during}` runs"]
    others = [f"rank {r}" for r, other in ranks if r != rank and other.grains == need.grains]
    if others:
        notes.append(f"so it is on {', '.join(others)}")
    return Diagnostic(
        code="limit-too-small",
        message=f"rank {rank} must hold {least} of activations at once and may hold {given}",
        labels=(Label(spec.spans[limit.at], "the limit"),),
        notes=tuple(notes),
        help=f"allow at least {least}",
    )
