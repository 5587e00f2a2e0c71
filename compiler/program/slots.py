"""Lifetimes → slot numbers, as few as can be: of two that overlap, none gets the other's. And how
many slots a list then holds at once."""

from collections.abc import Iterable, Sequence
from heapq import heappop, heappush, heappushpop
from typing import Any, NamedTuple

from stretto.compiler.program.program import NONE, Compute, Free, Receive


def assign(lifetimes: Sequence[tuple[int, int]]) -> list[int]:
    """A number for each (born, dies), both places in one list of instructions and born < dies.
    Whoever is born takes the lowest number that is free then, the first of equals first. Numbers
    go from 0; their count is the most lifetimes that overlap, and no assignment does with less.
    """
    many = len(lifetimes)
    numbers = [0] * many
    free: list[int] = []
    living: list[int] = []  # dies * many + number: heaps of plain numbers are quick
    for i in sorted(range(many), key=[born for born, _ in lifetimes].__getitem__):
        born, dies = lifetimes[i]
        now, number = (born + 1) * many, NONE
        while living and living[0] < now:
            if number != NONE:
                heappush(free, number)
            number = heappop(living) % many
        if free:
            number = heappop(free) if number == NONE else heappushpop(free, number)
        elif number == NONE:
            number = len(living)
        numbers[i] = number
        heappush(living, dies * many + number)
    return numbers


class MostLive(NamedTuple):
    """How many slots of a rank are live at once, at most: those `received` into, and those with
    results `made` there."""

    received: int
    made: int


def most_live(row: Iterable[Any]) -> MostLive:
    """The most slots that the list of one rank, its instructions, holds at once."""
    received: set[int] = set()
    made: set[int] = set()
    most_received = most_made = 0
    for one in row:
        kind = type(one)
        if kind is Free:
            received.discard(one.slot)
            made.discard(one.slot)
        elif kind is Receive:
            received.add(one.slot)
            if len(received) > most_received:
                most_received = len(received)
        elif kind is Compute and one.writes != NONE:
            made.add(one.writes)
            if len(made) > most_made:
                most_made = len(made)
    return MostLive(most_received, most_made)


def filled(row: Iterable[Any]) -> MostLive:
    """How many different slots the list of one rank receives into, and how many its computations
    write."""
    received: set[int] = set()
    made: set[int] = set()
    for one in row:
        kind = type(one)
        if kind is Compute:
            made.add(one.writes)
        elif kind is Receive:
            received.add(one.slot)
    made.discard(NONE)
    return MostLive(len(received), len(made))
