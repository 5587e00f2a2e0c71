"""Rows of numbers that are asked for the least of a stretch, or for the first number below some
level, again and again: each time in about the square root of the row, not in all of it."""

from collections.abc import Sequence

WIDTH = 512
"""Numbers in a block, of which the least is known."""


class SearchedRow:
    """Numbers by place. In a block of `WIDTH` they are looked through, blocks are by their
    least."""

    def __init__(self, numbers: Sequence[int]):
        self.numbers = list(numbers)
        self.blocks = [min(self.numbers[k : k + WIDTH]) for k in range(0, len(self.numbers), WIDTH)]

    def least(self, first: int, end: int) -> int:
        """The place of the least number from place `first` to before `end`, the first of equals;
        `end` where that is none."""
        begin, stop = -(-first // WIDTH), end // WIDTH
        if begin >= stop:
            return min(end, self._within(first, end))
        block = self.blocks.index(min(self.blocks[begin:stop]), begin, stop)
        choices = (
            self._within(first, begin * WIDTH),
            self._within(block * WIDTH, (block + 1) * WIDTH),
            self._within(stop * WIDTH, end),
        )
        return min((k for k in choices if k < end), key=lambda k: (self.numbers[k], k))

    def _within(self, first: int, end: int) -> int:
        row = self.numbers[first:end]
        return first + row.index(min(row)) if row else len(self.numbers)

    def first_below(self, first: int, end: int, level: int) -> int:
        """The first place from `first` to before `end` whose number is less than the level; `end`
        where none is."""
        place = first
        while place < end:
            block = place // WIDTH
            until = min(end, (block + 1) * WIDTH)
            if self.blocks[block] < level:
                for k in range(place, until):
                    if self.numbers[k] < level:
                        return k
            place = until
        return end
