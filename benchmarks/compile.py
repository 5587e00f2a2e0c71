"""From the text of a schedule to a proved plan on disk: how long it takes and how much memory, by
size; and beside it, in the same run, PyTorch's lowering of its own schedules of the same size.

    python benchmarks/compile.py            the sweep; writes docs/compile.md and its picture
    python benchmarks/compile.py --page     those two from the last sweep's results
    python benchmarks/compile.py --arrows zb_h1 64 1024     where the time of one size goes
    python benchmarks/compile.py --against FOLDER           beside another checkout: `against.py`

Every row is a process of its own. `compile` is parse to prove, with the step and its evaluation;
`on disk` the plan written. The proof is also timed alone, by the instructions it reads. A rank's
part is read by another fresh process, as a rank does. PyTorch's figures are its constructor, which
makes the order, and the passes that put communication around it, as every rank runs them for all
ranks; it proves nothing and writes nothing.
"""

import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from math import log
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import against
import growth

ROOT = Path(__file__).parent.parent
SIZES = ((8, 32), (8, 128), (16, 128), (16, 512), (32, 512), (64, 512), (64, 1024), (256, 1024))
OURS = ("zb_h1", "dualpipe", "interleaved_1f1b", "dualpipe_v")
THEIRS = ("Interleaved1F1B", "DualPipeV")
RESULTS = ROOT / "benchmarks/results/compile.json"
ONE = ("InterleavedZeroBubble",)  # of PyTorch's, those measured with one stage per rank, not two
LONGEST = 180  # seconds: a series ends before the size that would take longer, see `expected`

Row = dict[str, Any]


def main() -> None:
    match sys.argv[1:]:
        case []:
            sweep()
        case ["--page"]:
            publish()
        case ["--one", path, name, ranks, microbatches]:
            print(json.dumps(one(path, name, int(ranks), int(microbatches))))
        case ["--part", path, rank]:
            print(json.dumps(part(path, int(rank))))
        case ["--torch", name, ranks, microbatches]:
            print(json.dumps(lowering(name, int(ranks), int(microbatches))))
        case ["--arrows", name, ranks, microbatches]:
            for arrow, seconds in arrows(name, int(ranks), int(microbatches)):
                print(f"{arrow:12} {seconds:7.2f}")
        case ["--against", folder, *words]:
            against.against(folder, words)
        case _:
            sys.exit(__doc__)


# ---------------------------------------------------------------------------- one size


def one(path: str, name: str, ranks: int, microbatches: int) -> Row:
    """Compile one schedule, write the plan, and prove it once more by itself."""
    from stretto.compiler.driver import compile_file
    from stretto.compiler.plan.plan import write_plan
    from stretto.compiler.program.program import Compute
    from stretto.compiler.proof.prove import prove

    start, cpu = perf_counter(), process_time()
    plan = compile_file(name, ranks=ranks, microbatches=microbatches)
    compiled = perf_counter()
    write_plan(plan, path)
    written, cpu = perf_counter(), process_time() - cpu
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    train = plan.programs["train"]
    proof = perf_counter()
    prove(train, plan.claims["train"])
    proof = perf_counter() - proof
    longest = max(range(ranks), key=lambda rank: len(train.ranks[rank]))
    return {
        "operations": sum(isinstance(i, Compute) for own in train.ranks for i in own),
        "instructions": sum(map(len, train.ranks)),
        "compile": compiled - start,
        "disk": written - start,
        "cpu": cpu,
        "prove": proof,
        "memory": memory / 1024,
        "bytes": os.path.getsize(path),
        "rank": longest,
    }


def part(path: str, rank: int) -> Row:
    """Read one rank's part, as the first thing that a process does with the plan."""
    from stretto.compiler.plan.plan import read_rank

    start = perf_counter()
    read_rank(path, rank)
    return {"part": perf_counter() - start}


def arrows(name: str, ranks: int, microbatches: int) -> Iterator[tuple[str, float]]:
    """The CPU seconds of every arrow."""
    from stretto.compiler import driver
    from stretto.compiler.plan.plan import write_plan

    spent: dict[str, float] = {}

    def timed(arrow: str, run: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*values: Any, **more: Any) -> Any:
            start = process_time()
            value = run(*values, **more)
            spent[arrow] = spent.get(arrow, 0) + process_time() - start
            return value

        return wrapped

    for arrow in (
        *("parse", "evaluate", "expand", "arrange", "communicated"),
        *("claims", "prove_all", "whole_bound", "assemble"),
    ):
        setattr(driver, arrow, timed(arrow, getattr(driver, arrow)))
    plan = driver.compile_file(name, ranks=ranks, microbatches=microbatches)
    with tempfile.TemporaryDirectory() as folder:
        timed("write", write_plan)(plan, Path(folder) / "plan.json")
    yield from spent.items()
    yield "all", sum(spent.values())


def lowering(name: str, ranks: int, microbatches: int) -> Row:
    """PyTorch's order and its lowering. It wants stage modules: these know only their place."""
    from types import SimpleNamespace

    from torch.distributed.pipelining import schedules

    torch: Any = schedules  # what its passes return is not what the next are annotated to take
    chunks = 1 if name in ONE else 2
    stages: Any = [
        SimpleNamespace(
            num_stages=chunks * ranks,
            group_size=ranks,
            group_rank=0,
            stage_index=ranks * chunk,
            is_first=chunk == 0,
            is_last=False,
            submod=None,
            has_backward=True,
        )
        for chunk in range(chunks)
    ]
    make = getattr(torch, f"Schedule{name}")
    start, cpu = perf_counter(), process_time()
    # The constructors lower too where the class runs by its own table; the passes below are
    # those of `_prepare_schedule_with_comms`, timed where the constructor has not run them.
    schedule = make(stages, microbatches, loss_fn=lambda *_: None)
    lowered = getattr(schedule, "pipeline_order_with_comms", None)
    if not lowered:
        order = schedule.pipeline_order
        ready = {
            rank: torch._add_reduce_grad(torch._add_unshard_reshard(order[rank]), microbatches)
            for rank in order
        }
        place = schedule.stage_index_to_group_rank
        lowered = torch._add_send_recv(
            ready, stage_to_rank=lambda stage: place[stage], num_stages=chunks * ranks
        )
    seconds, cpu = perf_counter() - start, process_time() - cpu
    computed = sum(
        len(action.sub_actions or (action,))
        for own in schedule.pipeline_order.values()
        for action in own
        if action is not None
    )
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"operations": computed, "disk": seconds, "cpu": cpu, "memory": memory / 1024}


# ---------------------------------------------------------------------------- the sweep


def sweep() -> None:
    series: dict[str, list[Row]] = {}
    for name in (*OURS, *(f"PyTorch {name}" for name in THEIRS)):
        rows = series.setdefault(name, [])
        for ranks, microbatches in SIZES:
            if expected(rows, ranks * microbatches) > LONGEST:
                break
            row = measured(name, ranks, microbatches)
            if row is None:
                break
            rows.append({"ranks": ranks, "microbatches": microbatches, **row})
            print(name, json.dumps(rows[-1]), file=sys.stderr, flush=True)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(series, indent=1) + "\n", "utf-8")
    publish()


def expected(rows: list[Row], size: int) -> float:
    """The CPU seconds that the next size takes, in ranks × micro-batches, if it grows from the last
    row as that did from the one before: a power of the size."""
    if len(rows) < 2:
        return 0.0
    (few, less), (many, more) = [
        (row["ranks"] * row["microbatches"], max(row["cpu"], 0.001)) for row in rows[-2:]
    ]
    power = log(more / less) / log(many / few)
    return float(more * (size / many) ** power)


def publish() -> None:
    series = json.loads(RESULTS.read_text("utf-8"))
    (ROOT / "docs/pictures/compile.svg").write_text(growth.picture(series), "utf-8")
    (ROOT / "docs/compile.md").write_text(page(series), "utf-8")


def measured(name: str, ranks: int, microbatches: int) -> Row | None:
    """One size in a process of its own; None where it took too long."""
    size = str(ranks), str(microbatches)
    if name.startswith("PyTorch "):
        return child("--torch", name.removeprefix("PyTorch "), *size)
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/plan.json"
        row = child("--one", path, name, *size)
        return row and {**row, **(child("--part", path, str(row["rank"])) or {})}


def child(*words: str) -> Row | None:
    command = [sys.executable, __file__, *words]
    try:
        run = subprocess.run(command, check=True, timeout=2 * LONGEST, stdout=subprocess.PIPE)
    except subprocess.TimeoutExpired:
        return None
    found: Row = json.loads(run.stdout)
    return found


def _commit() -> str:
    """What was measured."""
    words = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


def page(series: dict[str, list[Row]]) -> str:
    """The document."""
    import torch

    header = (
        "ranks × micro-batches | operations | instructions | compiled | on disk | CPU "
        "| memory | proof alone | a rank's part"
    )
    lines = [
        "# How long a compile takes",
        "",
        "The time from the text of a schedule to a proved plan on disk, and for comparison that of "
        "PyTorch's lowering of its own schedules, measured in one run by `python "
        f"benchmarks/compile.py` (its docstring says what is timed) of commit {_commit()} on "
        f"{os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}. "
        "Every row is a process of its own; memory is its peak. All work is done on one core: "
        "where CPU and elapsed seconds differ, the machine was busy with other things. A schedule "
        "is compiled once, and each rank reads its part of the plan (last column, again in a fresh "
        "process). PyTorch's lowering runs on every rank at its start, proves nothing and writes "
        "nothing, and most of its memory is torch itself. A series ends before the size that would "
        f"take more than {LONGEST // 60} minutes, were it to grow on as it did last.",
        "",
        "![CPU seconds by the number of operations](pictures/compile.svg)",
    ]
    for name, rows in series.items():
        ours = not name.startswith("PyTorch")
        lines += ["", f"## {name}", ""]
        if ours:
            lines += [f"| {header} |", "|" + " --- |" * 9]
        else:
            lines += [
                "| ranks × micro-batches | operations | order and lowering | CPU | memory |",
                "|" + " --- |" * 5,
            ]
        for row in rows:
            cells = [f"{row['ranks']} × {row['microbatches']}", f"{row['operations']:,}"]
            if ours:
                cells += [f"{row['instructions']:,}", f"{row['compile']:.2f} s"]
            cells += [
                f"{row['disk']:.2f} s",
                f"{row['cpu']:.2f} s",
                f"{row['memory']:.0f} MiB",
            ]
            if ours:
                cells += [f"{row['prove']:.2f} s", f"{1000 * row['part']:.0f} ms"]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
