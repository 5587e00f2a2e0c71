"""Orders that were found before, by the Problem and what was asked of the search, so that compiling
again is instant. What is read here is not trusted: the order is checked like any other, and nothing
that is claimed of it is taken over. What an exhaustive search has proved is therefore not kept
here: such a problem is searched again. Nothing that goes wrong with the files is an error; then
there is just no memory.
"""

import json
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import msgspec

from stretto.compiler.atomic import atomic_write
from stretto.compiler.order.budget import Budget
from stretto.compiler.order.engines.table import finders
from stretto.compiler.order.kernels.jit import cache_home
from stretto.compiler.problem.problem import Problem

FORMAT = 3
MOST_BYTES = 24  # of a file, for each operation, and 4096
MOST_UNITS = 1 << 31
LONGEST = 1e9  # seconds


class Remembered(NamedTuple):
    """A flat sequence, its engine, and how long was searched for it."""

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
    asked = [FORMAT, budget.effort, budget.seed, budget.engine]
    text = msgspec.json.encode(spec) + json.dumps(asked).encode()
    return cache_home() / "orders" / f"{sha256(text).hexdigest()[:32]}.json"
