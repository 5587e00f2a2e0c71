"""A sequence → the same with what repeats itself folded: `F F F B W B W` is `F` three times, then
`B W` twice. Greedy: from the left the block whose repetition saves most, inner repetitions after
outer ones.
"""

import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

LONGEST = 256  # steps of a block that is looked for
HEAD = 8  # steps by which places are found where a long block may stand again

MOST = sys.maxunicode  # different steps, each of which is a letter


class RepeatedSteps(NamedTuple):
    """A block that stands `times` times in a row."""

    times: int
    block: tuple["FoldedStep", ...]


FoldedStep = str | RepeatedSteps


def folded(steps: Sequence[str], longest: int = LONGEST) -> tuple[FoldedStep, ...]:
    """The sequence, folded."""
    letter = {step: chr(n) for n, step in enumerate(islice(dict.fromkeys(steps), MOST + 1))}
    if len(letter) > MOST:
        return folded(steps[:MOST], longest) + folded(steps[MOST:], longest)
    letters = "".join([letter[step] for step in steps])
    found: list[FoldedStep] = []
    at = 0
    while at < len(letters):
        period, times = _best(letters, at, longest)
        if times == 1:
            found.append(steps[at])
            at += 1
        else:
            block = steps[at : at + period]
            found.append(RepeatedSteps(times, folded(block, period // 2)))
            at += period * times
    return tuple(found)


def _best(letters: str, at: int, longest: int) -> tuple[int, int]:
    """The length of the block at `at` whose repetition saves most, and how often it stands."""
    best, saved = (1, 1), 0
    for period in _periods(letters, at, min(longest, (len(letters) - at) // 2)):
        block, times, end = letters[at : at + period], 1, at + period
        while letters.startswith(block, end):
            times, end = times + 1, end + period
        if period * (times - 1) > saved:
            best, saved = (period, times), period * (times - 1)
    return best


def _periods(letters: str, at: int, longest: int) -> Iterator[int]:
    """The lengths of blocks at `at` that may be repeated: where such a block ends the same letter
    stands again or, where it is long, the same `HEAD` letters, which few places have."""
    for period in range(1, min(longest, HEAD) + 1):
        if letters[at + period] == letters[at]:
            yield period
    head, last = letters[at : at + HEAD], at + longest + HEAD
    found = letters.find(head, at + HEAD + 1, last)
    while found >= 0:
        yield found - at
        found = letters.find(head, found + 1, last)
