"""`nearest`: the known word that was probably meant by an unknown one."""

from collections.abc import Iterable
from itertools import islice

MOST_KNOWN = 1000


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word closest to `word`, or None where none is close: a third of its letters may
    be wrong, missing, too many or exchanged with their neighbour; case counts little."""
    if len(word) > 64:
        return None
    best: tuple[float, str] | None = None
    for candidate in islice(known, MOST_KNOWN):
        if candidate != word and abs(len(candidate) - len(word)) <= 3 and len(candidate) <= 64:
            far = distance(word, candidate)
            if far <= max(1, max(len(word), len(candidate)) / 3) and (not best or far < best[0]):
                best = (far, candidate)
    if best is None or best[0] >= len(word):
        return None
    return best[1]


def distance(a: str, b: str) -> float:
    """Letters to change, insert, delete or exchange between a and b (Damerau and Levenshtein's
    restricted distance), a change of case counting a tenth."""
    before: list[float] = []
    row: list[float] = [float(j) for j in range(len(b) + 1)]
    for i, x in enumerate(a, start=1):
        last, before, row = before, row, [float(i)]
        for j, y in enumerate(b, start=1):
            change = 0.0 if x == y else 0.1 if x.lower() == y.lower() else 1.0
            cost = min(before[j] + 1, row[-1] + 1, before[j - 1] + change)
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                cost = min(cost, last[j - 2] + 1)
            row.append(cost)
    return row[-1]
