"""Which family of placements an SearchInstance has."""

from collections.abc import Sequence
from dataclasses import dataclass

from stretto.compiler.order.kernels.instance import SearchInstance
from stretto.compiler.order.kernels.op_classes import forward_of


@dataclass(frozen=True, slots=True)
class Placement:
    """The `family`: a `chain` has one stage on each rank, a `loop` goes round several times, a
    `vee` down and back up, `both` are two chains in opposite directions. The stages of each
    pipeline."""

    family: str
    lines: list[list[int]]


def placement_of(instance: SearchInstance) -> Placement | None:
    """The placement, if it is of a family that schedules have been published for."""
    lines: list[list[int]] = [[] for _ in instance.problem.spec.pipelines]
    for g, (p, _) in enumerate(instance.stages):
        lines[p].append(g)
    if any(line.feeds for line in instance.problem.spec.pipelines) or len(lines) > 2:
        return None
    ranks = [[instance.rank[forward_of(g)] for g in line] for line in lines]
    once = ranks[0][: instance.ranks]
    if sorted(once) != list(range(instance.ranks)):
        return None
    if len(lines) == 2:
        opposite = ranks[0] == once and ranks[1] == once[::-1]
        return Placement("both", lines) if opposite else None
    if ranks[0] == once:
        return Placement("chain", lines)
    if ranks[0] == once + once[::-1]:
        return Placement("vee", lines)
    rounds = len(ranks[0]) // instance.ranks
    return Placement("loop", lines) if ranks[0] == once * rounds else None


def ranks_of(instance: SearchInstance, line: Sequence[int]) -> list[int]:
    """The rank at each place of the chain."""
    return [instance.rank[forward_of(g)] for g in line[: instance.ranks]]
