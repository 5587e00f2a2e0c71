"""What stands beside a schedule file: values for its parameters, costs of another file, limits."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple

from stretto.compiler.diagnostics.source import Span
from stretto.compiler.language.syntax import CostFile

MOST_OPERATIONS = 4_000_000


class SeldomMeant(NamedTuple):
    """What is right by the language and seldom meant: a row of `codes.CODES`, a sentence, and where
    to look."""

    code: str
    words: str
    at: Span


ASSUMED = ("unstated-cost", "own-cost", "unstated-activation", "size-without-unit")
"""Codes of what was filled in, taken for bytes, or left as an example has it, because nobody stated
it: figures that rest on it are told with it."""


def ignored(doubt: SeldomMeant) -> None:
    """For those who asked nothing."""


def assuming(
    found: list[str], tell: Callable[[SeldomMeant], None] = ignored
) -> Callable[[SeldomMeant], None]:
    """What `Settings.doubt` is to call so that `found` has what was assumed; all is told on."""

    def doubt(one: SeldomMeant) -> None:
        if one.code in ASSUMED:
            found.append(one.words)
        tell(one)

    return doubt


@dataclass(frozen=True, slots=True)
class Settings:
    """`values` replace those of `ranks`, `microbatches` and `param` (`--set NAME=VALUE`); `costs`
    count as if they stood at the end of the schedule (`--costs FILE`); `max_ops` is the most
    operations that a step may have, and the most rounds that the loops of an order may make;
    `doubt` is told what is seldom meant."""

    values: Mapping[str, Fraction | int] = field(default_factory=dict)
    costs: CostFile | None = None
    max_ops: int = MOST_OPERATIONS
    doubt: Callable[[SeldomMeant], None] = ignored
