"""Plan files of two checkouts, each with its own `.venv`, in one run, turn by turn: how many bytes
they have, what it costs to write and to read them, and what `stretto check` costs as a whole
process.

    python benchmarks/plans.py FOLDER                       the sizes below
    python benchmarks/plans.py FOLDER zb_h1 64 1024         one size
    python benchmarks/plans.py FOLDER --start 11            `check dualpipe` alone, so many times

FOLDER is the other checkout, an older commit for one. Each plan is compiled by the checkout that
reads it. All times are CPU seconds of user and system, medians of several; a ratio below 1 says
that this checkout takes less. `written`: `assemble` (with the plan's hash) and `write_plan`;
`read`: `read_plan`; `a part`: `read_rank` of the rank in the middle, all modules being loaded. A
start with caches finds the bytecode of all modules, one without finds none, not of Python's own
library either.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parent.parent
SIZES = (  # schedule, ranks, micro-batches
    ("zb_h1", 64, 1024),
    ("dualpipe", 64, 1024),
    ("dualpipe_v", 64, 1024),
    ("interleaved_1f1b", 64, 1024),
    ("deepseek_v3", 8, 80),
    ("zb_h1", 8, 20),
    ("dualpipe", 8, 20),
    ("dualpipe_v", 8, 20),
    ("interleaved_1f1b", 8, 20),
    ("deepseek_v3", 8, 20),
)
TIMES = 5  # turns of each checkout
ONE = """
import json, os, sys
from time import process_time
from stretto.compiler.driver import compile_file
from stretto.compiler.plan.plan import assemble, read_plan, read_rank, write_plan
path, name, ranks, microbatches = *sys.argv[1:3], *map(int, sys.argv[3:])
if not os.path.exists(path):
    write_plan(compile_file(name, ranks=ranks, microbatches=microbatches), path)
read_rank(path, 0)
took = []
start = process_time()
read_rank(path, ranks // 2)
took.append(process_time() - start)
start = process_time()
plan = read_plan(path)
took.append(process_time() - start)
start = process_time()
again = assemble(plan.programs, plan.claims, plan.bound, plan.engine, plan.sources)
write_plan(again, path + "2")
took.append(process_time() - start)
print(json.dumps({"bytes": os.path.getsize(path), "took": took}))
"""


def main() -> None:
    match sys.argv[1:]:
        case [folder]:
            sizes(Path(folder).resolve(), SIZES)
            starts(Path(folder).resolve(), 11)
        case [folder, "--start", times]:
            starts(Path(folder).resolve(), int(times))
        case [folder, name, ranks, microbatches]:
            sizes(Path(folder).resolve(), ((name, int(ranks), int(microbatches)),))
        case _:
            sys.exit(__doc__)


def sizes(other: Path, wanted: tuple[tuple[str, int, int], ...]) -> None:
    """A line for every size."""
    print("| | bytes there | here | ratio | written there | here | read there | here |", end="")
    print(" a part there | here |\n|---|" + "---:|" * 9)
    for size in wanted:
        with tempfile.TemporaryDirectory() as place:
            there, here = [], []
            for _ in range(TIMES):
                there.append(one(other, f"{place}/there", size))
                here.append(one(ROOT, f"{place}/here", size))
        (many, then), (few, now) = figures(there), figures(here)
        cells = [f"{size[0]} {size[1]} × {size[2]}", f"{many:,}", f"{few:,}", f"{few / many:.2f}"]
        for k in (2, 1, 0):
            cells += [f"{1000 * then[k]:.1f} ms", f"{1000 * now[k]:.1f} ms"]
        print(f"| {' | '.join(cells)} |", flush=True)


def one(folder: Path, path: str, size: tuple[str, int, int]) -> dict[str, object]:
    """One process of the checkout in this folder."""
    command = [str(folder / ".venv/bin/python"), "-c", ONE, path, *map(str, size)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=folder)
    found: dict[str, object] = json.loads(done.stdout)
    return found


def figures(rows: list[dict[str, object]]) -> tuple[int, list[float]]:
    """The bytes, and the medians of what each step took."""
    took = [row["took"] for row in rows]
    return int(str(rows[0]["bytes"])), [median(column) for column in zip(*took, strict=True)]


def starts(other: Path, times: int) -> None:
    """`check dualpipe` as a whole process, with caches of bytecode and without."""
    print("\n| `check dualpipe` | there: CPU | here: CPU | ratio |\n|---|---:|---:|---:|")
    for name, caches in (("with caches", True), ("without", False)):
        with tempfile.TemporaryDirectory() as place:
            there, here = [], []
            for turn in range(times + 1):
                a = start(other, f"{place}/there", caches)
                b = start(ROOT, f"{place}/here", caches)
                if turn:  # the first one makes the caches
                    there.append(a)
                    here.append(b)
        ratio = median([b / a for a, b in zip(there, here, strict=True)])
        print(f"| {name} | {median(there):.3f} s | {median(here):.3f} s | {ratio:.2f} |")


def start(folder: Path, prefix: str, caches: bool) -> float:
    """The CPU seconds of one process whose caches, if it has any, are below this prefix."""
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": prefix}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    if not caches:
        environment["PYTHONDONTWRITEBYTECODE"] = "1"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [str(folder / ".venv/bin/python"), "-m", "stretto.compiler.cli", "check", "dualpipe"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment, cwd=folder)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
