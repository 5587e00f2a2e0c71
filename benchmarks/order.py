"""Orders that the compiler finds, beside what others found or wrote.

    python benchmarks/order.py --targets FILE [--seconds 120] [--only NAME …]
    python benchmarks/order.py --memory FILE        the Zero Bubble paper's cases under limits
    python benchmarks/order.py --small FILE         small instances solved to optimality
    python benchmarks/order.py --sweep              what memory buys, and size: both at once

The first three read tables of instances with the best values known (`optimizer_targets.json`,
`zero_bubble_memory_sweep.csv`, `proven_optima_small.json`) and print a table in Markdown, a row
that falls short marked; `--write FILE` writes it there. The sweeps are those of
`benchmarks/limits.py` and `benchmarks/size.py`.
"""

import argparse
import csv
import json
import sys
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import document
import limits
import size
from targets import bubble, memory_case, small, target

from stretto.compiler.bound import bound
from stretto.compiler.expand import expand
from stretto.compiler.order import Order
from stretto.compiler.order.budget import Budget
from stretto.compiler.order.check import check
from stretto.compiler.order.search import search
from stretto.compiler.spec import Spec


class Row(NamedTuple):
    """One instance: what was found, what was known, and whether that is good enough."""

    name: str
    found: str
    known: str
    bound: str
    engine: str
    seconds: float
    fine: bool
    better: bool


def solve(spec: Spec, seconds: float) -> tuple[int, int, Order, float]:
    """Value and bound (ticks), the order, and the seconds that took."""
    began = perf_counter()
    problem = expand(spec)
    order = search(problem, Budget(seconds=seconds))
    took = perf_counter() - began
    outcome = check(order)
    value = outcome.span if spec.minimize == "span" else outcome.makespan
    return value, max(bound(problem).ticks, order.proven), order, took


def targets(path: Path, seconds: float, only: list[str]) -> Iterator[Row]:
    """Equal to the best known where it is proven optimal, at most 0.5 % above it elsewhere, never
    above the best hand-made schedule; no bound below the listed one."""
    for row in json.loads(path.read_text())["instances"]:
        if only and not any(row["id"].startswith(name) for name in only):
            continue
        value, least, order, took = solve(target(row), seconds)
        best, library = row["best"], (row["library"] or {}).get("value", value)
        slack = Fraction(0) if row["status"] == "optimal" else Fraction(1, 200)
        fine = value <= best * (1 + slack) and value <= library and least >= row["bound"]
        yield Row(
            row["id"],
            str(value),
            str(best),
            f"{least} ({row['bound']})" if least != row["bound"] else str(least),
            order.engine,
            took,
            fine,
            value < best,
        )


def memory(path: Path, seconds: float, only: list[str]) -> Iterator[Row]:
    """At least as good as the paper's own scheduler, equal to the optimum where it is proven. The
    shares are what the ranks idle of the longest span."""
    for row in csv.DictReader(path.open()):
        name = f"{row['model']} m{row['microbatches']} {row['limit_in_ranks']}p"
        if only and not any(name.startswith(one) for one in only):
            continue
        spec = memory_case(row)
        value, least, order, took = solve(spec, seconds)
        found = bubble(spec, value)
        published = float(row["published_scheduler_span_bubble"])
        optimum = row["proven_optimal_span_bubble"]
        yield Row(
            name,
            f"{found:.4f}",
            f"{published:.4f}, best {float(row['best_known_span_bubble']):.4f}",
            f"{bubble(spec, least):.4f}",
            order.engine,
            took,
            found <= float(optimum or published),
            found < published,
        )


def small_ones(path: Path, seconds: float, only: list[str]) -> Iterator[Row]:
    """Every one equal to its optimum."""
    for row in json.loads(path.read_text()):
        split = "split" if row["split"] else "whole"
        costs = f"{row['tF']}:{row['tB']}:{row['tW']}+{row['comm']}"
        name = f"{row['placement']} {row['P']}x{row['M']} {costs} {split} limit {row['cap']}"
        value, least, order, took = solve(small(row), seconds)
        yield Row(
            f"{name} {row['metric']}",
            str(value),
            str(row["obj"]),
            str(least),
            order.engine,
            took,
            value == row["obj"],
            False,
        )


def table(rows: Iterable[Row]) -> Iterator[str]:
    """The rows in Markdown, as they come."""
    yield "| instance | found | known | bound | engine | seconds | |"
    yield "|---|---:|---:|---:|---|---:|---|"
    for row in rows:
        word = "missed" if not row.fine else "better" if row.better else ""
        yield (
            f"| {row.name} | {row.found} | {row.known} | {row.bound} | {row.engine} "
            f"| {row.seconds:.1f} | {word} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--targets", type=Path)
    parser.add_argument("--memory", type=Path)
    parser.add_argument("--small", type=Path)
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    asked: list[Iterator[Row]] = []
    if options.targets:
        asked.append(targets(options.targets, options.seconds, options.only))
    if options.memory:
        asked.append(memory(options.memory, options.seconds, options.only))
    if options.small:
        asked.append(small_ones(options.small, options.seconds, options.only))
    if options.sweep:
        limits.sweep(limits.SECONDS)
        limits.publish()
        size.sweep()
        size.publish()
    lines = []
    for rows in asked:
        for line in table(rows):
            print(line, flush=True)
            lines.append(line)
        lines.append("")
    if options.write:
        document.write(options.write, "table", lines)


if __name__ == "__main__":
    main()
