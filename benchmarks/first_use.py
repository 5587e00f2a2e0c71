"""What the first search on a machine costs, and the second: wall time beside the limit that was
given, processor time, the most memory, and what was found.

    python benchmarks/first_use.py [--limits 10 30] [--only NAME …]

Every case begins with an empty folder for what is kept, so that loops are compiled, and runs twice;
a process that compiles in the background is waited for in between. `over` is wall time / limit, to
be at most 1.1. Memory and processor time are the command's own; those of a background process are
in the column `compiling`.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
MOST_COMPILING = 600
"""Seconds that a background process may take."""

CASES: dict[str, tuple[str, ...]] = {
    "v_half": ("v_half",),
    "V 8x24": (
        "benchmarks/free.pipe",
        *("--set", "chunks=2", "--set", "ranks=8", "--set", "microbatches=24"),
    ),
    "dualpipe auto": ("dualpipe",),
    "deepseek_v3 auto": ("deepseek_v3",),
    "chain 64x1024": (
        "benchmarks/free.pipe",
        *("--set", "ranks=64", "--set", "microbatches=1024"),
    ),
}
"""By name: the file, with its order taken out where it has one, and its sizes."""


class Measured(NamedTuple):
    """One run of the command."""

    wall: float
    cpu: float
    memory: int
    found: str


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description="What the first search on a machine costs.")
    parser.add_argument("--limits", nargs="+", type=int, default=[10, 30])
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    chosen = parser.parse_args()
    print("| case | limit | use | wall | over | cpu | MB | compiling | found |")
    print("|---|---:|---|---:|---:|---:|---:|---:|---|")
    for name in chosen.only:
        for limit in chosen.limits:
            with tempfile.TemporaryDirectory() as folder:
                for use in ("first", "second"):
                    own = measured(Path(folder), name, limit)
                    compiling = waited(Path(folder)) if use == "first" else 0.0
                    cells = (
                        *(name, str(limit), use, f"{own.wall:.1f}", f"{own.wall / limit:.2f}"),
                        *(f"{own.cpu:.1f}", str(own.memory), f"{compiling:.1f}", own.found),
                    )
                    print(f"| {' | '.join(cells)} |", flush=True)


def measured(folder: Path, name: str, limit: int) -> Measured:
    """Compile the case once, with what is kept in `folder`."""
    file, *sizes = CASES[name]
    schedule = folder / "case.pipe"
    schedule.write_text(without_order(file))
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder)}
    command = [sys.executable, "-m", "stretto.compiler.cli", "compile", str(schedule), *sizes]
    command += ["--time-limit", str(limit), "-o", str(folder / "case.plan"), "--no-cache"]
    began = time.monotonic()
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT
    )
    assert process.stdout is not None
    text = process.stdout.read().decode()
    _, status, used = os.wait4(process.pid, 0)
    wall = time.monotonic() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    lines = [line for line in text.splitlines() if line.startswith("time ")]
    found = " ".join(lines[0].split()[1:]) if lines else f"exit code {process.returncode}"
    return Measured(wall, used.ru_utime + used.ru_stime, used.ru_maxrss // 1024, found)


def waited(folder: Path) -> float:
    """Seconds until the loops that a command had compiled beside it are there; 0 where it had
    none."""
    began = time.monotonic()
    while time.monotonic() - began < MOST_COMPILING:
        locks = list(folder.glob("stretto/loops/*/lock"))
        there = list(folder.glob("stretto/loops/*/*.whole"))
        if there or (not locks and time.monotonic() - began > 10):
            break
        time.sleep(0.2)
    return time.monotonic() - began


def without_order(file: str) -> str:
    """The text of a schedule, of the library or of a file, up to its order."""
    path = ROOT / file
    if not path.is_file():
        path = ROOT / "schedules" / f"{file}.pipe"
    return path.read_text().partition("order rank")[0]


if __name__ == "__main__":
    main()
