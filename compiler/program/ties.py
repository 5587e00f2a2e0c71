"""Program and ties → Program. What a schedule cannot know, a model can have: one parameter in
several places. Here the sums over its holders are added, as instructions like all others, which the
proof checks: at the end of the lists, behind the sums over copies, on every rank in the order of
the ties. Without ties nothing changes.

A rank that has only its own list adds the same to it: `tie_reductions`, `tie_sums` and `tied_list`
need no more.
"""

from collections.abc import Sequence

from msgspec.structs import replace

from stretto.compiler.problem.spec import Spec, Tie
from stretto.compiler.program.collectives import with_collectives
from stretto.compiler.program.lists import RankList
from stretto.compiler.program.program import Copy, Program, Reduce, Reduction
from stretto.compiler.program.stream_sums import with_sums


def with_ties(program: Program, ties: tuple[Tie, ...]) -> Program:
    """The Program of a Spec with these ties. One that has ties already must have the same:
    `ValueError`."""
    if program.spec.ties == ties:
        return program
    if program.spec.ties:
        raise ValueError("the program was made for other ties")
    spec = replace(program.spec, ties=ties)
    if program.name != "train":
        return replace(program, spec=spec)
    before, sums = len(program.reductions), tie_reductions(spec)
    every = program.reductions + sums
    rows = [
        tied_list(
            spec,
            every,
            rank,
            RankList(list(own), list(program.streams[rank]) if program.streams else []),
            tie_sums(sums, before, rank),
        )
        for rank, own in enumerate(program.ranks)
    ]
    ranks = tuple([tuple(row.instructions) for row in rows])
    streams = tuple([tuple(row.streams) for row in rows]) if program.streams else ()
    return replace(program, spec=spec, reductions=every, ranks=ranks, streams=streams)


def tied_list(
    spec: Spec, reductions: Sequence[Reduction], rank: int, own: RankList, sums: Sequence[Reduce]
) -> RankList:
    """One rank's list with these sums behind it; `reductions` are those of the ties, too."""
    if spec.streams:
        return with_sums(spec, reductions, rank, own, sums)
    return RankList(list(with_collectives(spec, reductions, rank, (*own.instructions, *sums))))


def tie_reductions(spec: Spec) -> tuple[Reduction, ...]:
    """A sum for each tie with several holders, one of which at least is trained."""
    found = []
    for tie in spec.ties:
        pipelines = {place.pipeline for place in tie.places}
        trained = not all(spec.pipelines[p].forward_only for p in pipelines)
        if len(tie.holders) > 1 and trained:
            copies = [Copy(p, s, spec.pipelines[p].stages[s].rank) for p, s, _ in tie.places]
            found.append(Reduction(tuple(dict.fromkeys(copies)), tie.name))
    return tuple(found)


def tie_sums(sums: Sequence[Reduction], before: int, rank: int) -> list[Reduce]:
    """The instructions of a rank for these sums, which stand behind `before` others in the
    Program's table."""
    return [
        Reduce(number)
        for number, reduction in enumerate(sums, before)
        if any(copy.rank == rank for copy in reduction.copies)
    ]
