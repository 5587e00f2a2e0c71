"""What memory buys: the best published schedule against the order found, limit by limit.

    python benchmarks/limits.py                  the sweep (some minutes), then the page
    python benchmarks/limits.py --seconds 1      the same with less time for each limit
    python benchmarks/limits.py --page           the documents from the last sweep's results

Every form of it overwrites README.md, docs/found.md and docs/pictures/limits.svg.

The step is `benchmarks/free.pipe` on 8 ranks with 24 micro-batches: one stage per rank or a V of
two, three costs alike or measured ones with a transfer, under limits from the least that any order
needs to twice the number of ranks. Results go to `benchmarks/results/limits.json`; the picture and
the tables made of them to `docs/` and the front page.

More memory never hurts here: the order found for one limit is where the search for the next begins,
a published schedule that fits a limit fits all larger ones, and what no order can reach with much
memory it cannot reach with less.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import NamedTuple

import document
import panels

from stretto.compiler.bounds.bound import bound
from stretto.compiler.diagnostics.source import Source
from stretto.compiler.evaluation import Settings, evaluate
from stretto.compiler.language.parse import parse
from stretto.compiler.order.budget import Budget
from stretto.compiler.order.cache import recall, remember
from stretto.compiler.order.check import check
from stretto.compiler.order.kept import SETS, kept
from stretto.compiler.order.kernels.jit import available
from stretto.compiler.order.search import search
from stretto.compiler.order.warm import warm
from stretto.compiler.problem.expand import expand
from stretto.compiler.problem.problem import Problem

ROOT = Path(__file__).parent.parent
FREE = Source("free.pipe", (ROOT / "benchmarks/free.pipe").read_text("utf-8"))
RESULTS = ROOT / "benchmarks/results/limits.json"
SECONDS = 2.0  # of search for each limit, where no order is proved optimal earlier


class Case(NamedTuple):
    """One panel: what is ordered. `costs`: ticks of F, I, W and a transfer."""

    name: str
    chunks: int
    costs: tuple[int, int, int, int]
    ranks: int = 8
    microbatches: int = 24

    @property
    def work(self) -> int:
        """Ticks that every rank computes."""
        return self.microbatches * self.chunks * sum(self.costs[:3])


CASES = (
    Case("One stage per rank, F:I:W = 10:10:10", 1, (10, 10, 10, 0)),
    Case("One stage per rank, 10:16:6, transfer 1", 1, (10, 16, 6, 1)),
    Case("V of two stages per rank, 10:10:10", 2, (10, 10, 10, 0)),
    Case("V of two stages per rank, 10:16:6, transfer 1", 2, (10, 16, 6, 1)),
)
LIMITS = {  # in activations of a stage
    1: range(1, 17),
    2: (*range(2, 11), *range(12, 21, 2), 24, 28, 32),
}


@dataclass(frozen=True, slots=True)
class Point:
    """What one limit (activations of a stage) allows: makespans in ticks, `published` and `found`
    with who made them, and the least that any order could take."""

    limit: int
    published: int | None
    schedule: str | None
    found: int
    engine: str
    bound: int
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n")[0],
        epilog="Overwrites README.md, docs/found.md and docs/pictures/limits.svg.",
    )
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--page", action="store_true")
    options = parser.parse_args()
    if not options.page:
        sweep(options.seconds)
    publish()


# ---------------------------------------------------------------------------- the sweep


def sweep(seconds: float) -> None:
    """Every case; the results are written when all are there. Loops are compiled before: where
    orders are `forgotten`, nothing else is to be missing."""
    if available() and not all(kept(name) for name in SETS):
        warm(SETS)
    curves = []
    for case in CASES:
        points = []
        for point in curve(case, LIMITS[case.chunks], seconds):
            print(case.name, json.dumps(asdict(point)), file=sys.stderr, flush=True)
            points.append(point)
        curves.append([asdict(point) for point in proven(points)])
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"seconds": seconds, "curves": curves}, indent=1) + "\n", "utf-8")


def curve(case: Case, limits: Iterable[int], seconds: float) -> Iterator[Point]:
    """The limits from the least to the largest, each search begun where the last one ended."""
    budget = Budget(seconds=seconds, cache=True)
    published: tuple[int, str] | None = None
    smaller: Problem | None = None
    with forgotten():
        for limit in sorted(limits):
            problem = free(case, limit)
            published = min(filter(None, (published, library(problem))), default=None)
            theirs, schedule = published or (None, None)
            if smaller is not None and (start := recall(smaller, budget)) is not None:
                remember(problem, budget, start._replace(seconds=0.0))
            began = perf_counter()
            order = search(problem, budget)
            seconds_taken = round(perf_counter() - began, 1)
            makespan = check(order).makespan
            least = max(bound(problem).ticks, order.proven)
            yield Point(limit, theirs, schedule, makespan, order.engine, least, seconds_taken)
            smaller = problem


def free(case: Case, limit: int) -> Problem:
    """The case under a limit."""
    names = ("f", "i", "w", "lag", "chunks", "most", "ranks", "microbatches")
    values = (*case.costs, case.chunks, limit, case.ranks, case.microbatches)
    settings = Settings(values=dict(zip(names, map(Fraction, values), strict=True)))
    return expand(evaluate(parse(FREE), settings))


def library(problem: Problem) -> tuple[int, str] | None:
    """The best published schedule that fits, with its makespan."""
    try:
        order = search(problem, Budget(effort=0, engine="library"))
    except LookupError:
        return None
    return check(order).makespan, order.engine


@contextmanager
def forgotten() -> Iterator[None]:
    """Orders found within are remembered there only: `search` begins with what it finds."""
    before = os.environ.get("XDG_CACHE_HOME")
    with TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        try:
            yield
        finally:
            del os.environ["XDG_CACHE_HOME"]
            if before is not None:
                os.environ["XDG_CACHE_HOME"] = before


def proven(points: Sequence[Point]) -> list[Point]:
    """The points, every bound at least that of any larger limit."""
    least = [*accumulate((point.bound for point in reversed(points)), max)]
    return [replace(one, bound=b) for one, b in zip(points, reversed(least), strict=True)]


# ---------------------------------------------------------------------------- the page


def publish() -> None:
    """Write what is made of the results."""
    for path, text in made():
        path.write_text(text, "utf-8")


def made() -> Iterator[tuple[Path, str]]:
    """The picture, the sentence of the front page, the tables of the document: every file as it
    should be."""
    results = json.loads(RESULTS.read_text("utf-8"))
    curves = [[Point(**point) for point in points] for points in results["curves"]]
    drawn = [
        panels.Panel(
            case.name,
            [
                panels.Mark(
                    one.limit / case.chunks,
                    bubble(case, one.published),
                    1 - case.work / one.found,
                    1 - case.work / one.bound,
                    one.found == one.bound,
                )
                for one in points
            ],
        )
        for case, points in zip(CASES, curves, strict=True)
    ]
    yield ROOT / "docs/pictures/limits.svg", panels.picture(drawn)
    said = sentence(curves)
    tables = page(results["seconds"], curves, said)
    for path, lines in ((ROOT / "README.md", [said]), (ROOT / "docs/found.md", tables)):
        yield path, document.put(path.read_text("utf-8"), "limits", lines)


def bubble(case: Case, makespan: int | None) -> float | None:
    """The part of the ranks' time that is idle."""
    return None if makespan is None else 1 - case.work / makespan


def sentence(curves: Iterable[Sequence[Point]]) -> str:
    """What the picture shows, in figures."""
    all_of = [(case, one) for case, points in zip(CASES, curves, strict=True) for one in points]
    optimal = sum(one.found == one.bound for _, one in all_of)
    none = sum(one.published is None for _, one in all_of)
    gains = {less: [Fraction(0)] for less in (True, False)}  # than 1F1B holds
    for case, one in all_of:
        if one.published is not None:
            less = one.limit < case.chunks * case.ranks
            gains[less].append(1 - Fraction(one.found, one.published))
    shorter = sum(gain > 0 for some in gains.values() for gain in some)
    longer = sum(gain < 0 for some in gains.values() for gain in some)
    little, much = f"{float(max(gains[True])):.0%}", f"{float(max(gains[False])):.1%}"
    return (
        f"Of {len(all_of)} cases {optimal} are solved to proven optimality. In {none} no schedule "
        f"of those compared fits; in {shorter} the order found is shorter "
        f"than the best of them that does: with less memory than 1F1B takes by up to {little}, "
        f"from there on by up to {much}. {outdone(all_of) if longer else 'In none it is longer'}."
    )


def outdone(all_of: Iterable[tuple[Case, Point]]) -> str:
    """Where a published schedule is the shorter one, by name."""
    names = [one.schedule for _, one in all_of if one.published and one.published < one.found]
    counts = ", ".join(f"`{name}` in {names.count(name)}" for name in sorted({*map(str, names)}))
    return f"In {len(names)} the published one is shorter ({counts})"


def page(seconds: float, curves: Iterable[Sequence[Point]], said: str) -> Iterator[str]:
    """A table for every case."""
    yield (
        f"At most {seconds:g} s of search for each limit; where that proves nothing, a longer "
        f"search may find more, as in [orders.md](orders.md). {said}"
    )
    for case, points in zip(CASES, curves, strict=True):
        yield from ("", f"### {case.name}", "")
        yield document.row(
            ("limit", "best published that fits", "its bubble", "found", "bound", "step shorter by")
        )
        yield "|---:|---|---:|---:|---:|---:|"
        for one in points:
            yield document.row(cells(case, one))


def cells(case: Case, one: Point) -> Iterator[str]:
    """One limit, in micro-batches; bubbles in per cent with the makespans behind them."""

    def share(makespan: int) -> str:
        return f"{1 - case.work / makespan:.1%} ({makespan})"

    def least(bound: int) -> str:
        return f"{document.at_least(1 - Fraction(case.work) / bound)} ({bound})"

    yield f"{one.limit / case.chunks:g}"
    yield f"`{one.schedule}`" if one.schedule else "none"
    yield share(one.published) if one.published else ""
    yield share(one.found)
    yield "optimal" if one.found == one.bound else least(one.bound)
    gain = 1 - Fraction(one.found, one.published) if one.published else Fraction(0)
    yield f"{float(gain):.1%}" if gain else ""


if __name__ == "__main__":
    main()
