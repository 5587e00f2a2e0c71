"""What running a step costs besides the computation itself, beside PyTorch's own runtime and, where
there is a checkout of it, DeepSeek's class. Everything that a row compares is in one run, on the
same ranks over gloo, turn by turn; figures are medians.

    python benchmarks/runtime.py                 # all three tables; needs torch; some minutes
    python benchmarks/runtime.py overhead        # Python per operation, stages in one process
    python benchmarks/runtime.py steps           # whole steps of four processes
    python benchmarks/runtime.py sleeping        # stages that sleep, beside the prediction
    python benchmarks/runtime.py --dualpipe DIR  # rows for a checkout of deepseek-ai/DualPipe
    python benchmarks/runtime.py --write docs/runtime.md  # into the document, between its marks

`overhead`: thread CPU time of a step of four stages of one 64 x 64 layer, less that of a loop
written by hand over the same modules, per compute operation.

`steps`: stages of one such layer (tiny), and those of `examples/gpt.py`. The time on the wall is
that of the slowest rank; main-thread CPU is the mean over ranks. What is not computation is the
step less a loop over the rank's operations without messages, whose backwards are never cut in two;
all ranks run it side by side. Gradients of copies are summed on both sides: by the plan here, and
behind DeepSeek's step, whose class leaves it to the user, by one batch of sends and receives.

`sleeping`: what a step takes beyond its prediction where every operation sleeps for 40 ms, per
operation on the critical chain; beside it, on the same ranks and in turn, bare loops over the same
sleeps: sleeps alone, the stages called by hand, and the plan with a byte for a message; and
PyTorch's step. Eleven minutes. Stages with parts run whole.
"""

import argparse
import os
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

import document
import runtime_overhead
import runtime_sleeping
import runtime_steps

TABLES: dict[str, Callable[[str], Iterator[str]]] = {
    "overhead": lambda _: runtime_overhead.table(),
    "steps": runtime_steps.table,
    "sleeping": lambda _: runtime_sleeping.table(),
}


def main() -> None:
    """Prints the tables, a row as soon as it was measured."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=", ".join(TABLES))
    parser.add_argument("--dualpipe", metavar="FOLDER", default="", help="DeepSeek's checkout")
    parser.add_argument("--write", type=Path, metavar="DOCUMENT", help="put the tables into it")
    chosen = parser.parse_args()
    if unknown := set(chosen.tables) - set(TABLES):
        parser.error(f"there is no table {sorted(unknown)[0]}: {', '.join(TABLES)}")
    for name in chosen.tables or TABLES:
        lines = []
        for line in chain(TABLES[name](chosen.dualpipe), ("", _speed())):
            print(line, flush=True)
            lines.append(line)
        print()
        if chosen.write is not None:
            document.write(chosen.write, f"runtime {name}", lines)


def _speed() -> str:
    return f"Measured on {os.cpu_count()} cores; {document.speed()}."


if __name__ == "__main__":
    main()
