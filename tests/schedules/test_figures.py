"""The library's figures (makespan, span, peak activations) against every row of the golden table
whose schedule is here. The table was made by a simulator that shares no code with us.
"""

import csv
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import NamedTuple

import pytest

from stretto.compiler.bounds.bound import bound
from stretto.compiler.diagnostics.source import Source
from stretto.compiler.problem.expand import expand
from tests.support import library
from tests.support.library import Figures
from tests.support.paths import DATA

Row = dict[str, str]

with (DATA / "golden.csv").open() as file:
    ROWS: list[Row] = list(csv.DictReader(file))


class Entry(NamedTuple):
    """What the table's name is called here, and which stages per rank are its `chunks`."""

    name: str
    chunks: bool = False


ENTRIES = {
    "gpipe": Entry("gpipe"),
    "looped_bfs": Entry("looped_bfs", True),
    "forward_only": Entry("inference", True),
    "interleaved": Entry("interleaved_1f1b", True),
    "interleaved_torch": Entry("interleaved_1f1b", True),
    "interleaved_zb_torch": Entry("interleaved_zero_bubble", True),
    "zb_h1": Entry("zb_h1"),
    "zb_h2": Entry("zb_h2"),
    "zbv": Entry("zb_v"),
    "chimera": Entry("chimera"),
    "gems": Entry("gems"),
    "dualpipe": Entry("dualpipe"),
    "dualpipev": Entry("dualpipe_v"),
}
NOT_HERE = {"bitpipe"}


def costs(row: Row) -> str:
    pair = f"cost F | B = {row['pair']}" if row["pair"] else ""
    each = f"cost F = {row['F']} cost I = {row['I']} cost W = {row['W']}"
    return f"{each} {pair} transfer {row['transfer']}"


def size(row: Row, entry: Entry) -> dict[str, int]:
    size = {"ranks": int(row["ranks"]), "microbatches": int(row["microbatches"])}
    if entry.chunks:
        size["chunks"] = int(row["stages_per_pipeline"]) // size["ranks"]
    return size


def expected(row: Row) -> Figures:
    peaks = tuple(Fraction(peak) for peak in row["peak_per_rank"].split())
    return Figures(Fraction(row["makespan"]), Fraction(row["span"]), peaks)


def differences(
    rows: list[Row], ours: Callable[[Row], Figures]
) -> Iterator[tuple[Row, Figures, Figures]]:
    for row in rows:
        if (got := ours(row)) != expected(row):
            yield row, got, expected(row)


def rows_of(name: str) -> list[Row]:
    return [row for row in ROWS if row["schedule"] == name]


def test_every_row_is_looked_at() -> None:
    assert {row["schedule"] for row in ROWS} == {*ENTRIES, *NOT_HERE, "1f1b", "seq1f1b"}


@pytest.mark.parametrize("name", ENTRIES)
def test_golden_figures(name: str) -> None:
    entry = ENTRIES[name]
    rows = rows_of(name)
    assert len(rows) >= 30
    assert not list(
        differences(
            rows,
            lambda row: library.figures(library.spec(entry.name, costs(row), **size(row, entry))),
        )
    )


def test_golden_figures_of_1f1b_and_its_eager_form() -> None:
    """The table calls both `1f1b`: a size has two rows wherever the two differ, and one row where
    they are the same."""
    rows = rows_of("1f1b")
    keys = {tuple(list(row.values())[:-3]): row for row in rows}
    entry = Entry("one_f_one_b")
    for key, row in keys.items():
        theirs = {expected(other) for other in rows if tuple(list(other.values())[:-3]) == key}
        ours = {
            library.figures(library.spec(name, costs(row), **size(row, entry)))
            for name in ("one_f_one_b", "eager_1f1b")
        }
        assert ours == theirs, row
    assert len(rows) == 78


SEQ1F1B = """
schedule seq1f1b
ranks 4
microbatches 8
param cuts = 2
pipeline main { stages ranks }
split microbatch into cuts slices
order rank r {
  let all    = microbatches * cuts
  let warmup = min(all, ranks - 2 - r + cuts)
  repeat warmup       { F }
  repeat all - warmup { F; B }
  repeat warmup       { B }
}
"""


def test_golden_figures_of_seq1f1b() -> None:
    """Not in the library; the language can say it, with micro-batches cut into slices."""

    def ours(row: Row) -> Figures:
        sizes = size(row, Entry("seq1f1b")) | {"cuts": int(row["chunks_per_microbatch"])}
        return library.figures(library.evaluated(Source("s.pipe", SEQ1F1B), costs(row), **sizes))

    assert not list(differences(rows_of("seq1f1b"), ours))


@pytest.mark.parametrize("name", library.WRITTEN)
def test_no_bound_is_above_what_the_library_reaches(name: str) -> None:
    mixes = ["", "cost F = 2 cost I = 3 cost W = 1", "cost W = 3 transfer 1"]
    if name in library.IN_PARTS:
        mixes = ["", "cost F.mlp = 7 cost I.dispatch = 1/2", "cost W.mlp = 300 transfer 10"]
    if "overlap F | B" in library.text(name):
        mixes.append("cost F | B = max(F, B)")
    for ranks, microbatches in ((2, 4), (4, 8), (6, 18)):
        for costs in mixes:
            spec = library.spec(name, costs, ranks=ranks, microbatches=microbatches)
            reached = library.figures(spec)
            value = reached.span if spec.minimize == "span" else reached.makespan
            assert Fraction(bound(expand(spec)).ticks, spec.time_unit) <= value
