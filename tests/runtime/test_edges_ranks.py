"""What travels between stages, each rank a process: over gloo, which would deliver anything."""

import shutil
import time
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stretto.compiler.plan.plan import Plan
from stretto.runtime import Executor, MicrobatchList, PipelineError, StepRefused
from tests.support.ranks import run
from tests.support.training import WIDTH, Layer, batch, built, compiled, loss, spec_of

pytestmark = pytest.mark.xdist_group("ranks")  # one after the other: they wait for each other


class Branching(nn.Module):
    """Gives a state and beside it something that the next stage uses where the first number of the
    state is positive."""

    def __init__(self, seed: int):
        super().__init__()
        self.layer, self.aside = Layer(seed), Layer(seed + 50)

    def forward(self, x: Tensor, aside: Tensor | None = None) -> Any:
        if aside is not None and x.detach()[0, 0] > 0:
            x = x + aside
        return self.layer(x), self.aside(x)


def judge(output: Any, target: Tensor) -> Tensor:
    return loss(output[0], target)


LENGTHS = (1, 3, 2, 4)


def several_steps(rank: int, plan: Plan, check_messages: bool) -> Any:
    """Micro-batches of unlike shape, wrong batches between them, gradients that come and go. Only
    the ends are given what they need."""
    spec = spec_of(plan)
    (module,) = built(spec, rank, Branching).values()
    executor = Executor(
        plan, [module], judge, timeout=30, scale_loss=False, check_messages=check_messages
    )
    first, last = rank == 0, rank == spec.ranks - 1
    x, target = batch_of()
    found, refused = [], []
    for inputs in (x, -x.abs(), x):
        xs, targets = MicrobatchList.cut(inputs, LENGTHS), MicrobatchList.cut(target, LENGTHS)
        with pytest.raises(StepRefused) as told:
            executor.step(xs if first else None, target=target[:3] if last else None)
        refused.append(str(told.value))
        module.zero_grad()
        losses: list[Tensor] = []
        executor.step(xs if first else None, target=targets if last else None, losses=losses)
        found.append([parameter.grad for parameter in module.parameters()])
    executor.close()
    return found, refused


def batch_of() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    rows = sum(LENGTHS)
    return torch.randn(rows, WIDTH, generator=draw), torch.randn(rows, WIDTH, generator=draw)


@pytest.mark.parametrize(
    ("name", "checked"), [("one_f_one_b", False), ("one_f_one_b", True), ("zb_h1", False)]
)
def test_absent_gradients_unlike_shapes_and_refused_batches(name: str, checked: bool) -> None:
    plan = compiled(name, ranks=3, microbatches=4)
    outcome = run(3, several_steps, plan, checked)
    x, target = batch_of()
    absent = 0
    for at, inputs in enumerate((x, -x.abs(), x)):
        modules = [Branching(s) for s in range(3)]
        for part, wanted in zip(inputs.split(LENGTHS), target.split(LENGTHS), strict=True):
            value: Any = (part,)
            for module in modules:
                value = module(*value)
            judge(value, wanted).backward()
        for s, module in enumerate(modules):
            ours = outcome.results[s][0][at]
            for a, b in zip(ours, (p.grad for p in module.parameters()), strict=True):
                absent += b is None
                assert (a is None) == (b is None), (at, s)
                assert a is None or (b is not None and torch.equal(a, b)), (at, s)
    assert absent
    for rank, (_, refused) in enumerate(outcome.results):
        assert all("target" in words for words in refused)
        assert rank == 2 or all("rank 2 cannot begin the step: " in words for words in refused)


def lonely(rank: int, plan: Plan) -> str:
    """The last rank takes one step less."""
    executor = Executor(plan, built(spec_of(plan), rank), loss, timeout=2)
    x, target = batch(spec_of(plan))
    executor.step(x, target=target)
    if rank == 2:
        time.sleep(8)
        return ""
    executor.step(x, target=target)
    return "no"


def test_a_rank_that_does_not_begin_its_step_is_named_without_our_keys() -> None:
    outcome = run(3, lonely, compiled("one_f_one_b", ranks=3, microbatches=4), check=False)
    assert outcome.codes[:2] == [1, 1]
    told = outcome.output[0] + outcome.output[1]
    assert "the step stands still: rank" in told and "rank 2 is between steps" in told
    assert "waits for rank 2 to begin step 2" in told
    assert not any(key in told for key in ("card/", "verdict/", "edge/"))


def compiled_stages(rank: int, plan: Plan) -> Any:
    """Steps of a stage that inductor has compiled, and of the same one as it is."""
    spec, gradients = spec_of(plan), []
    x, target = batch(spec)
    for compiles in (True, False):
        (own,) = built(spec, rank).values()
        module: Any = torch.compile(own) if compiles and rank == 0 else own
        executor = Executor(plan, [module], loss, timeout=120)
        executor.step(x, target=target)
        executor.step(x, target=target)
        executor.close()
        gradients.append([p.grad for p in own.parameters()])
    return gradients


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
@pytest.mark.parametrize("name", [pytest.param("one_f_one_b", marks=pytest.mark.full), "zb_h1"])
def test_a_compiled_stage(name: str) -> None:
    """Nothing but its own micro-batches has reached it: one without contents would crash it."""
    plan = compiled(name, ranks=2, microbatches=3)
    outcome = run(2, compiled_stages, plan, seconds=240)
    for ours, theirs in outcome.results:
        for a, b in zip(ours, theirs, strict=True):
            assert torch.allclose(a, b, atol=1e-6)


def different(rank: int, plan: Plan) -> str:
    """Ranks are given other numbers, then the same."""
    executor = Executor(plan, built(spec_of(plan), rank), loss, timeout=20)
    x, target = batch(spec_of(plan))
    with pytest.raises(PipelineError) as told:
        executor.step(x, target=target + (rank == 3))
    executor.step(x, target=target)
    executor.close()
    return str(told.value)


def test_batches_that_differ_between_ranks() -> None:
    plan = compiled("dualpipe", ranks=4, microbatches=8)
    for told in run(4, different, plan).results:
        assert "target" in told and "cannot begin" in told
