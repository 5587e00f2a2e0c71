"""One parameter in several places: every holder has, after every step, the gradient and the weight
that it has in one process."""

import pytest
import torch

from stretto.compiler import library
from stretto.compiler.plan.plan import Plan
from tests.support.tied import OneProcess, near, tied_run, tied_stages
from tests.support.training import compiled, spec_of

ONE_MODEL = [name for name in library.names() if name not in ("inference", "two_models")]
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
