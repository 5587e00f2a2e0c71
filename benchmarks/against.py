"""Two checkouts, each with its own `.venv`, compile the same schedules: in one run, turn by turn.

    python benchmarks/compile.py --against FOLDER                      the sizes below
    python benchmarks/compile.py --against FOLDER zb_h1 64 1024        one size
    python benchmarks/compile.py --against FOLDER zb_h1 64 1024 9      so many times

FOLDER is the other checkout, an older commit for one. Every figure is of whole processes, as
anybody starts them: `stretto compile NAME -o PLAN`, and `stretto check` for the small sizes. The
two take turns, so that a machine that is busy with other things is so for both. CPU seconds are
those of user and system, memory is the peak; both are medians, and the ratio is the median of the
ratios of neighbours (below 1: this checkout takes less).
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
SIZES = (  # schedule, ranks, micro-batches, how many times
    ("dualpipe", 8, 20, 11),
    ("zb_h1", 8, 32, 11),
    ("zb_h1", 64, 512, 5),
    ("zb_h1", 64, 1024, 5),
    ("dualpipe", 64, 1024, 5),
    ("interleaved_1f1b", 64, 1024, 5),
    ("dualpipe_v", 64, 1024, 5),
    ("zb_h1", 256, 1024, 3),
)
SMALL = 10_000  # ranks × micro-batches up to which `check` is timed


class Spent(NamedTuple):
    """What one process took: CPU seconds, and MiB at its peak."""

    cpu: float
    memory: float


def against(folder: str, words: Sequence[str]) -> None:
    """Print a line for every size."""
    other = Path(folder).resolve()
    sizes: Sequence[tuple[str, int, int, int]] = SIZES
    if words:
        times = int(words[3]) if len(words) > 3 else 5
        sizes = [(words[0], int(words[1]), int(words[2]), times)]
    print("| | there: CPU | here: CPU | ratio | there: memory | here: memory |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, ranks, microbatches, times in sizes:
        there, here = [], []
        for _ in range(times):
            there.append(spent(other, name, ranks, microbatches))
            here.append(spent(ROOT, name, ranks, microbatches))
        ratio = median([b.cpu / a.cpu for a, b in zip(there, here, strict=True)])
        cells = (
            f"{command(name, ranks, microbatches)[0]} {name} {ranks} × {microbatches}",
            f"{median([one.cpu for one in there]):.2f} s",
            f"{median([one.cpu for one in here]):.2f} s",
            f"{ratio:.2f}",
            f"{median([one.memory for one in there]):.0f} MiB",
            f"{median([one.memory for one in here]):.0f} MiB",
        )
        print(f"| {' | '.join(cells)} |", flush=True)


def command(name: str, ranks: int, microbatches: int) -> list[str]:
    """The command of `stretto`, its output left out."""
    what = "check" if ranks * microbatches <= SMALL else "compile"
    return [what, name, "--set", f"ranks={ranks}", "--set", f"microbatches={microbatches}"]


def spent(folder: Path, name: str, ranks: int, microbatches: int) -> Spent:
    """One process of the checkout in this folder."""
    words = command(name, ranks, microbatches)
    with tempfile.TemporaryDirectory() as place:
        if words[0] == "compile":
            words += ["-o", f"{place}/plan.json"]
        process = subprocess.Popen(
            [str(folder / ".venv/bin/python"), "-m", "stretto.compiler.cli", *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=place,
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{folder}: {' '.join(words)} ended with {process.returncode}")
    return Spent(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)
