"""Sequences of two operations that are cut into parts, slowly and by the words of the language: all
that there are, how long each takes, and which one a pair is."""

from collections.abc import Iterator
from functools import cache
from itertools import islice

from stretto.compiler.problem.interleave import interleave
from stretto.compiler.problem.strands import Strand

Item = tuple[int, int]
"""An operation, 0 or 1, and the index of one of its links."""

Two = tuple[Strand, Strand]


def needs(operations: Two, o: int, i: int) -> int | None:
    """The link of the operation that link i waits for."""
    before = [k for k in range(i) if not operations[o][k].weight]
    return before[-1] if before else None


def ticks(operations: Two, sequence: list[Item]) -> int:
    """When the last one ends, from the sequence alone."""
    ends: dict[Item, int] = {}
    for place, (o, i) in enumerate(sequence):
        stream, duration, _ = operations[o][i]
        need = needs(operations, o, i)
        waits = [0 if need is None else ends[o, need]]
        waits += [ends[q] for q in sequence[:place] if operations[q[0]][q[1]].stream == stream]
        ends[o, i] = max(waits) + duration
    return max(ends.values(), default=0)


def words(operations: Two) -> Iterator[list[Item]]:
    """Every sequence in which each link stands behind what it needs."""
    everything = [(o, i) for o in (0, 1) for i in range(len(operations[o]))]
    rest: list[list[Item]] = [[]]
    while rest:
        begun = rest.pop()
        if len(begun) == len(everything):
            yield begun
        for o, i in everything:
            need = needs(operations, o, i)
            if (o, i) not in begun and (need is None or (o, need) in begun):
                rest.append([*begun, (o, i)])


def in_turns(operations: Two, who: int = 0, ahead: int = 0) -> list[Item] | None:
    """Turns after `ahead` moves of one of the two; None if it has fewer."""
    moves: list[list[list[Item]]] = [[], []]
    for o in (0, 1):
        for i, link in enumerate(operations[o]):
            if link.weight and needs(operations, o, i) is not None:
                moves[o][-1].append((o, i))
            else:
                moves[o].append([(o, i)])
    if ahead > len(moves[who]):
        return None
    sequence = [moves[who].pop(0) for _ in range(ahead)]
    while moves[0] or moves[1]:
        sequence += [moves[o].pop(0) for o in (0, 1) if moves[o]]
    return [link for move in sequence for link in move]


class TooMany(Exception):
    """A pair has more sequences than can be tried here."""


@cache  # there are few kinds of pairs, and many pairs of each
def few(operations: Two, most: int) -> bool:
    """Whether the pair has so many sequences at most."""
    return len([*islice(words(operations), most + 1)]) <= most


@cache
def the_sequence(operations: Two, most: int | None = None) -> tuple[list[Item], int]:
    """The sequence of the pair whose first operation begins, and its ticks. Where none of those
    that the language names is a shortest, it is the compiler's own, which must be one. Raises
    `TooMany` where there are more than `most` to choose from."""
    if most is not None and not few(operations, most):
        raise TooMany
    every = list(words(operations))
    least = min(ticks(operations, word) for word in every)
    for ahead in range(sum(map(len, operations)) + 1):
        for who in (0, 1):
            one = in_turns(operations, who, ahead)
            if one is not None and ticks(operations, one) == least:
                return one, least
    chosen = list(interleave(*operations).sequence)
    assert chosen in every
    assert ticks(operations, chosen) == least
    return chosen, least
