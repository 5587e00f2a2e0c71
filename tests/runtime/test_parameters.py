"""Which parameters an optimizer is given, and which of them count: each once."""

from typing import Any

import pytest
import torch
from torch import nn

from stretto.compiler.plan.plan import Plan
from stretto.runtime import Executor, run_local
from stretto.runtime.topology import StageId
from stretto.runtime.train.model import Model, Models
from stretto.runtime.train.optimizers import stepping_of
from stretto.runtime.transport.local import Local
from tests.support.training import Modules, batch, compiled, loss, spec_of

WIDTH = 6


class Part(nn.Module):
    """A stage with a weight of its own; some also hold `shared`."""

    def __init__(self, seed: int, shared: nn.Parameter | None = None):
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.own = nn.Parameter(torch.randn(WIDTH, WIDTH, generator=draw) / 3)
        self.shared = shared

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + torch.tanh(x @ self.own)
        return x if self.shared is None else x @ self.shared


def parts(plan: Plan, rank: int) -> Modules:
    """A rank's stages; its first and last one share a weight, the same object."""
    spec = spec_of(plan)
    shared = nn.Parameter(torch.eye(WIDTH))
    return {
        (pipeline.name, s): Part(s, shared if s in (0, len(pipeline.stages) - 1) else None)
        for pipeline in spec.pipelines
        for s, stage in enumerate(pipeline.stages)
        if stage.rank == rank
    }


def on_ranks(plan: Plan, body: Any) -> list[Any]:
    def rank(transport: Local) -> Any:
        stages = parts(plan, transport.rank)
        executor = Executor(plan, stages, loss, transport=transport, timeout=20.0)
        try:
            return body(executor)
        finally:
            executor.close()

    return run_local(plan, rank)


SCHEDULES = [
    ("dualpipe_v", {"ranks": 2, "microbatches": 4}),
    ("dualpipe", {"ranks": 2, "microbatches": 4}),
    ("chimera", {"ranks": 4, "microbatches": 4}),
]


@pytest.mark.parametrize(("name", "sizes"), SCHEDULES, ids=[name for name, _ in SCHEDULES])
def test_every_parameter_once(name: str, sizes: dict[str, int]) -> None:
    """Over all ranks one holder counts for each of the model's parameters: so many own weights as
    there are stages, and the shared one."""
    plan = compiled(name, **sizes)
    count = len(spec_of(plan).pipelines[0].stages)

    def body(executor: Executor) -> tuple[list[str], int]:
        given = list(executor.parameters())
        assert len(given) == len({id(p) for p in given})
        owned = {id(p) for p in executor.owned_parameters()}
        assert owned <= {id(p) for p in given}
        counted = [name for name, p in executor.named_parameters() if id(p) in owned]
        return counted, sum(name.endswith("shared") for name, _ in executor.named_parameters())

    found = on_ranks(plan, body)
    counted = [name for names, _ in found for name in names]
    assert len(counted) == len(set(counted)) == count + 1
    assert sum(name.endswith(".shared") for name in counted) == 1
    assert all(many <= 1 for _, many in found), "an optimizer would move it twice"


def test_two_parameters_over_one_memory_are_one() -> None:
    plan = compiled("dualpipe_v", ranks=2, microbatches=4)

    def rank(transport: Local) -> list[str]:
        stages = parts(plan, transport.rank)
        first, last = stages["main", transport.rank], stages["main", 3 - transport.rank]
        assert isinstance(first, Part) and isinstance(last, Part)
        last.own = nn.Parameter(first.own.detach())
        executor = Executor(plan, stages, loss, transport=transport, timeout=20.0)
        executor.close()
        return [name for name, _ in executor.named_parameters()]

    assert run_local(plan, rank) == [["main[0].own", "main[0].shared"], ["main[1].own"]]


def test_the_command_line_steps_a_shared_parameter_once() -> None:
    plan = compiled("dualpipe_v", ranks=2, microbatches=4)
    spec = spec_of(plan)
    stages = {
        StageId(0, s): part for (_, s), part in parts(plan, 0).items() if isinstance(part, Part)
    }
    assert len(stages) == 2
    models = Models(spec, Model(lambda s, _: stages[StageId(0, s)], loss), "--model")
    ((optimizer, _, _),) = stepping_of(models, stages, 0)
    given = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(given) == len({id(p) for p in given}) == 3


def test_a_parameter_has_one_name_on_all_ranks() -> None:
    plan = compiled("dualpipe", ranks=2, microbatches=4)
    x, target = batch(spec_of(plan))

    def body(executor: Executor) -> list[str]:
        executor.step(x, target=target)
        return [name for name, p in executor.named_parameters() if p.grad is not None]

    first = spec_of(plan).pipelines[0].name
    assert on_ranks(plan, body) == [
        [f"{first}[0].own", f"{first}[0].shared", f"{first}[1].own"],
        [f"{first}[0].own", f"{first}[0].shared", f"{first}[1].own"],
    ]
