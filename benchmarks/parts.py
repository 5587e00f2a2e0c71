"""Orders of stages that are cut into parts: what is found, beside what others found or published.

    python benchmarks/parts.py [--effort N | --seconds S] [--only NAME …] [--large] [--write FILE]

The instances are those of `tests/data/parts_targets.json`; with `--large` DualPipe's placement on
16 ranks with 64 micro-batches too (10 240 parts). A row has the published order with a barrier
after each unit (as simulated by others), the same order without one, Megatron's rule (1F1B with one
forward more ahead, in pairs, on a linear placement) under the same limit, what was found, the best
known before, and the bound. `--effort` counts work, so that the table is the same on every machine;
a row falls short that stays above the best known. `--write` puts the table between its marks.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import process_time
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

import document

from stretto.compiler.order.budget import Budget
from stretto.compiler.order.check import check
from stretto.compiler.order.engines.parts.instance import clock, parts_instance
from stretto.compiler.order.engines.parts.starts import PAIRED, starts
from stretto.compiler.order.search import search
from stretto.compiler.problem.expand import expand
from stretto.compiler.problem.problem import Problem
from tests.support.parts_targets import target_spec, targets

LARGE = [{"id": "dual-p16-m64-dsv3-k17-c0"}]
"""Rows of which nothing was known."""

COLUMNS = ("instance", "parts", "barrier", "streams", "Megatron's rule", "found", "known", "bound")


class PartsRow(NamedTuple):
    """One line of the table; `fine`: not above the best known. `better`: below it. `proved`: the
    value is the bound. `seconds` of one core."""

    cells: tuple[object, ...]
    fine: bool
    better: bool
    proved: bool
    seconds: float


def published(problem: Problem, name: str) -> int | None:
    """The makespan in ticks of the first start of this name, if it keeps to the limits."""
    instance = parts_instance(problem)
    lanes = next((lanes for own, lanes in starts(problem) if own == name), None)
    timed = clock(instance, lanes) if lanes else None
    return timed.makespan if timed is not None and timed.fits else None


def solved(row: dict[str, Any], budget: Budget) -> PartsRow:
    """One row of the table."""
    began = process_time()
    problem = expand(target_spec(row["id"]))
    order = search(problem, budget)
    seconds = process_time() - began
    found = check(order).makespan
    assert order.bound is not None
    least = max(order.bound.ticks, order.proven)
    streams = row.get("streams")
    if "best" not in row:
        streams = published(problem, "deepseek_v3")
    cells = (
        row["id"],
        len(problem.operations),
        row.get("barrier", ""),
        streams or "",
        published(problem, PAIRED) or "",
        found,
        row.get("best", ""),
        "optimal" if found == least else least,
    )
    best: int = row.get("best") or streams or found
    return PartsRow(cells, found <= best, found < best, found == least, seconds)


def table(rows: Iterator[PartsRow]) -> Iterator[str]:
    """The table in Markdown, as it comes, and what it comes to."""
    yield document.row(COLUMNS)
    yield "|---|" + "---:|" * (len(COLUMNS) - 1)
    every = []
    for row in rows:
        every.append(row)
        yield document.row(row.cells) + ("" if row.fine else " missed")
    yield ""
    missed, better, proved = (
        sum(getattr(row, name) for row in every) for name in ("fine", "better", "proved")
    )
    yield (
        f"{len(every)} rows: {len(every) - missed} missed, {better} better than the best known, "
        f"{proved} proved optimal."
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the flags, search, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--effort", type=int, metavar="N")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--write", type=Path)
    options = parser.parse_args(arguments)
    budget = Budget(seconds=options.seconds, effort=options.effort)
    asked = [*targets(), *(LARGE if options.large else [])]
    chosen = [
        row for row in asked if not options.only or any(one in row["id"] for one in options.only)
    ]
    lines = []
    for line in table(solved(row, budget) for row in chosen):
        print(line, flush=True)
        lines.append(line)
    if options.write:
        document.write(options.write, "parts", lines)


if __name__ == "__main__":
    main()
