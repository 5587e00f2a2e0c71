"""Costs that stand on a command line or in Python, `F=10`, as the text of a file of costs, in which
mistakes have their place: a statement a line."""

import re
from collections.abc import Iterable, Mapping
from fractions import Fraction

from stretto.compiler.diagnostics.printable import one_line
from stretto.compiler.diagnostics.source import Source

WHOLE = re.compile(r"(cost|activation)\b")
TRANSFER = re.compile(r"transfer\b\s*=?\s*")

GivenCosts = Mapping[str, int | float | str | Fraction]
"""What each operation costs: `{"F": 10, "B[0]": "20.5", "transfer": 1}`. A text is an expression of
the language."""


def as_statement(text: str) -> str:
    """The statement of a file of costs that `F[0]=10`, `activation=1.5GiB` or `transfer=1` is short
    for."""
    words = text.strip()
    if TRANSFER.match(words):
        return TRANSFER.sub("transfer ", words, count=1)
    return words if WHOLE.match(words) else f"cost {words}"


def statements_of(costs: GivenCosts) -> list[str]:
    """The statements that say so."""
    return [as_statement(f"{what} = {value}") for what, value in costs.items()]


def beside(statements: Iterable[str], name: str, file: Source | None) -> Source | None:
    """One text of the file of costs, where there is one, and of these statements below it, which
    therefore count where both fit; `name` says where they stand. None where there are neither."""
    lines = [one_line(statement) for statement in statements]
    if not lines:
        return file
    text = "\n".join(lines) + "\n"
    if file is None:
        return Source(name, text)
    gap = "" if file.text.endswith("\n") or not file.text else "\n"
    return Source(f"{file.name} and {name}", f"{file.text}{gap}{text}")
