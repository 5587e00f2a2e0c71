"""Lifetimes → slot numbers, as few as can be: of two that overlap, none gets the other's."""

from collections.abc import Sequence
from heapq import heappop, heappush


def assign(lifetimes: Sequence[tuple[int, int]]) -> list[int]:
    """A number for each (born, dies), both places in one list of instructions and born < dies.
    Whoever is born takes the lowest number that is free then, the first of equals first. Numbers
    go from 0; their count is the most lifetimes that overlap, and no assignment does with less.
    """
    numbers = [0] * len(lifetimes)
    free: list[int] = []
    living: list[tuple[int, int]] = []  # dies, number
    for i in sorted(range(len(lifetimes)), key=lambda i: lifetimes[i][0]):
        born, dies = lifetimes[i]
        while living and living[0][0] <= born:
            heappush(free, heappop(living)[1])
        numbers[i] = heappop(free) if free else len(living)
        heappush(living, (dies, numbers[i]))
    return numbers
