"""Orders that the compiler finds, beside what others found or wrote.

    python benchmarks/order.py --targets FILE [--seconds 20 120] [--only NAME …]
    python benchmarks/order.py --memory FILE        the Zero Bubble paper's cases under limits
    python benchmarks/order.py --small FILE         small instances solved to optimality
    python benchmarks/order.py --pairs 4 6 8        DualPipe's placement, for costs of a pair
    python benchmarks/order.py --sweep              what memory buys, and size: both at once

The first three read tables of instances with the best values known (`optimizer_targets.json`,
`zero_bubble_memory_sweep.csv`, `proven_optima_small.json`) and print a table in Markdown, a row
that falls short marked; `--write FILE` writes it there, between the marks of its name. A row is
searched for the first number of seconds; if it falls short, anew for the next. With `--effort N`
units of work count in place of seconds, and the table has no times: it is the same on every
machine, so that two versions are compared by their values. The sweeps are those of
`benchmarks/limits.py` and `benchmarks/size.py`.
"""

import argparse
import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

import document
import limits
import size

from stretto.compiler.bounds.bound import bound
from stretto.compiler.order.budget import Budget
from stretto.compiler.order.check import check
from stretto.compiler.order.search import search
from stretto.compiler.problem.expand import expand
from stretto.compiler.problem.spec import Spec
from tests.support.targets import bubble, memory_case, small, target


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
    proved: bool


class Result(NamedTuple):
    """Value and bound (ticks), who found it, and the seconds that took."""

    value: int
    least: int
    engine: str
    seconds: float


Judge = Callable[[Result], Row]
Case = tuple[Spec, Judge]


def solve(spec: Spec, budget: Budget) -> Result:
    """Search from the Spec on."""
    began = perf_counter()
    problem = expand(spec)
    order = search(problem, budget)
    took = perf_counter() - began
    outcome = check(order)
    value = outcome.span if spec.minimize == "span" else outcome.makespan
    return Result(value, max(bound(problem).ticks, order.proven), order.engine, took)


def targets(path: Path, only: Sequence[str]) -> Iterator[Case]:
    """Equal to the best known where it is proven optimal, at most 0.5 % above it elsewhere, never
    above the best hand-made schedule; no bound below the listed one."""

    def judge(row: dict[str, Any]) -> Judge:
        def judged(found: Result) -> Row:
            best, library = row["best"], (row["library"] or {}).get("value", found.value)
            slack = Fraction(0) if row["status"] == "optimal" else Fraction(1, 200)
            fine = found.value <= min(best * (1 + slack), library) and found.least >= row["bound"]
            least = str(found.least)
            if found.least != row["bound"]:
                least += f" ({row['bound']})"
            return _row(row["id"], str(found.value), str(best), least, found, fine, best)

        return judged

    for row in json.loads(path.read_text())["instances"]:
        if _asked(row["id"], only):
            yield target(row), judge(row)


def memory(path: Path, only: Sequence[str]) -> Iterator[Case]:
    """At least as good as the paper's own scheduler, equal to the optimum where it is proven. The
    shares are what the ranks idle of the longest span."""

    def judge(name: str, row: dict[str, str], spec: Spec) -> Judge:
        def judged(found: Result) -> Row:
            share, least = bubble(spec, found.value), bubble(spec, found.least)
            published = float(row["published_scheduler_span_bubble"])
            best = float(row["best_known_span_bubble"])
            goal = float(row["proven_optimal_span_bubble"] or published)
            known = f"{published:.4f}, best {best:.4f}"
            line = _row(name, f"{share:.4f}", known, f"{least:.4f}", found, share <= goal, 0)
            return line._replace(better=share < best)

        return judged

    for row in csv.DictReader(path.open()):
        name = f"{row['model']} m{row['microbatches']} {row['limit_in_ranks']}p"
        if _asked(name, only):
            spec = memory_case(row)
            yield spec, judge(name, row, spec)


def small_ones(path: Path, only: Sequence[str]) -> Iterator[Case]:
    """Every one equal to its optimum."""

    def judge(name: str, row: dict[str, Any]) -> Judge:
        def judged(found: Result) -> Row:
            best, value = row["obj"], str(found.value)
            fine = found.value == best
            return _row(name, value, str(best), str(found.least), found, fine, best)

        return judged

    for row in json.loads(path.read_text()):
        split = "split" if row["split"] else "whole"
        costs = f"{row['tF']}:{row['tB']}:{row['tW']}+{row['comm']}"
        size_ = f"{row['placement']} {row['P']}x{row['M']}"
        name = f"{size_} {costs} {split} limit {row['cap']} {row['metric']}"
        if _asked(name, only):
            yield small(row), judge(name, row)


def pairs(ranks: Sequence[int], only: Sequence[str]) -> Iterator[Case]:
    """DualPipe's placement at DualPipe's memory, for costs of an overlapped pair from the longer
    of the two to both: never above the order that people wrote."""

    def judge(name: str, spec: Spec) -> Judge:
        written = search(expand(spec), Budget(effort=0, engine="library"))
        best = check(written).makespan

        def judged(found: Result) -> Row:
            fine = found.value <= best
            return _row(name, str(found.value), str(best), str(found.least), found, fine, best)

        return judged

    for many in ranks:
        for f, i, w, transfer in ((10, 10, 10, 0), (10, 16, 6, 1)):
            for part in range(5):
                pair = i + w + part * f // 4
                name = f"{many} ranks, {f}:{i}:{w}, transfer {transfer}, pair {pair}"
                line = {"microbatches": many + many // 2 - 2, "F": f, "I": i, "W": w}
                lines = [line | {"place": place} for place in ("linear", "reverse")]
                row = {"id": f"dual-p{many}", "ranks": many, "limit": many + 1, "pair": pair}
                row |= {"transfer": transfer, "objective": "makespan", "pipelines": lines}
                if _asked(name, only):
                    spec = target(row)
                    yield spec, judge(name, spec)


def _asked(name: str, only: Sequence[str]) -> bool:
    return not only or any(name.startswith(one) for one in only)


def _row(
    name: str, value: str, known: str, least: str, found: Result, fine: bool, best: int
) -> Row:
    proved, better = found.value == found.least, found.value < best
    return Row(name, value, known, least, found.engine, found.seconds, fine, better, proved)


def solved(cases: Iterable[Case], allowed: Sequence[Budget]) -> Iterator[Row]:
    """The rows, each searched with the first budget, and anew with the next as long as it falls
    short."""
    first, *more = allowed
    for spec, judge in cases:
        row = judge(solve(spec, first))
        for budget in more:
            if row.fine:
                break
            row = judge(solve(spec, budget))
        yield row


def table(rows: Iterable[Row], timed: bool = True) -> Iterator[str]:
    """The rows in Markdown, as they come, and what they come to; `timed`: with the seconds."""
    yield f"| instance | found | known | bound | engine |{' seconds |' if timed else ''} |"
    yield f"|---|---:|---:|---:|---|{'---:|' if timed else ''}---|"
    every = []
    for row in rows:
        every.append(row)
        word = "missed" if not row.fine else "better" if row.better else ""
        yield (
            f"| {row.name} | {row.found} | {row.known} | {row.bound} | {row.engine} "
            f"|{f' {row.seconds:.1f} |' if timed else ''} {word} |"
        )
    missed, better = (sum(c) for c in zip(*[(not r.fine, r.better) for r in every], strict=True))
    proved = sum(row.proved for row in every)
    yield ""
    yield (
        f"{len(every)} rows: {missed} missed, {better} better than the best known, "
        f"{proved} proved optimal."
    )


TABLES = {"targets": targets, "memory": memory, "small": small_ones}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    for name in TABLES:
        parser.add_argument(f"--{name}", type=Path, metavar="FILE")
    parser.add_argument("--pairs", type=int, nargs="+", metavar="RANKS")
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument("--seconds", type=float, nargs="+", default=[120.0])
    parser.add_argument("--effort", type=int, metavar="N")
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    asked = {
        name: cases(getattr(options, name), options.only)
        for name, cases in TABLES.items()
        if getattr(options, name)
    }
    if options.pairs:
        asked["pairs"] = pairs(options.pairs, options.only)
    allowed = [Budget(seconds=seconds, gap=Fraction(0)) for seconds in options.seconds]
    timed = options.effort is None
    if not timed:
        allowed = [Budget(effort=options.effort, gap=Fraction(0))]
    for name, rows in asked.items():
        lines = []
        for line in table(solved(rows, allowed), timed):
            print(line, flush=True)
            lines.append(line)
        if options.write:
            document.write(options.write, name, lines)
    if options.sweep:
        limits.sweep(limits.SECONDS)
        limits.publish()
        size.sweep()
        size.publish()


if __name__ == "__main__":
    main()
