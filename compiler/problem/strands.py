"""Operations cut into parts, as the interleaving of two of them sees them: links with streams and
ticks, without names."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple


class StrandLink(NamedTuple):
    """One part of an operation: its stream and its ticks. A `weight` gradient needs the last link
    before it that is none, which is on its own stream; of a whole W, where there is none, it needs
    nothing. No link needs it. Any other link needs the last one before it that is no weight
    gradient."""

    stream: int
    ticks: int
    weight: bool = False


Strand = tuple[StrandLink, ...]
"""A whole operation: its links in the sequence that they have where it runs alone."""

Places = tuple[tuple[int, int], ...]
"""A sequence of the links of two operations: for each place the operation, 0 or 1, and the index of
its link."""


def span(strands: Sequence[Strand], sequence: Iterable[tuple[int, int]]) -> int:
    """Ticks until the last link of the sequence has ended, if nothing else runs: each starts when
    the one before it on its stream, and what it needs, have ended."""
    free: dict[int, int] = {}
    ready = [0, 0]
    for o, i in sequence:
        stream, ticks, weight = strands[o][i]
        end = free.get(stream, 0)
        if not weight:
            end = ready[o] = max(end, ready[o]) + ticks
        else:
            end += ticks
        free[stream] = end
    return max(free.values(), default=0)


def turns(strands: Sequence[Strand], ahead: int = 0, who: int = 0) -> Places:
    """First `ahead` moves of operation `who`; then the two take turns, operation 0 first, and at
    last comes what is left of the longer one."""
    moves = [moves_of(strand) for strand in strands]
    sequence = [(who, i) for move in moves[who][:ahead] for i in move]
    rest = [moves[o][ahead if o == who else 0 :] for o in (0, 1)]
    for k in range(max(map(len, rest))):
        for o in (0, 1):
            if k < len(rest[o]):
                sequence += [(o, i) for i in rest[o][k]]
    return tuple(sequence)


def moves_of(strand: Strand) -> list[list[int]]:
    """What an operation runs in one turn: a link, with the weight gradient that needs it. Of a
    whole W each link is a turn."""
    moves: list[list[int]] = []
    for i, link in enumerate(strand):
        if link.weight and moves and not strand[moves[-1][0]].weight:
            moves[-1].append(i)
        else:
            moves.append([i])
    return moves
