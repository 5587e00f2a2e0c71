"""Which units could run at a place of a rank's order: as looking at every one of them says it."""

from random import Random

import pytest

from stretto.compiler.analysis import candidates, rows
from stretto.compiler.analysis.candidates import FITS, FULL, NOBODY, RankCandidates, ReadyUnit
from stretto.compiler.analysis.rows import SearchedRow
from stretto.compiler.analysis.units import TimedUnit


@pytest.mark.parametrize("width", [1, 3, 512])
def test_rows_answer_as_looking_at_every_number_does(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "WIDTH", width)
    random = Random(width)
    for _ in range(100):
        numbers = [random.randrange(6) for _ in range(random.randrange(20))]
        row = SearchedRow(numbers)
        for first in range(len(numbers) + 1):
            for end in range(first, len(numbers) + 1):
                there = range(first, end)
                assert row.least(first, end) == min(
                    there, key=lambda k: (numbers[k], k), default=end
                )
                for level in range(7):
                    below = (k for k in there if numbers[k] < level)
                    assert row.first_below(first, end, level) == next(below, end)


def units(random: Random) -> list[TimedUnit]:
    """Some in a row, each of which finds what those before it left."""
    found, now, held = [], 0, 0
    for _ in range(random.randrange(1, 14)):
        start = now + random.randrange(4)
        now = start + random.randrange(3)
        alloc, free = random.choice([(2, 0), (0, 2), (1, 1), (0, 0), (1, 0), (0, 1)])
        free = min(free, held + alloc)
        ready = random.randrange(start + 1)
        arrived = random.randrange(ready + 1)
        found.append(TimedUnit((), start, now, 0, arrived, ready, ready, held, alloc, free))
        held += alloc - free
    return found


def one_by_one(row: list[TimedUnit], at: int, limit: int | None) -> tuple[ReadyUnit, ReadyUnit]:
    """The first behind the place that fits, and the first that does not."""
    fits = large = NOBODY
    for k in range(at + 1, len(row)):
        unit, between = row[k], range(at, k)
        short = FITS
        if limit is not None and row[at].held + unit.alloc > limit:
            short = FULL
        elif limit is not None:
            fullest = max(between, key=lambda j: (row[j].most, -j))
            if row[fullest].most + unit.alloc - unit.free > limit:
                short = fullest
        if unit.ready < row[at].start:
            if short == FITS:
                fits = min(fits, ReadyUnit(unit.ready, k, short))
            else:
                large = min(large, ReadyUnit(unit.ready, k, short))
    return fits, large


@pytest.mark.parametrize("sizes", [0, 64])
def test_candidates_are_those_that_looking_at_every_unit_finds(
    sizes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidates, "MOST_SIZES", sizes)
    monkeypatch.setattr(rows, "WIDTH", 2)
    random = Random(sizes)
    seen = set[bool]()
    for _ in range(400):
        row = units(random)
        most = max(unit.most for unit in row)
        for limit in (None, most, most + 1):
            asked = RankCandidates(row, limit)
            for at in range(len(row)):
                found = asked.after(at)
                assert found == one_by_one(row, at, limit)
                seen |= {one.short == FITS for one in found if one != NOBODY}
                held = [
                    (u.arrived, k) for k, u in enumerate(row) if k >= at and u.arrived < u.ready
                ]
                assert asked.ruled(at) == min(held, default=(candidates.FAR, -1))
    assert seen == {True, False}
