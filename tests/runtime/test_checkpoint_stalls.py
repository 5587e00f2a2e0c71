"""A rank that never comes to its checkpoint, where ranks are threads: others end, and name it."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from stretto.runtime import Executor, PipelineError, run_local
from stretto.runtime.checkpoint import save
from stretto.runtime.transport.local import Local
from tests.support.training import compiled


class Endless:
    """A loader of data that hangs when it is asked for its position, until it is let go."""

    def __init__(self) -> None:
        self.free = threading.Event()

    def state_dict(self) -> dict[str, Any]:
        self.free.wait(60)
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


def test_a_thread_that_hangs_at_a_checkpoint_is_told(tmp_path: Path) -> None:
    endless = Endless()

    def body(transport: Local) -> None:
        stages = {("main", transport.rank): nn.Linear(4, 4)}
        executor = Executor(plan, stages, lambda y, _: y.sum(), transport=transport, timeout=0.5)
        batch = torch.ones(8, 4)
        executor.step(batch, target=batch)
        own: dict[str, Any] = {"data": endless} if transport.rank == 1 else {}
        try:
            save(executor, tmp_path / "kept", 1, own=own)
        finally:
            endless.free.set()

    plan = compiled("one_f_one_b", ranks=2, microbatches=4)
    told = (
        r"stands still: rank 0 waits for other ranks at a checkpoint.*\n  rank 1 is between steps"
    )
    with pytest.raises(PipelineError, match=told):
        run_local(plan, body)
    assert not list(tmp_path.glob("kept/step-*1"))
