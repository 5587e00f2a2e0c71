"""Ties beside data parallelism: the holders' gradients are summed, then averaged over replicas."""

from fractions import Fraction
from typing import Any

import pytest
import torch

from stretto.compiler.driver import compile_text
from stretto.compiler.evaluation import Settings
from stretto.compiler.library import read
from stretto.compiler.plan.plan import Plan
from stretto.compiler.program.program import BeginReduction
from stretto.runtime import Executor
from tests.support.mesh import KINDS, full, mesh
from tests.support.ranks import run
from tests.support.tied import OneProcess, TiedStage, near, tied_stages, token_loss, tokens
from tests.support.training import compiled, spec_of

pytestmark = pytest.mark.xdist_group("ranks")

SIZES = {"ranks": 2, "microbatches": 4}
STATEMENTS = "\nreduce gradients cost 1\nunshard weights cost 1\n"


def step(rank: int, plan: Plan, kind: str) -> list[Any]:
    """Of one process of the mesh the gradients of what is tied, and for how many stages its list
    says when they are averaged."""
    place = mesh(2)
    made = tied_stages(plan, place.rank)
    modules = {key: KINDS[kind](module, place.replicas) for key, module in made.items()}
    replicas = place.replicas if kind == "plain" else None
    executor = Executor(
        plan, modules, token_loss, group=place.pipeline, timeout=30, replicas=replicas
    )
    x, target = tokens(spec_of(plan), seed=place.replica)
    executor.step(x, target=target)
    executor.close()
    listed = executor.plan.programs["train"].instructions
    begun = sum(isinstance(one, BeginReduction) for one in listed)
    return [
        full(module.get_parameter(name).grad)
        for module in made.values()
        if isinstance(module, TiedStage)
        for name in module.tied
    ] + [begun]


def check(plan: Plan, kind: str, begun: int) -> None:
    alone = [OneProcess(spec_of(plan)) for _ in range(2)]
    for replica, one in enumerate(alone):
        one.x, one.target = tokens(spec_of(plan), seed=replica)
        one.backward()
    first, second = (one.weight.grad for one in alone)
    assert first is not None and second is not None
    for *gradients, averaged in run(4, step, plan, kind).results:
        assert averaged == begun
        for gradient in gradients:
            assert near(gradient, (first + second) / 2)
            assert torch.equal(gradient, gradients[0])


SWEEP = [("dualpipe", "plain"), ("zb_v", "ddp"), ("one_f_one_b", "fsdp"), ("dualpipe", "fsdp")]


@pytest.mark.full
@pytest.mark.parametrize(("name", "kind"), SWEEP)
def test_more_kinds(name: str, kind: str) -> None:
    check(compiled(name, **SIZES), kind, 0)


def test_the_mean_of_sums() -> None:
    check(compiled("dualpipe", **SIZES), "ddp", 0)


def test_a_file_that_says_when_averages_after_the_sums() -> None:
    settings = Settings(values={key: Fraction(value) for key, value in SIZES.items()})
    plan = compile_text(read("one_f_one_b").text + STATEMENTS, "one_f_one_b", settings)
    check(plan, "plain", 1)
