"""Two whole operations, cut into parts, become one sequence: what `X | Y` of an order means.

In: the links of both, the operation that begins first. Out: an `Interleaving`, one sequence of the
links of both. Promised: it is a shortest one for the two alone (both ready, all streams free, until
the last link has ended; of more than `MOST_EXACT` links, and of some dozens that are all unlike
where the last search leaves something out, the best that searches counted in steps find); it is
that of taking turns where no other is shorter, else turns after the fewest links going ahead that
make it a shortest; the same links give the same sequence.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from stretto.compiler.problem.interleaving_search import least_ticks, shorter
from stretto.compiler.problem.interruptible import interruptible
from stretto.compiler.problem.strands import Places, Strand, moves_of, span, turns

MOST_EXACT = 80
"""Up to so many links the last search is made."""

WIDEST = 500
"""So many beginnings the last search keeps for each number of links. It begins only where weight
gradients that can be interrupted may make the two shorter than what was found, and only for many
long links of unlike costs it has to leave beginnings out."""

WIDTHS = 8, 50
"""How many beginnings of a sequence the searches that come first keep for each number of links."""


class Interleaving(NamedTuple):
    """`sequence`: the links of both, those of the operation that begins as 0's; its `span` for the
    two alone, and that of taking `turns`, in ticks."""

    sequence: Places
    span: int
    turns: int


@lru_cache(maxsize=4096)
def interleave(begins: Strand, other: Strand) -> Interleaving:
    """The one sequence of the two: see the module."""
    strands = begins, other
    alternating = turns(strands)
    ticks = span(strands, alternating)
    bound = least_ticks(strands)
    if ticks == bound:
        return Interleaving(alternating, ticks, ticks)
    best, least = alternating, ticks
    for sequence in _ahead(strands):
        found = span(strands, sequence)
        if found < least:
            best, least = sequence, found
    for width in WIDTHS:
        searched = shorter(strands, least, width) if least > bound else None
        if searched is not None:
            best, least = searched, span(strands, searched)
    if least > bound and len(begins) + len(other) <= MOST_EXACT:
        best = _shortest(strands, least) or best
    return Interleaving(best, span(strands, best), ticks)


def _shortest(strands: Sequence[Strand], least: int) -> Places | None:
    """A shortest sequence; None if none ends in fewer than `least` ticks."""
    freer = interruptible(strands, least)
    if freer is None:
        return None
    bound, best = freer
    if best and span(strands, best) == bound:
        return best
    return shorter(strands, least, WIDEST)


def _ahead(strands: Sequence[Strand]) -> Iterator[Places]:
    """Turns after some moves of one operation went ahead: the fewest first, of as many those of the
    operation that begins."""
    many = [len(moves_of(strand)) for strand in strands]
    for ahead in range(1, max(many) + 1):
        for who in (0, 1):
            if ahead <= many[who]:
                yield turns(strands, ahead, who)
