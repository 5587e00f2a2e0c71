"""What `show --format torch-csv` writes, in torch's own runtime on gloo: it runs, and every
gradient is that of one process.
"""

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from stretto.compiler.diagnostics.source import Source
from stretto.compiler.driver import compile_file, compile_spec, compile_text
from stretto.compiler.imports.torch_csv import read
from stretto.compiler.imports.understand import MOST_ACTIONS, understood
from stretto.compiler.order.budget import Budget
from stretto.compiler.plan.plan import Plan
from stretto.compiler.show import draw
from tests.support import ranks

WIDE, BATCH = 6, 3  # of every stage, of a micro-batch

FOUND = """\
schedule found
ranks 2
microbatches 5
pipeline main { stages 5  place s -> [0, 1, 0, 0, 1][s] }
split B into I, W
limit activations <= 6
cost F[2] = 3
"""


def block(stage: int) -> torch.nn.Module:
    """A stage with a residual, so that inputs and weights share their path."""

    class Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.nn.Linear(WIDE, WIDE, dtype=torch.float64)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.tanh(self.inner(x))

    torch.manual_seed(stage)
    return Block()


def batch(microbatches: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(99)
    x, y = torch.randn(2, BATCH * microbatches, WIDE, dtype=torch.float64)
    return x, y


def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return ((output - target) ** 2).mean()


def alone(stages: int, microbatches: int) -> dict[str, torch.Tensor]:
    """The gradients of one process: the mean over the micro-batches."""
    model = [block(s) for s in range(stages)]
    x, y = batch(microbatches)
    for part, target in zip(x.chunk(microbatches), y.chunk(microbatches), strict=True):
        for stage in model:
            part = stage(part)
        (loss(part, target) / microbatches).backward()
    return named(dict(enumerate(model)))


def named(stages: dict[int, torch.nn.Module]) -> dict[str, torch.Tensor]:
    found = {}
    for s, stage in stages.items():
        for name, weight in stage.named_parameters():
            assert weight.grad is not None
            found[f"{s}.{name}"] = weight.grad
    return found


def trained(
    rank: int, text: str, dialect: str, place: list[int], microbatches: int
) -> dict[str, torch.Tensor]:
    """One step of torch's runtime on this rank: its gradients, twice over."""
    from torch.distributed.pipelining import PipelineStage
    from torch.distributed.pipelining.schedules import _PipelineScheduleRuntime

    own = {s: block(s) for s, r in enumerate(place) if r == rank}
    stages: list[Any] = [
        PipelineStage(module, s, len(place), torch.device("cpu")) for s, module in own.items()
    ]
    for stage in stages:
        stage.stage_index_to_group_rank = dict(enumerate(place))
    runtime = _PipelineScheduleRuntime(stages, n_microbatches=microbatches, loss_fn=loss)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "schedule.csv"
        file.write_text(text)
        runtime._load_csv(str(file), format=dialect)  # type: ignore[arg-type]
    x, y = batch(microbatches)
    given: tuple[torch.Tensor, ...] = (x,) if 0 in own else ()
    wanted: dict[str, Any] = {"target": y} if len(place) - 1 in own else {}
    runtime.step(*given, **wanted)
    return named(own)


@cache
def plans() -> dict[str, Plan]:
    quick = Budget(effort=2)
    return {
        "zb_v": compile_file("zb_v", ranks=2, microbatches=5),
        "dualpipe_v": compile_file("dualpipe_v", ranks=2, microbatches=5),
        "interleaved": compile_file("interleaved_zero_bubble", ranks=2, microbatches=4),
        "found": compile_text(FOUND, "found.pipe", budget=quick),
    }


@pytest.mark.parametrize("dialect", ["compute_only", "compute_comms"])
@pytest.mark.parametrize("name", ["zb_v", "dualpipe_v", "interleaved", "found"])
def test_torch_runs_it_with_the_right_gradients(name: str, dialect: str) -> None:
    plan = plans()[name]
    spec = plan.programs["train"].spec
    text = draw(plan, "torch-csv", dialect=dialect)
    place = [stage.rank for stage in spec.pipelines[0].stages]
    outcome = ranks.run(spec.ranks, trained, text, dialect, place, spec.microbatches)
    expected = alone(len(place), spec.microbatches)
    found = {key: value for own in outcome.results for key, value in own.items()}
    assert found.keys() == expected.keys()
    for key, gradient in expected.items():
        torch.testing.assert_close(found[key], gradient, rtol=0, atol=1e-15)


@pytest.mark.parametrize("dialect", ["compute_only", "compute_comms"])
@pytest.mark.parametrize("name", ["zb_v", "dualpipe_v", "interleaved", "found"])
def test_round_trips_lose_nothing(name: str, dialect: str) -> None:
    text = draw(plans()[name], "torch-csv", dialect=dialect)
    again = understood(read(Source("t.csv", text), MOST_ACTIONS))
    plan = compile_spec(again)
    assert draw(plan, "torch-csv") == draw(plans()[name], "torch-csv")
