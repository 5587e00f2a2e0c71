"""Pipelines side by side on a pp × dp mesh of gloo processes: the gradients of a stage become, once
per step, the mean over its replicas, bit for bit with two."""

import pytest

from tests.support.mesh import expected, mesh_step, same
from tests.support.ranks import run
from tests.support.training import compiled

pytestmark = pytest.mark.xdist_group("ranks")  # one after the other: they wait for each other

SIZES = {"ranks": 2, "microbatches": 4}
SAMPLE = [
    ("one_f_one_b", "plain"),
    ("zb_v", "ddp"),
    ("dualpipe", "plain"),
    ("one_f_one_b", "fsdp"),
    ("zb_v", "fsdp_blocks"),
]
COLLECTIVES = {"plain": 1, "ddp": 1, "fsdp": 1, "fsdp_blocks": 3}  # for each stage


def check(name: str, kind: str, sizes: dict[str, int]) -> None:
    plan = compiled(name, **sizes)
    outcome = run(4, mesh_step, plan, kind)
    wanted = expected(plan, 2)
    for gradients, collectives, stages in outcome.results:
        assert same(gradients, wanted), (name, kind)
        assert collectives == stages * COLLECTIVES[kind]


@pytest.mark.parametrize(("name", "kind"), SAMPLE)
def test_gradients_are_the_mean_over_the_replicas(name: str, kind: str) -> None:
    check(name, kind, SIZES)
