"""Faults among ranks: what, when, where, and started how. Each time the culprit is named, all ends
within the timeout and some seconds, and no process is left."""

import os
import random
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest

from tests.attacks.conftest import Tally
from tests.attacks.faults import FAULTS, MOMENTS, TIMEOUT, WORLD, Fault, happen, prepare

pytestmark = pytest.mark.xdist_group("ranks")  # one after the other: they wait for each other

SLACK = 12.0  # seconds beside the timeout: a loaded machine, and the wait for another's words
ALL = [
    fault
    for fault in (Fault(*f) for f in product(FAULTS, MOMENTS, range(WORLD), ("plain",)))
    if fault.possible()
]
BY_OTHERS = [
    Fault(what, when, rank, launcher)
    for launcher in ("run", "torchrun")
    for what, when, rank in (
        *product(("kill", "leave", "raise"), ("build", "data", "forward", "backward"), (1,)),
        ("segv", "forward", 0),
        ("stop", "forward", 1),
        ("sleep", "backward", 2),
        ("exit", "optimizer", 0),
        ("raise", "import", 2),
    )
]


def check(faults: list[Fault], folder: Path, tally: Tally) -> None:
    """Makes them happen. All are tried before any is found to be wrong."""
    prepare(folder)
    wrong, named, slowest, left = [], 0, 0.0, 0
    for fault in faults:
        ending = happen(fault, folder)
        slowest, left = max(slowest, ending.seconds), left + ending.left
        good = ending.named(fault) and ending.told(fault)
        named += good
        ended = not ending.left and ending.seconds < TIMEOUT + SLACK and any(ending.codes)
        if not good or not ended:
            wrong.append(f"{fault}: {ending.seconds:.1f} s, {ending.left} left\n{ending.text}")
            if os.environ.get("ATTACKS"):
                print(wrong[-1], flush=True)
    tally(faults=len(faults), culprits_named=named, slowest=round(slowest), processes_left=left)
    assert not wrong, "\n\n".join(wrong[:3])


def test_faults_of_ranks(tmp_path: Path, tally: Tally, attacks: Callable[[int, int], int]) -> None:
    some = [Fault("kill", "backward", 0, "plain"), Fault("raise", "data", 2, "plain")]
    check(ALL if attacks(0, 1) else some, tmp_path, tally)


def test_faults_under_launchers(
    tmp_path: Path, tally: Tally, attacks: Callable[[int, int], int]
) -> None:
    some = [Fault("kill", "forward", 1, "run")]
    chosen = BY_OTHERS if attacks(0, 1) else some
    check(random.Random(0).sample(chosen, len(chosen)), tmp_path, tally)
