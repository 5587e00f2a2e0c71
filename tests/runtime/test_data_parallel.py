"""Pipelines side by side on a pp × dp mesh of gloo processes: the gradients of a stage become, once
per step, the mean over its replicas, bit for bit with two."""

from fractions import Fraction

import pytest
import torch

from stretto.compiler.driver import compile_text
from stretto.compiler.evaluation import Settings
from stretto.compiler.library import names, read
from stretto.compiler.plan.plan import Plan
from stretto.compiler.program.program import BeginReduction
from tests.support.library import IN_PARTS
from tests.support.mesh import KINDS, Gradients, batch_seed, expected, mesh_step, same
from tests.support.ranks import run
from tests.support.training import batch, compiled, one_process, spec_of, there

pytestmark = pytest.mark.xdist_group("ranks")  # one after the other: they wait for each other

SIZES = {"ranks": 2, "microbatches": 4}
SAMPLE = [
    ("one_f_one_b", "plain"),
    ("zb_v", "ddp"),
    ("dualpipe", "fsdp"),
    ("zb_v", "fsdp_blocks"),
]
COLLECTIVES = {"plain": 1, "ddp": 1, "fsdp": 1, "fsdp_blocks": 3}  # for each stage


def check(plan: Plan, kind: str) -> None:
    outcome = run(4, mesh_step, plan, kind)
    wanted, torchs = expected(plan, 2), by_torch_alone(plan)
    for gradients, collectives, stages in outcome.results:
        assert same(gradients, wanted)
        for key, found in gradients.items():
            for a, b in zip(found, torchs[key], strict=True):
                assert torch.allclose(there(a), there(b), rtol=1e-4, atol=1e-6)
        assert collectives == stages * COLLECTIVES[kind]


def by_torch_alone(plan: Plan) -> Gradients:
    """The mean over two batches of the gradients of one process, which knows nothing of plans."""
    spec = spec_of(plan)
    found = [one_process(spec, *batch(spec, seed=batch_seed(0, r))).gradients for r in range(2)]
    return {
        (spec.pipelines[p].name, s): [
            (there(a) + there(b)) / 2 for a, b in zip(found[0][p, s], found[1][p, s], strict=True)
        ]
        for p, s in found[0]
    }


@pytest.mark.parametrize(("name", "kind"), SAMPLE)
def test_gradients_are_the_mean_over_the_replicas(name: str, kind: str) -> None:
    check(compiled(name, **SIZES), kind)


STATEMENTS = "\nreduce gradients cost 1\nunshard weights cost 1\n"


@pytest.mark.parametrize(("name", "kind"), [("zb_v", "fsdp_blocks"), ("dualpipe", "ddp")])
def test_a_file_that_says_when_is_followed(name: str, kind: str) -> None:
    """The same gradients, as many collectives, begun where the plan has them."""
    settings = Settings(values={key: Fraction(value) for key, value in SIZES.items()})
    plan = compile_text(read(name).text + STATEMENTS, name, settings)
    listed = [one for row in plan.programs["train"].ranks for one in row]
    assert sum(isinstance(one, BeginReduction) for one in listed) == 4
    check(plan, kind)


SWEEP = [name for name in names() if name != "inference" and name not in IN_PARTS]


@pytest.mark.full
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SWEEP)
def test_every_schedule_and_kind(name: str, kind: str) -> None:
    check(compiled(name, **SIZES), kind)
