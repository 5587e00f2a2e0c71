"""What the library compiles to, as a table under version control: a refactor leaves
`cases/library.txt` alone, and a change of an order is a diff that one can review.
`pytest --update-cases` writes it anew.
"""

from fractions import Fraction

import pytest

from stretto.compiler.driver import compile_text
from stretto.compiler.evaluation import Settings
from stretto.compiler.plan.plan import Plan
from stretto.compiler.show.summary import largest, percent, summarize
from tests.support import library
from tests.support.paths import CASES

TABLE = CASES / "library.txt"
SIZES: list[dict[str, int]] = [
    {"ranks": 2, "microbatches": 4},
    {"ranks": 4, "microbatches": 12},
    {"ranks": 8, "microbatches": 32},
]


def test_the_library_compiles_to_what_the_table_says(request: pytest.FixtureRequest) -> None:
    table = library_table()
    if request.config.getoption("--update-cases", default=False):
        TABLE.write_text(table)
    assert TABLE.read_text() == table


def library_table() -> str:
    head = ("schedule", "ranks", "micro-batches", "makespan", "bubble", "peak", "plan")
    rows: list[tuple[str, ...]] = [head]
    for name in library.WRITTEN:
        for size in SIZES:
            values = {key: Fraction(value) for key, value in size.items()}
            plan = compile_text(library.text(name), f"{name}.pipe", Settings(values=values))
            rows.append((name, str(size["ranks"]), str(size["microbatches"]), *figures(plan)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
    return "".join(f"{line.rstrip()}\n" for line in lines)


def figures(plan: Plan) -> tuple[str, ...]:
    name, program = next(iter(plan.programs.items()))
    s = summarize(program, plan.claims[name], plan.bound, plan.engine, plan.hash)
    return str(s.makespan), percent(s.bubble), str(largest(s)), s.hash[:16]
