"""Orders that were found before, by the Problem and what was asked of the search, so that compiling
again is instant. What is read here is not trusted: the order is checked like any other, and nothing
that is claimed of it is taken over. What an exhaustive search has proved is therefore not kept
here: such a problem is searched again. Nothing that goes wrong with the files is an error; then
there is just no memory.
"""

import json
from contextlib import suppress
from hashlib import sha256
from math import inf
from pathlib import Path
from time import process_time
from typing import NamedTuple

import msgspec

from stretto.compiler.atomic import atomic_write
from stretto.compiler.order.budget import Budget, SearchProgress
from stretto.compiler.order.engines.table import finders
from stretto.compiler.order.kernels.jit import available, cache_home, fast
from stretto.compiler.problem.problem import Problem

FORMAT = 3
MOST_BYTES = 24  # of a file, for each operation, and 4096
MOST_UNITS = 1 << 31
LONGEST = 1e9  # seconds


class Remembered(NamedTuple):
    """A flat sequence, its engine, and how long was searched for it: seconds of a core, or those
    that were to be spent if these are fewer, or an effort counted."""

    sequence: list[int]
    engine: str
    seconds: float


def recall(problem: Problem, budget: Budget) -> Remembered | None:
    """What an earlier run left, if that is what one may have left."""
    if not budget.cache:
        return None
    with suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
        path = _path(problem, budget)
        if path.is_symlink() or not path.is_file():
            return None
        with path.open("rb") as file:
            found = json.loads(file.read(4096 + MOST_BYTES * len(problem.operations)))
        sequence, engine, seconds = found["sequence"], found["engine"], found["seconds"]
        whole = type(sequence) is list and all(type(u) is int for u in sequence)
        if not whole or not all(-1 <= u < MOST_UNITS for u in sequence):
            return None
        if (
            engine not in finders()
            or type(seconds) not in (int, float)
            or not 0 <= seconds <= LONGEST
        ):
            return None
        return Remembered(sequence, engine, seconds)
    return None


DONE = 0.6
"""Of the seconds that may be spent: so many of a core, and the machine did the search."""

PLAIN = 20
"""Times as long as compiled loops take plain ones, where both are to be had; more, in truth."""


def again(old: Remembered | None, budget: Budget) -> bool:
    """Whether to search, also where something is remembered: on a machine that was busy, or on
    plain loops, less was done than is to be done now."""
    if old is None:
        return True
    if budget.effort is not None:
        return old.seconds < budget.seconds
    return old.seconds < DONE * budget.seconds


def worked(budget: Budget, began: float, old: Remembered | None) -> float:
    """The seconds to be remembered of a search that began at this second of `process_time`, with
    those of the `old` one that it went on from."""
    before = old.seconds if old is not None else 0.0
    if budget.effort is not None:
        return before + budget.seconds
    seconds = process_time() - began
    return before + min(budget.seconds, seconds if fast() or not available() else seconds / PLAIN)


def tell(old: Remembered, budget: Budget) -> None:
    """Say that nothing was searched; an effort would find the same."""
    if budget.progress is not None and budget.effort is None:
        words = (
            f"the order is that of an earlier search ({old.seconds:.0f} s of a core); a longer "
            "--time-limit goes on from there, --no-cache searches anew"
        )
        budget.progress(SearchProgress(words, 0, 0, inf))


def remember(problem: Problem, budget: Budget, what: Remembered) -> None:
    """Leave it for a later run; the file is there whole or not at all. A link in its place, or a
    pipe, is not ours and stays as it is."""
    if not budget.cache:
        return
    with suppress(OSError):
        path = _path(problem, budget)
        if path.is_symlink() or (path.exists() and not path.is_file()):
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            file.write(json.dumps(what._asdict()).encode())


def _path(problem: Problem, budget: Budget) -> Path:
    spec = msgspec.structs.replace(problem.spec, name="", spans=(), parameters={})
    # a search that knew fewer published orders may have missed the best
    asked = [FORMAT, budget.effort, budget.seed, budget.engine, sorted(finders())]
    text = msgspec.json.encode(spec) + json.dumps(asked).encode()
    return cache_home() / "orders" / f"{sha256(text).hexdigest()[:32]}.json"
