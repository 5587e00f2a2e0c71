"""A sequence → the same with what repeats itself folded: `F F F B W B W` is `F` three times, then
`B W` twice. Greedy: from the left the block whose repetition saves most, inner repetitions after
outer ones.
"""

from collections.abc import Sequence
from typing import NamedTuple

LONGEST = 256  # steps of a block that is looked for


class RepeatedSteps(NamedTuple):
    """A block that stands `times` times in a row."""

    times: int
    block: tuple["FoldedStep", ...]


FoldedStep = str | RepeatedSteps


def folded(steps: Sequence[str], longest: int = LONGEST) -> tuple[FoldedStep, ...]:
    """The sequence, folded."""
    numbers: dict[str, int] = {}
    tokens = [numbers.setdefault(step, len(numbers)) for step in steps]
    found: list[FoldedStep] = []
    at = 0
    while at < len(tokens):
        period, times = _best(tokens, at, longest)
        if times == 1:
            found.append(steps[at])
            at += 1
        else:
            block = steps[at : at + period]
            found.append(RepeatedSteps(times, folded(block, period // 2)))
            at += period * times
    return tuple(found)


def _best(tokens: Sequence[int], at: int, longest: int) -> tuple[int, int]:
    """The length of the block at `at` whose repetition saves most, and how often it stands."""
    best, saved = (1, 1), 0
    first = tokens[at]
    for period in range(1, min(longest, (len(tokens) - at) // 2) + 1):
        if tokens[at + period] != first:
            continue
        times, end = 1, at + period
        while tokens[end : end + period] == tokens[at : at + period]:
            times, end = times + 1, end + period
        if period * (times - 1) > saved:
            best, saved = (period, times), period * (times - 1)
    return best
