"""A rank's list → the list with what is done once for each of its stages beside the computations:
weights are gathered (`unshard weights`), gradients are averaged with those of other pipelines
(`reduce gradients`). What a Spec does not ask for is not added.

Weights: at the head of the list, in the order in which the rank's first forwards need them, so that
each is under way as early as can be. Gradients: right behind the last instruction that changes
those of the stage, a `B`, a `W` or a sum, and what leaves it for other ranks.
"""

from collections.abc import Sequence

from msgspec.structs import replace

from stretto.compiler.problem.computations import computations, has_collectives
from stretto.compiler.problem.kinds import KINDS
from stretto.compiler.problem.spec import Spec
from stretto.compiler.program.program import (
    BeginReduction,
    BeginUnshard,
    Compute,
    Instruction,
    Program,
    Reduce,
    Reduction,
    Send,
)


def with_collectives(
    spec: Spec, reductions: Sequence[Reduction], rank: int, own: Sequence[Instruction]
) -> tuple[Instruction, ...]:
    """The list of a `train` Program, its sums included. What it had of these before is placed
    anew."""
    if not has_collectives(spec):
        return tuple(own)
    found: list[Instruction] = [one for one in own if not isinstance(one, BeginReduction)]
    if spec.reduce_gradients:
        found = _reduced(spec, reductions, rank, found)
    return with_gathers(spec, found)


def with_gathers(spec: Spec, own: Sequence[Instruction]) -> tuple[Instruction, ...]:
    """The list of any Program with the weights that its forwards need."""
    if not spec.unshard_weights:
        return tuple(own)
    found = [one for one in own if not isinstance(one, BeginUnshard)]
    wanted = {(p, s) for p, s, _ in spec.unshard_weights}
    first: dict[tuple[int, int], None] = {}
    for one in found:
        if isinstance(one, Compute) and KINDS[one.operation.kind].leaves == "activation":
            first.setdefault(one.operation[1:3])
    return (*(BeginUnshard(*stage) for stage in first if stage in wanted), *found)


def without_collectives(program: Program) -> Program:
    """The Program of its computations alone."""
    if not has_collectives(program.spec):
        return program
    ranks = tuple(
        tuple(one for one in own if not isinstance(one, BeginReduction | BeginUnshard))
        for own in program.ranks
    )
    return replace(program, spec=computations(program.spec), ranks=ranks)


def _reduced(
    spec: Spec, reductions: Sequence[Reduction], rank: int, own: list[Instruction]
) -> list[Instruction]:
    wanted = {(p, s) for p, s, _ in spec.reduce_gradients}
    last: dict[tuple[int, int], int] = {}
    for at, one in enumerate(own):
        if isinstance(one, Compute) and one.operation.kind in ("B", "W"):
            last[one.operation[1:3]] = at
        elif isinstance(one, Reduce):
            for copy in reductions[one.reduction].copies:
                if copy.rank == rank:
                    last[copy[:2]] = at
    behind: dict[int, list[tuple[int, int]]] = {}
    for stage, at in last.items():
        if stage in wanted:
            while at + 1 < len(own) and isinstance(own[at + 1], Send):
                at += 1
            behind.setdefault(at, []).append(stage)
    found: list[Instruction] = []
    for at, one in enumerate(own):
        found.append(one)
        found += [BeginReduction(*stage) for stage in sorted(behind.get(at, ()))]
    return found
