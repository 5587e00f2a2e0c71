"""Orders that were found before, by the Problem and what was asked of the search, so that compiling
again is instant. What is read here is not trusted: it is checked like any other order (what a
search proved of it is believed). Nothing that goes wrong with the files is an error; then there is
just no memory.
"""

import json
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import msgspec

from stretto.compiler.atomic import atomic_write
from stretto.compiler.order.budget import Budget
from stretto.compiler.order.kernels.jit import cache_home
from stretto.compiler.problem.problem import Problem

FORMAT = 2


class Remembered(NamedTuple):
    """A flat sequence, its engine, what was proven of it, and how long was searched for it."""

    sequence: list[int]
    engine: str
    proven: int
    seconds: float


def recall(problem: Problem, budget: Budget) -> Remembered | None:
    """What an earlier run left."""
    if not budget.cache:
        return None
    with suppress(OSError, ValueError, TypeError, KeyError):
        found = json.loads(_path(problem, budget).read_text())
        sequence = [int(u) for u in found["sequence"]]
        return Remembered(sequence, str(found["engine"]), int(found["proven"]), found["seconds"])
    return None


def remember(problem: Problem, budget: Budget, what: Remembered) -> None:
    """Leave it for a later run; the file is there whole or not at all."""
    if not budget.cache:
        return
    with suppress(OSError):
        path = _path(problem, budget)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            file.write(json.dumps(what._asdict()).encode())


def _path(problem: Problem, budget: Budget) -> Path:
    spec = msgspec.structs.replace(problem.spec, name="", spans=(), parameters={})
    asked = [FORMAT, budget.effort, budget.seed, budget.engine]
    text = msgspec.json.encode(spec) + json.dumps(asked).encode()
    return cache_home() / "orders" / f"{sha256(text).hexdigest()[:32]}.json"
