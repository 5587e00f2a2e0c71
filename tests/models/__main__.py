"""`python -m tests.models [FILE]`: the table of schedules, models and features against one process;
with FILE it is written there too. Exit code 1 where a cell is not what is expected."""

import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from stretto.compiler.library import names
from tests.models import replicated
from tests.models.cells import Feature, Found
from tests.models.features import FEATURES
from tests.models.named import one_cell
from tests.models.zoo import ZOO, Entry
from tests.support.library import IN_PARTS


class Cell(NamedTuple):
    """A cell of the table and what came of it."""

    schedule: str
    entry: Entry
    feature: Feature
    found: Found


SAMPLE = ("one_f_one_b", "zb_h1", "dualpipe", "interleaved_1f1b")
"""The schedules under which every feature is tried: a plain one, one whose backward is split, one
with copies in both directions, one with several stages on a rank. A plain step is tried under all.
"""


TIED = ("GPT-2", "Llama, tied")
"""The models with a tied embedding, which take two optimizer steps under every schedule."""

REFUSED = {("ResNet", "FSDP2")}
"""What is refused: FSDP hands a module views of its inputs, on which torch lets nobody write in
place, as this model does first."""

REPLICATED = ("GPT", "ResNet", "GPT-2")
"""The models that are tried with data parallelism: four processes a cell."""


def cells() -> list[tuple[str, Entry, Feature]]:
    """Everything that is run."""
    plain, optimized = FEATURES[0], FEATURES[2]
    found = [(schedule, entry, plain) for schedule in SCHEDULES for entry in ZOO]
    found += [(s, entry, feature) for feature in FEATURES[1:] for entry in ZOO for s in SAMPLE]
    others = [schedule for schedule in SCHEDULES if schedule not in SAMPLE]
    found += [(s, entry, optimized) for entry in ZOO if entry.name in TIED for s in others]
    some = [entry for entry in ZOO if entry.name in REPLICATED]
    found += [(s, entry, feature) for feature in DATA_PARALLEL for entry in some for s in SAMPLE]
    return [one for one in found if one[1].there and one[2].suits(one[1])]


DATA_PARALLEL = replicated.features()
SCHEDULES = [name for name in names() if name not in {"inference", "two_models", *IN_PARTS}]
MARKS = {"equal": "=", "rounding": "≈", "refused": "–", "wrong": "**wrong**"}


def table(found: list[Cell], columns: dict[str, list[Cell]], corner: str) -> list[str]:
    """A table in Markdown: a row for each model, a mark for each column."""
    lines = [f"| {corner} | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for entry in dict.fromkeys(cell.entry.name for cell in found):
        marks = []
        for cells_ in columns.values():
            own = [cell.found.verdict for cell in cells_ if cell.entry.name == entry]
            marks.append(" ".join(dict.fromkeys(MARKS[verdict] for verdict in own)))
        lines.append(f"| {entry} | " + " | ".join(marks) + " |")
    return lines


def document(found: list[Cell]) -> str:
    """The page."""
    counts = Counter(cell.found.verdict for cell in found)
    by_schedule = {
        s: [c for c in found if c.schedule == s and c.feature is FEATURES[0]] for s in SCHEDULES
    }
    by_feature = {f.name: [c for c in found if c.feature is f] for f in FEATURES}
    by_replicas = {f.name: [c for c in found if c.feature is f] for f in DATA_PARALLEL}
    refused: dict[str, list[Cell]] = {}
    for cell in found:
        if cell.found.verdict in ("refused", "wrong"):
            refused.setdefault(f"{cell.feature.name}: {cell.found.why}", []).append(cell)
    return "\n".join(
        [
            "# Models, features and schedules against one process",
            "",
            f"Made by `make test-models` with {', '.join(versions())}. {len(found)} cells: "
            f"{counts['equal']} equal bit for bit (=), {counts['rounding']} equal to rounding (≈), "
            f"{counts['refused']} refused (–), {counts['wrong']} wrong.",
            "",
            "Each cell trains a model by a plan, on ranks that are threads, and compares what its "
            "feature names (gradients with losses and outputs, or weights) with one process that "
            "runs the same stages one after another and adds the micro-batches' gradients in the "
            "plan's order (`tests/models/oracle.py`). Equal to rounding is what differs by at most "
            "a millionth of a tensor's largest entry, where sums go another way (tied embeddings, "
            "norms); in bfloat16 by two units in the last place, after AdamW, which divides a "
            "gradient by its size, by a thousandth, and for the mean over a whole batch by 1e-5.",
            "",
            "## A step, under every schedule",
            "",
            *table(found, by_schedule, "model"),
            "",
            f"## Every feature, under {', '.join(SAMPLE)}",
            "",
            "Where schedules differ a cell has several marks; it is empty where a model has no "
            "such feature, or is compiled for minutes. Models with a tied embedding take "
            "the two steps of AdamW under every schedule.",
            "",
            *table([c for c in found if c.feature in FEATURES], by_feature, "model"),
            "",
            f"## Data parallelism, under {', '.join(SAMPLE)}",
            "",
            "Two pipelines of two ranks, which are processes, each on its half of the batch, "
            "against the mean of what one process computes for the halves.",
            "",
            *table([c for c in found if c.feature in DATA_PARALLEL], by_replicas, "model"),
            "",
            "## What is refused, and why",
            "",
            *(
                f"- {why.splitlines()[0]} ({len(cells_)}: "
                f"{', '.join(dict.fromkeys(c.entry.name for c in cells_))}; "
                f"{', '.join(dict.fromkeys(c.schedule for c in cells_))})"
                for why, cells_ in refused.items()
            ),
            "",
        ]
    )


def versions() -> list[str]:
    """What was installed."""
    found = []
    for package in ("torch", "transformers", "peft"):
        try:
            found.append(f"{package} {version(package).partition('+')[0]}")
        except PackageNotFoundError:
            found.append(f"without {package}")
    return found


def main() -> int:
    """Runs all cells, prints the page, and writes it where a file is named."""
    found, wrong = [], 0
    todo = cells()
    begun = time.monotonic()
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        running = [pool.submit(one_cell, s, e.name, f.name) for s, e, f in todo]
        for k, ((schedule, entry, feature), one) in enumerate(zip(todo, running, strict=True), 1):
            cell = Cell(schedule, entry, feature, one.result())
            found.append(cell)
            known = found[-1].found.verdict == "refused" and (entry.name, feature.name) in REFUSED
            if cell.found.verdict not in (feature.expected, "equal", "rounding") and not known:
                wrong += 1
                told = f"{schedule} × {entry.name} × {feature.name}: {cell.found.verdict}"
                print(f"{told}: {cell.found.why}", file=sys.stderr, flush=True)
            if k % 50 == 0:
                spent = time.monotonic() - begun
                print(f"{k} of {len(todo)} cells, {spent:.0f} s", file=sys.stderr, flush=True)
    page = document(found)
    print(page)
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(page, encoding="utf-8")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
