"""One parameter in several places: every holder has, after every step, the gradient and the weight
that it has in one process."""

import pytest
import torch

from stretto.compiler import library
from stretto.compiler.plan.plan import Plan
from stretto.runtime import Executor
from stretto.runtime.topology import StageId
from stretto.runtime.train.verify import Verdict, verify
from tests.support.library import IN_PARTS
from tests.support.tied import (
    OneProcess,
    TiedStage,
    fresh,
    near,
    tied_run,
    tied_stages,
    token_loss,
    tokens,
)
from tests.support.training import compiled, spec_of

ONE_MODEL = [
    name
    for name in library.names()
    if name not in ("inference", "two_models") and name not in IN_PARTS
]
SIZES = {"chimera": (4, 4), "dualpipe": (4, 8), "dualpipe_v": (2, 4), "gems": (2, 4)}
SAMPLE = ["one_f_one_b", "zb_v", "dualpipe", "chimera", "interleaved_1f1b"]


def plan_for(name: str) -> Plan:
    ranks, microbatches = SIZES.get(name, (2, 4))
    return compiled(name, ranks=ranks, microbatches=microbatches)


def middle(plan: Plan) -> int:
    return len(spec_of(plan).pipelines[0].stages) // 2


def check(plan: Plan, one_object: bool, more: tuple[int, ...] = ()) -> None:
    ranks = range(spec_of(plan).ranks)
    modules = [tied_stages(plan, rank, one_object, more) for rank in ranks]
    run = tied_run(plan, modules)
    alone = OneProcess(spec_of(plan), more).steps()
    first, *others = run.holders()
    for other in others:
        assert other.grad is not None and first.grad is not None
        assert torch.equal(first, other) and torch.equal(first.grad, other.grad)
    for own in run.modules:
        for (_, s), module in own.items():
            expected = dict(alone.stages[s].named_parameters(remove_duplicate=False))
            for name, parameter in module.named_parameters(remove_duplicate=False):
                assert near(parameter.grad, expected[name].grad), (s, name)
                assert near(parameter.detach(), expected[name].detach()), (s, name)


@pytest.mark.parametrize("name", SAMPLE)
@pytest.mark.parametrize("one_object", [True, False], ids=["object", "declared"])
def test_two_steps_of_adamw(name: str, one_object: bool) -> None:
    check(plan_for(name), one_object)


@pytest.mark.parametrize("name", ["one_f_one_b", "dualpipe", "zb_v"])
def test_three_holders(name: str) -> None:
    plan = plan_for(name)
    check(plan, True, (middle(plan),))


@pytest.mark.full
@pytest.mark.parametrize("name", ONE_MODEL)
@pytest.mark.parametrize("one_object", [True, False], ids=["object", "declared"])
def test_every_schedule(name: str, one_object: bool) -> None:
    plan = plan_for(name)
    check(plan, one_object)
    check(plan, one_object, (middle(plan),))


@pytest.mark.parametrize("name", ["gpipe", "one_f_one_b"])
def test_one_microbatch_is_one_process_bit_for_bit(name: str) -> None:
    """Two gradients of one micro-batch: their sum has one order alone."""
    plan = compiled(name, ranks=2, microbatches=1)
    modules = [tied_stages(plan, rank, dtype=torch.float32) for rank in (0, 1)]
    tied_run(plan, modules, steps=3)
    alone = OneProcess(spec_of(plan), dtype=torch.float32).steps(3)
    for own in modules:
        for (_, s), module in own.items():
            for ours, theirs in zip(module.parameters(), alone.stages[s].parameters(), strict=True):
                assert ours.grad is not None and theirs.grad is not None
                assert torch.equal(ours, theirs) and torch.equal(ours.grad, theirs.grad)


# --verify ---------------------------------------------------------------------------------------


def verified(plan: Plan, more: tuple[int, ...] = (), broken: bool = False) -> Verdict:
    """In float32, where sums are rounded."""
    spec = spec_of(plan)
    modules = [tied_stages(plan, rank, True, more, torch.float32) for rank in range(spec.ranks)]
    found: list[Verdict | None] = []

    def build(stage: StageId) -> TiedStage:
        return TiedStage(stage.stage, len(spec.pipelines[0].stages), more, fresh())

    def body(executor: Executor, _: torch.optim.Optimizer) -> None:
        if broken:
            executor.replicas.sum = lambda *numbers: None  # type: ignore[method-assign]
        x, target = tokens(spec)
        found.append(verify(executor, plan, build, token_loss, x, target, {}))

    tied_run(plan, modules, body=body)
    (verdict,) = [one for one in found if one is not None]
    return verdict


@pytest.mark.parametrize("name", SAMPLE)
def test_verify_adds_as_the_plan_does_bit_for_bit(name: str) -> None:
    """Plain is one parameter in one process; with several micro-batches the order differs."""
    verdict = verified(plan_for(name))
    assert verdict.equal, str(verdict)
    assert 0 < max(stage.plain for stage in verdict.stages) < 1e-6


@pytest.mark.full
@pytest.mark.parametrize("name", ONE_MODEL)
def test_verify_every_schedule(name: str) -> None:
    plan = plan_for(name)
    for more in ((), (middle(plan),)):
        verdict = verified(plan, more)
        assert verdict.equal, str(verdict)


def test_verify_finds_a_dropped_sum() -> None:
    verdict = verified(plan_for("one_f_one_b"), broken=True)
    assert not verdict.equal
    assert [stage.equal for stage in verdict.stages] == [False, False]
    assert all("embedding" in s.parameter or "head" in s.parameter for s in verdict.stages)
