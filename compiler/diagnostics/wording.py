"""Counts, lists of numbers and columns, as every message and table of ours says them."""

from collections.abc import Iterable, Sequence


def count(n: int, one: str, several: str = "") -> str:
    """`1 rank`, `3 ranks`; `several` where an `s` does not make the plural."""
    return f"{n} {one if n == 1 else several or one + 's'}"


def joined(words: Sequence[str], last: str = "and") -> str:
    """`a`, `a and b`, `a, b and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}"


def listed(noun: str, numbers: Sequence[int], shown: int | None = None, spare: int = 0) -> str:
    """`rank 2`, `ranks 0, 2 and 5`, `ranks 1 to 5` of ascending numbers. If there are more than
    `shown + spare` of them, the first `shown`, and how many more there are."""
    if len(numbers) > 2 and numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"{noun}s {numbers[0]} to {numbers[-1]}"
    named = [str(number) for number in numbers]
    if shown is not None and len(numbers) > shown + spare:
        named[shown:] = [f"{len(numbers) - shown} more"]
    return f"{noun}{'s' if len(named) > 1 else ''} {joined(named)}"


def columns(rows: Iterable[Iterable[str]], right: Iterable[int] = ()) -> list[str]:
    """Rows as aligned lines, without blanks at their ends. The columns whose indices are in `right`
    are flush right."""
    table = [list(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    flush = set(right)
    return [
        "  ".join(
            cell.rjust(width) if i in flush else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]
