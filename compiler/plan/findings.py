"""What is wrong with a number of a plan, as (path, words): for instance `$.channels[3][0]` and
`there are only ranks 0 to 7, not 9`.
"""

from collections.abc import Iterator

from stretto.compiler.problem.spec import Spec

Wrong = tuple[str, str]

MAX_NUMBER = 1 << 53  # ticks and grains: what every reader of JSON holds exactly


def within(path: str, value: int, least: int, most: int, what: str) -> Iterator[Wrong]:
    """A number from `least` to `most`."""
    if not least <= value <= most:
        yield path, f"{value} is not between {least} and {most} ({what})"


def unknown(kind: str) -> str:
    """The words for a kind of operation that is none."""
    return f"this version does not know {kind!r}"


def number(path: str, value: int) -> Iterator[Wrong]:
    """A number of ticks, grains or things."""
    yield from within(path, value, 0, MAX_NUMBER, "no number here is negative or past 2^53")


def index(path: str, value: int, many: int, what: str) -> Iterator[Wrong]:
    """An index into a table of so many."""
    if not 0 <= value < many:
        there = f"there are only {what} 0 to {many - 1}" if many else f"there are no {what}"
        yield path, f"{there}, not {value}"


def stage_of(path: str, p: int, s: int, spec: Spec, at: int = 0) -> Iterator[Wrong]:
    """A pipeline and a stage of it, from place `at` of the list on."""
    wrong = [*index(f"{path}[{at}]", p, len(spec.pipelines), "pipelines")]
    yield from wrong
    if not wrong:
        yield from index(f"{path}[{at + 1}]", s, len(spec.pipelines[p].stages), "stages")
