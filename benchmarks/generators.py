"""Schedules as other systems generate them, each size proved by `stretto check`: how many are
right, how many are refused, and at which sizes.

    python benchmarks/generators.py                       # PyTorch's own classes; needs torch
    python benchmarks/generators.py --primus FOLDER       # and those of a clone of the project

The folders of `--primus`, `--jaxpp`, `--zero-bubble`, `--megatron` and `--dualpipe` are clones of
AMD-AGI/Primus, NVIDIA/jaxpp, sail-sg/zero-bubble-pipeline-parallelism, NVIDIA/Megatron-LM and
deepseek-ai/DualPipe; their code is called as it stands, on a CPU. What stands in for what a CPU
lacks is said at each. A project without a folder is left out.
"""

import argparse
import ast
import contextlib
import importlib
import io
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple, Optional

sys.path.insert(0, str(Path(__file__).parent.parent))

from stretto.compiler.diagnostics.diagnostic import Rejected
from stretto.compiler.diagnostics.source import Source
from stretto.compiler.imports.readers import READERS
from stretto.compiler.imports.table import PlacementWord, TableSizes
from stretto.compiler.imports.understand import MOST_ACTIONS, understood
from stretto.compiler.problem.expand import expand

RANKS = (2, 3, 4, 6, 8)
F, I, W = 10, 16, 6  # noqa: E741

Cell = Callable[[Any], str]
Generate = Callable[[int, int, int], str]
"""From ranks, stages per rank and micro-batches to the text of the table."""


class Generator(NamedTuple):
    """What makes tables: its name, the reader, the stages per rank to try, where stages are, and
    whether micro-batches enter at both ends."""

    name: str
    system: str
    chunks: tuple[int, ...]
    generate: Generate
    placement: PlacementWord | None = None
    both_ends: bool = False


def text(rows: Iterable[Iterable[Any]], cell: Cell = str) -> str:
    """A row a line, the cells between commas."""
    return "".join(",".join(map(cell, row)) + "\n" for row in rows)


def batches(ranks: int, both_ends: bool) -> list[int]:
    """The numbers of micro-batches that are tried."""
    few = {1, max(1, ranks // 2), max(1, ranks - 1), ranks + 1, 3 * ranks, 4 * ranks}
    both = {2 * ranks - 1, 2 * ranks + 2, 3 * ranks, 4 * ranks, 5 * ranks}
    return sorted({ranks, ranks + 2, 2 * ranks, 2 * ranks + 1} | (both if both_ends else few))


# ---------------------------------------------------------------------------- the projects


def pytorch(_: Path) -> Iterator[Generator]:
    """`torch.distributed.pipelining` as it is installed: the CSV that its classes dump; of the two
    that keep a table only for its visualizer, the computations in that table."""
    from torch.distributed.pipelining import schedules

    from tests.support.torch_csv import dumped, stages
    from tests.support.torch_tables import CLASSES

    folder = Path(tempfile.mkdtemp())
    for name, made in CLASSES.items():
        v = name in ("zb_v", "dualpipe_v")

        def generate(ranks: int, chunks: int, many: int, name: str = name) -> str:
            return dumped(folder, name, ranks, many, chunks, "compute_only")

        title = f"PyTorch {made.__name__.removeprefix('Schedule')}"
        yield Generator(
            title, "torch-csv", (2,) if v else (1, 2, 3), generate, "v" if v else "loop"
        )
    for one in (schedules.Schedule1F1B, schedules.ScheduleGPipe):

        def shown(ranks: int, chunks: int, many: int, one: Any = one) -> str:
            order = one(stages(ranks, 1)[0], many, loss_fn=lambda *_: None)._get_pipeline_order()
            return text(
                (a or "" for a in order[r] if a is None or a.is_compute_op) for r in range(ranks)
            )

        title = f"PyTorch {one.__name__.removeprefix('Schedule')}, its table"
        yield Generator(title, "torch-csv", (1,), shown, "loop")


def primus(folder: Path) -> Iterator[Generator]:
    """`produce_schedule_instance`. `primus.core.utils.module_utils` is stood in for, of which a log
    function is wanted."""
    packages(folder, "primus", "primus.core", "primus.core.utils", "primus.core.pipeline_parallel")
    stand_in("primus.core.utils.module_utils", log_rank_0=print)
    factory = module("primus.core.pipeline_parallel.scheduler.schedule_table_factory")
    sizes: dict[str, tuple[tuple[int, ...], PlacementWord]] = {
        "1f1b": ((1,), "loop"),
        "1f1b-interleaved": ((2, 3), "loop"),
        "zero-bubble": ((1,), "loop"),
        "zero-bubble-heuristic": ((1,), "loop"),
        "zbv-formatted": ((2,), "v"),
        "v-half": ((2,), "v"),
        "v-min": ((2,), "v"),
    }
    for name, (chunks, placement) in sizes.items():

        def generate(ranks: int, chunks: int, many: int, name: str = name) -> str:
            made = factory.produce_schedule_instance(name, ranks, chunks, many)
            return text(made.generate_schedule_table())

        yield Generator(f"Primus {name}", "primus", chunks, generate, placement)


def jaxpp(folder: Path) -> Iterator[Generator]:
    """The classes of `jaxpp.schedules`. `jaxpp.types`, which imports jax, is stood in for by its
    `TaskType` as it stands."""
    packages(folder / "src", "jaxpp")
    from enum import Enum

    types = stand_in("jaxpp.types", MpmdIdx=int, Enum=Enum)
    take(folder / "src/jaxpp/types.py", vars(types), "TaskType")
    schedules = module("jaxpp.schedules")

    def word(task: Any) -> str:
        return f"{task.stage_id}{task.fwd_or_bwd.name}{task.mubatch_idx}"

    def cell(task: Any) -> str:
        if task is None:
            return ""
        return word(task) if isinstance(task, schedules.Task) else "+".join(map(word, task))

    sizes = dict.fromkeys(("Std1F1B", "Eager1F1B", "GPipe", "ZeroBubble"), (1,))
    more = {"Interleaved1F1B": (1, 2, 3), "KimiK2": (2, 3), "InterleavedGPipe": (2,)}
    for name, chunks in {**sizes, **more, "DualPipeV": (2,)}.items():

        def generate(ranks: int, chunks: int, many: int, name: str = name) -> str:
            one = getattr(schedules, name)
            if issubclass(one, schedules.InterleavedBaseSchedule):
                made = one(num_stages=ranks * chunks, mpmd_dim=ranks)
            else:
                made = one(num_stages=ranks)
            return text(made.tasks(many), cell)

        yield Generator(f"JaxPP {name}", "jaxpp", chunks, generate)


def zero_bubble(folder: Path) -> Iterator[Generator]:
    """`create_schedule`, costs 10, 16, 6. `pulp` is stood in for, whose solver is not called."""
    names = ["megatron", "core", "pipeline_parallel", "zerobubble", "scheduler"]
    packages(folder, *(".".join(names[: n + 1]) for n in range(len(names))))
    stand_in("pulp", value=lambda x: x, LpVariable=object)
    home = ".".join(names)
    graph = module(f"{home}.graph")

    def config(ranks: int, chunks: int, many: int) -> Any:
        numbers = {"mem_f": 2, "mem_b": -1, "mem_w": -1, "max_mem": 4 * ranks}
        numbers |= {"cost_f": F, "cost_b": I, "cost_w": W}
        each = {name: [float(number)] * ranks for name, number in numbers.items()}
        sizes = {"max_chunks": chunks, "n_stages": ranks, "n_micro": many}
        return graph.GraphConfig(**each, **sizes, cost_comm=0.0)

    def cell(node: Any) -> str:
        return f"{node.layer_group_idx}{node.type}{node.microbatch}"

    greedy = {"zbv_greedy/half": (2,), "zbv_greedy/min": (2,)}
    sizes = {"basic1f1b": (1,), "vpp": (2, 3), "zb": (1,), "zbv": (2,), **greedy, "v1f1b": (2,)}
    for name, chunks in sizes.items():

        def generate(ranks: int, chunks: int, many: int, name: str = name) -> str:
            file, _, memory = name.partition("/")
            made: Any = module(f"{home}.{file}")
            if memory:
                made = made.PipelineGraph(ranks, many, memory, F, I, W, 0)
            elif file == "zbv":
                made = made.PipelineGraph(ranks, many, F, I, W, 0, 2, -1, -1)
            return text(made.create_schedule(config(ranks, chunks, many)), cell)

        yield Generator(f"zero-bubble {name}", "zero-bubble", chunks, generate)


def megatron(folder: Path) -> Iterator[Generator]:
    """The three functions that make the interleaved order, taken out of their modules, which need
    CUDA; of a communicator they ask how many ranks there are and which this is."""
    within: dict[str, Any] = {"Optional": Optional, "P2PCommunicator": object}
    core = folder / "megatron/core"
    take(core / "pipeline_parallel/schedules.py", within, "get_pp_rank_microbatches")
    take(core / "pipeline_parallel/schedules.py", within, "get_schedule_table")
    take(core / "transformer/cuda_graphs.py", within, "convert_schedule_table_to_order")
    groups: dict[str, Callable[[int], int]] = {
        "P": lambda ranks: ranks,
        "P + 1": lambda ranks: ranks + 1,
        "2P": lambda ranks: 2 * ranks,
        "P - 1": lambda ranks: ranks - 1,
    }
    for title, group in groups.items():

        def generate(ranks: int, chunks: int, many: int, group: Any = group) -> str:
            table = within["get_schedule_table"](many, chunks, group(ranks))
            orders = []
            for rank in range(ranks):
                pp = SimpleNamespace(size=lambda: ranks, rank=lambda rank=rank: rank)
                known = SimpleNamespace(pp_group=pp, virtual_pipeline_model_parallel_size=chunks)
                warmup = within["get_pp_rank_microbatches"](
                    many, chunks, group(ranks), p2p_communicator=known
                )[2]
                orders.append(within["convert_schedule_table_to_order"](warmup, chunks, table))
            return text(orders)

        yield Generator(f"Megatron-LM interleaved, groups of {title}", "megatron", (2, 3), generate)


def dualpipe(folder: Path) -> Iterator[Generator]:
    """`DualPipe.step` on every rank; the methods that compute write down their names, and those
    that send do nothing."""
    import torch

    packages(folder, "dualpipe")
    theirs, comm = module("dualpipe.dualpipe"), module("dualpipe.comm")
    comm.TENSOR_SHAPES, comm.TENSOR_DTYPE = [(1,)], torch.float32

    def nothing(*_: Any) -> None: ...

    def forward(self: Any, phase: int) -> None:
        way = phase ^ self.is_in_second_half
        self.cells.append(f"F{int(way)}.{self.current_f_chunk_id[way]}")
        self.current_f_chunk_id[way] += 1

    def backward(self: Any, phase: int, enable_zb: bool = False) -> None:
        way = phase ^ self.is_in_second_half
        self.cells.append(f"{'I' if enable_zb else 'B'}{int(way)}.{self.current_b_chunk_id[way]}")
        self.current_b_chunk_id[way] += 1

    def both(self: Any, first: int, second: int) -> None:
        forward(self, first)
        backward(self, second)
        self.cells[-2:] = ["+".join(self.cells[-2:])]

    quiet = ("_recv_forward", "_recv_backward", "_send_forward", "_send_backward")
    methods: dict[str, Any] = {
        "__init__": nothing,
        "_forward_compute_chunk": forward,
        "_backward_compute_chunk": backward,
        "_forward_backward_compute_chunk": both,
        "_weight_chunk": lambda self: self.cells.append("W"),
        **dict.fromkeys((*quiet, "_commit_and_wait_comm"), nothing),
    }
    traced: Any = type("Traced", (theirs.DualPipe,), methods)

    def generate(ranks: int, chunks: int, many: int) -> str:
        rows = []
        for rank in range(ranks):
            one = traced()
            one.group = SimpleNamespace(size=lambda: ranks, rank=lambda rank=rank: rank)
            one.num_ranks, one.rank, one.batch_dim, one.cells = ranks, rank, 0, []
            one.first_rank, one.last_rank = 0, ranks - 1
            one.is_first_rank, one.is_last_rank = rank == 0, rank == ranks - 1
            one.is_in_second_half = rank >= ranks // 2
            one.is_middle_rank = rank in (ranks // 2 - 1, ranks // 2)
            batch = [torch.zeros(max(1, many // 2), 1)] if rank in (0, ranks - 1) else []
            criterion = (lambda *_: None) if batch else None
            with Stack(torch):
                one.step(*batch, num_chunks=many, criterion=criterion, labels=batch)
            rows.append(one.cells)
        return text(rows)

    yield Generator("DualPipe", "dualpipe", (1,), generate, both_ends=True)


class Stack:
    """While it is entered, `torch.stack` does nothing: no losses are there to be stacked."""

    def __init__(self, torch: Any):
        self.torch, self.own = torch, torch.stack

    def __enter__(self) -> None:
        self.torch.stack = lambda *_: None

    def __exit__(self, *_: Any) -> None:
        self.torch.stack = self.own


# ---------------------------------------------------------------------------- parts of checkouts


def packages(folder: Path, *names: str) -> None:
    """Makes packages of folders without running what stands in their `__init__`."""
    for name in [loaded for loaded in sys.modules if loaded.split(".")[0] == names[0]]:
        del sys.modules[name]
    for name in names:
        stand_in(name).__path__ = [str(folder / name.replace(".", "/"))]


def stand_in(name: str, **has: Any) -> ModuleType:
    """A module that has these names, in the place of the real one."""
    made = ModuleType(name)
    vars(made).update(has)
    sys.modules[name] = made
    return made


def module(name: str) -> Any:
    return importlib.import_module(name)


def take(file: Path, into: dict[str, Any], name: str) -> None:
    """Runs the definition of one function or class of a file, as it stands."""
    tree = ast.parse(file.read_text())
    found = [one for one in tree.body if getattr(one, "name", None) == name]
    exec(compile(ast.Module(found, []), str(file), "exec"), into)


def commit(folder: Path) -> str:
    """The commit of a checkout."""
    command = ["git", "-C", str(folder), "log", "-1", "--format=%h %cs"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


# ---------------------------------------------------------------------------- the table


def codes(one: Generator, table: str, ranks: int, many: int) -> list[str]:
    """The codes of what is wrong with a table; none where it is right."""
    sizes = TableSizes(ranks, None if one.both_ends else many, one.placement)
    try:
        expand(
            understood(READERS[one.system](Source("t", table), MOST_ACTIONS, one.placement), sizes)
        )
    except Rejected as found:
        return sorted({each.code for each in found.diagnostics})
    return []


def row(one: Generator) -> str:
    """The row of one generator."""
    tried = refused = right = 0
    why: Counter[str] = Counter()
    wrong: list[tuple[int, int, int]] = []
    for ranks in RANKS:
        for chunks in one.chunks:
            for many in batches(ranks, one.both_ends):
                tried += 1
                try:
                    with contextlib.redirect_stdout(io.StringIO()):
                        table = one.generate(ranks, chunks, many)
                except Exception:  # whatever it raises, it refuses these sizes
                    refused += 1
                    continue
                found = codes(one, table, ranks, many)
                right += not found
                why.update(found)
                if found:
                    wrong.append((ranks, chunks, many))
    sizes = ", ".join(map(str, one.chunks))
    said = ", ".join(f"`{code}` {n}" for code, n in why.most_common())
    first = f"; first at {', '.join(map(str, wrong[0]))}" if wrong else ""
    return (
        f"| {one.name} | {sizes} | {tried} | {refused} | {right} | {len(wrong)} | {said}{first} |"
    )


PROJECTS: dict[str, Callable[[Path], Iterator[Generator]]] = {
    "primus": primus,
    "jaxpp": jaxpp,
    "zero-bubble": zero_bubble,
    "megatron": megatron,
    "dualpipe": dualpipe,
}


def main() -> None:
    """Print what was read, and a row as soon as its sizes are through."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    for name in PROJECTS:
        parser.add_argument(f"--{name}", type=Path, metavar="FOLDER", help="a clone of the project")
    given = {k: v for k, v in vars(parser.parse_args()).items() if v is not None}
    folders = {name.replace("_", "-"): folder for name, folder in given.items()}
    import torch

    read = [f"PyTorch {torch.__version__}"]
    read += [f"{name} {commit(folder)}" for name, folder in folders.items()]
    print(", ".join(read), end="\n\n")
    heads = ("generator", "stages per rank", "sizes", "it refuses", "right", "refused here")
    print(f"| {' | '.join(heads)} | why; the first: ranks, stages per rank, micro-batches |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for generator in pytorch(Path()):
        print(row(generator), flush=True)
    for name, folder in folders.items():
        for generator in PROJECTS[name](folder):
            print(row(generator), flush=True)


if __name__ == "__main__":
    main()
