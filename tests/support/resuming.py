"""Trainings as processes, which are interrupted and gone on with; and what they end with."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load

from tests.support.paths import ROOT

TRAINEE = ROOT / "tests/support/interrupted.py"
LOSS = re.compile(r"^step (\d+)/\d+  loss (\S+)", re.MULTILINE)


def words(plan: Path, folder: Path, steps: int, *more: str) -> list[str]:
    """The arguments of `python -m stretto.runtime`."""
    named = ["--model", f"{TRAINEE}:MODEL", "--data", f"{TRAINEE}:DATA", "--steps", str(steps)]
    kept = ["--checkpoint", str(folder), "--checkpoint-every", "1", "--keep", "2"]
    return [str(plan), *named, *kept, "--log-every", "1", "--seed", "3", *more]


def torchrun(ranks: int, *given: str) -> list[str]:
    """The command of ranks that are processes; what stands before `--` goes to torchrun."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*launch, "--nproc-per-node", str(ranks), *given]


def trained(command: list[str], **environment: str) -> str:
    """What a training that ends well prints on stderr."""
    done = subprocess.run(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def losses(told: str) -> dict[int, str]:
    """By step the loss that was printed last."""
    return {int(step): loss for step, loss in LOSS.findall(told)}


def contents(folder: Path, step: int) -> dict[str, Any]:
    """All tensors of a checkpoint, by key."""
    where = folder / f"step-{step:08d}"
    reader = FileSystemReader(where)
    table = reader.read_metadata().state_dict_metadata
    found: dict[str, Any] = {
        key: torch.empty(entry.size, dtype=entry.properties.dtype)
        for key, entry in table.items()
        if isinstance(entry, TensorStorageMetadata)
    }
    load(found, storage_reader=reader, no_dist=True)
    return found


def same(ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    """Bit for bit."""
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
