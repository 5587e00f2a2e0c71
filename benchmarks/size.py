"""Large steps whose order nobody wrote: from text to a proved plan on disk.

    python benchmarks/size.py              the sweep (some minutes), then the page
    python benchmarks/size.py 256 1024     one size at its three limits, to stdout
    python benchmarks/size.py --page       the document from the last sweep's results

Every row is one command, the compiler as anybody starts it, in a process of its own:

    stretto compile benchmarks/free.pipe --set ranks=64 --set microbatches=1024 --set most=96
                    --no-cache -o PLAN

so seconds and memory are those of the whole: start, parsing, search, proof, and the plan written.
Its `--gap` ends the search once the order is proved to be within 0.2 % of the best there can be, as
it is without the flag beyond 100 000 operations.
Beside it in the same run, for as many operations (one stage per rank, a backward in two halves),
PyTorch's constructor of its zero-bubble schedule, which writes the order down by a formula and
lowers it; `benchmarks/compile.py` says what is timed there.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from time import perf_counter
from typing import Any

import compile as lowering
import document

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks/results/size.json"
GAP = "0.002"
THEIRS = "InterleavedZeroBubble"
LARGE = ((64, 1024),)  # at all three limits
GROWING = (  # at one and a half times the number of ranks
    *((64, many) for many in (128, 512)),
    *((ranks, 1024) for ranks in (16, 32)),
)
LIMITS = (2, 3, 4)  # halves of the number of ranks

Row = dict[str, Any]


def main() -> None:
    match sys.argv[1:]:
        case []:
            sweep()
            publish()
        case ["--page"]:
            publish()
        case [ranks, microbatches]:
            for halves in LIMITS:
                print(json.dumps(ours(int(ranks), int(microbatches), halves)), flush=True)
            print(json.dumps(theirs(int(ranks), int(microbatches))))
        case _:
            sys.exit(__doc__)


# ---------------------------------------------------------------------------- the sweep


def sweep() -> None:
    """All sizes; the results are written when all are there. A first compile, of no account, has
    the search's loops compiled if they are not yet: that is done once on a machine."""
    ours(8, 32, 3)
    sizes = sorted((*LARGE, *GROWING))
    rows = []
    for ranks, microbatches in sizes:
        limits = LIMITS if (ranks, microbatches) in LARGE else (3,)
        for row in (
            *(ours(ranks, microbatches, halves) for halves in limits),
            theirs(ranks, microbatches),
        ):
            print(json.dumps(row), file=sys.stderr, flush=True)
            rows.append(row)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")


def ours(ranks: int, microbatches: int, halves: int) -> Row:
    """One compile, as the command line does it, with what it says of the result."""
    values = {"ranks": ranks, "microbatches": microbatches, "most": halves * ranks // 2}
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as talk:
        start = perf_counter()
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "stretto.compiler.cli", "compile"),
                *(str(ROOT / "benchmarks/free.pipe"), "-o", f"{folder}/plan.json"),
                *(word for name in values for word in ("--set", f"{name}={values[name]}")),
                *("--gap", GAP, "--no-cache", "--json"),
            ],
            stdout=subprocess.PIPE,
            stderr=talk,
        )
        assert process.stdout is not None
        said = process.stdout.read()
        _, status, spent = os.wait4(process.pid, 0)
        seconds = perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            talk.seek(0)
            raise SystemExit(f"{values}: the compiler failed\n{talk.read().decode()}")
        size = os.path.getsize(f"{folder}/plan.json")
    summary = json.loads(said)
    kept = ("operations", "makespan", "lower_bound", "gap", "engine")
    return {
        **values,
        **{key: summary[key] for key in kept},
        "seconds": seconds,
        "cpu": spent.ru_utime + spent.ru_stime,
        "memory": spent.ru_maxrss / 1024,
        "bytes": size,
    }


def theirs(ranks: int, microbatches: int) -> Row:
    """PyTorch's lowering of as many operations; no seconds where it takes too long."""
    row = lowering.measured(f"PyTorch {THEIRS}", ranks, microbatches) or {}
    return {"ranks": ranks, "microbatches": microbatches, "most": None, **row}


# ---------------------------------------------------------------------------- the page


def publish() -> None:
    rows = json.loads(RESULTS.read_text("utf-8"))
    document.write(ROOT / "docs/found.md", "size", page(rows))


def page(rows: Iterable[Row]) -> Iterator[str]:
    """One line for each compile, PyTorch's lowering of the same size at its end."""
    by_size: dict[tuple[int, int], list[Row]] = {}
    for row in rows:
        by_size.setdefault((row["ranks"], row["microbatches"]), []).append(row)
    yield document.row(
        (
            *("ranks × micro-batches", "limit", "operations", "seconds", "CPU", "memory"),
            *("per operation", "gap", "order of", "PyTorch: CPU", "per operation"),
        )
    )
    yield "|---|---:|---:|---:|---:|---:|---:|---:|---|---:|---:|"
    for (ranks, microbatches), some in by_size.items():
        (other,) = (row for row in some if row["most"] is None)
        for row in some:
            if row is not other:
                yield document.row(
                    (
                        f"{ranks} × {microbatches}",
                        f"{row['most'] / ranks:g} P",
                        f"{row['operations']:,}",
                        f"{row['seconds']:.1f} s",
                        f"{row['cpu']:.1f} s",
                        f"{row['memory']:.0f} MiB",
                        each(row),
                        document.at_most(
                            Fraction(row["makespan"]) / Fraction(row["lower_bound"]) - 1, 2
                        ),
                        f"`{row['engine']}`",
                        f"{other['cpu']:.1f} s" if "cpu" in other else "too long",
                        each(other) if "cpu" in other else "",
                    )
                )


def each(row: Row) -> str:
    """CPU time by operation: the same for all sizes where growth is linear."""
    return f"{1e6 * row['cpu'] / row['operations']:.0f} µs"


if __name__ == "__main__":
    main()
