"""Checkpoints of ranks that are processes: written by all of them together, and read by as many as
there are then."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stretto.compiler.plan.plan import Plan
from stretto.runtime import Executor, PipelineError
from stretto.runtime.checkpoint import load, save
from tests.runtime.test_checkpoints import Part, weights
from tests.support.ranks import run
from tests.support.training import compiled, loss, spec_of

pytestmark = pytest.mark.xdist_group("ranks")


def started(rank: int, plan: Plan) -> tuple[Executor, Any, dict[Any, Any]]:
    modules = {
        (p.name, s): Part(s, len(p.stages))
        for p in spec_of(plan).pipelines
        for s, stage in enumerate(p.stages)
        if stage.rank == rank
    }
    executor = Executor(plan, modules, loss, timeout=30)
    parameters = [p for module in modules.values() for p in module.parameters()]
    return executor, torch.optim.AdamW(parameters, lr=1e-2), modules


def steps(executor: Executor, optimizer: Any, many: int) -> None:
    draw = torch.Generator().manual_seed(0)
    x, y = (torch.randn(16, 6, generator=draw) for _ in range(2))
    for _ in range(many):
        executor.step(x, target=y)
        optimizer.step()
        optimizer.zero_grad()


def saves(rank: int, plan: Plan, folder: str) -> dict[str, Tensor]:
    executor, optimizer, modules = started(rank, plan)
    steps(executor, optimizer, 2)
    save(executor, folder, 2, optimizer)
    found = weights(modules)
    executor.close()
    return found


def loads(rank: int, plan: Plan, folder: str) -> tuple[int | None, dict[str, Tensor], float]:
    executor, optimizer, modules = started(rank, plan)
    torch.rand(rank + 1)
    step = load(executor, folder, optimizer)
    found = step, weights(modules), float(torch.rand(()))
    executor.close()
    return found


def test_four_ranks_save_and_two_go_on(tmp_path: Path) -> None:
    four, two = (
        compiled("dualpipe", ranks=4, microbatches=8),
        compiled("one_f_one_b", ranks=2, microbatches=8),
    )
    expected = {k: v for r in run(4, saves, four, str(tmp_path)).results for k, v in r.items()}
    (first, a, _), (second, b, _) = run(2, loads, two, str(tmp_path)).results
    assert first == second == 2
    assert (a | b).keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in (a | b).items())
    again = run(4, loads, four, str(tmp_path)).results
    assert len({number for _, _, number in again}) == 1  # the random states are those of then


def fails(rank: int, plan: Plan, folder: str) -> str:
    executor, optimizer, _ = started(rank, plan)

    class Stubborn:
        """Has a state that nobody can write, on one rank."""

        def state_dict(self) -> Any:
            return {"state": (lambda: 0) if rank == 1 else 0}

        def load_state_dict(self, state: Any) -> None: ...

    told = "nothing"
    try:
        save(executor, folder, 1, optimizer, extra={f"on {rank}": Stubborn()})
    except PipelineError as error:
        told = str(error)
    executor.close()
    return told


def test_where_one_rank_cannot_write_all_are_told(tmp_path: Path) -> None:
    plan = compiled("one_f_one_b", ranks=2, microbatches=4)
    for told in run(2, fails, plan, str(tmp_path)).results:
        assert told.startswith("the checkpoint of step 1 was not written: rank ")
    assert not list(tmp_path.iterdir())
