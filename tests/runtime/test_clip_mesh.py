"""Clipping and loss scaling where stages have replicas or are sharded over them: a norm is that of
the whole model once, and one infinity in one shard is seen by all."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stretto.compiler.plan.plan import Plan
from stretto.runtime import Executor, GradScaler, PipelineError, clip_grad_norm_
from tests.support.mesh import KINDS, batch_seed, expected, full, gradients_of, mesh
from tests.support.ranks import run
from tests.support.training import batch, built, compiled, loss, spec_of, there

pytestmark = pytest.mark.xdist_group("ranks")


def clipped(rank: int, plan: Plan, kind: str) -> Any:
    """One process: norm and gradients of a clipped step; then the weights around a step in which
    one process has an infinity, and the scale."""
    spec = spec_of(plan)
    place = mesh(spec.ranks)
    modules = {
        key: KINDS[kind](module, place.replicas) for key, module in built(spec, place.rank).items()
    }
    replicas = place.replicas if kind == "plain" else None
    executor = Executor(plan, modules, loss, group=place.pipeline, timeout=30, replicas=replicas)
    scaler = GradScaler(executor, init_scale=16.0)
    optimizer = torch.optim.SGD(executor.parameters(), lr=0.1)
    x, target = batch(spec, seed=batch_seed(0, place.replica))
    executor.step(x, target=target)
    norm = clip_grad_norm_(executor, 0.1)
    gradients = gradients_of(modules)
    optimizer.zero_grad()
    scaler.update()

    executor.step(x, target=target)
    sharded = kind.startswith("fsdp")
    if rank == 3 or (not sharded and place.rank == 1):  # what is not sharded has the same mean
        spoil(list(executor.parameters()))
    before = [full(p.detach()) for p in executor.parameters()]
    scaler.step(optimizer)
    scaler.update()
    after = [full(p.detach()) for p in executor.parameters()]
    kept = all(torch.equal(there(a), there(b)) for a, b in zip(before, after, strict=True))
    executor.close()
    return full(norm), gradients, kept, scaler.get_scale()


def spoil(parameters: list[nn.Parameter]) -> None:
    """An infinity in one gradient of this process, in its own shard where it has one."""
    for parameter in parameters:
        grad: Any = there(parameter.grad)
        local: Tensor = grad.to_local() if hasattr(grad, "to_local") else grad
        if local.numel():
            local.view(-1)[0] = float("inf")
            return


@pytest.mark.parametrize(("name", "kind"), [("one_f_one_b", "fsdp_blocks"), ("dualpipe", "ddp")])
def test_one_norm_and_one_decision_on_a_mesh(name: str, kind: str) -> None:
    check(compiled(name, ranks=2, microbatches=4), kind)


@pytest.mark.full
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["one_f_one_b", "zb_h1", "interleaved_1f1b", "dualpipe"])
def test_other_schedules_and_kinds(name: str, kind: str) -> None:
    check(compiled(name, ranks=2, microbatches=4), kind)


def check(plan: Plan, kind: str) -> None:
    found = run(4, clipped, plan, kind).results
    wanted = expected(plan, 2)
    first = spec_of(plan).pipelines[0].name
    originals = [g for key in sorted(wanted) if key[0] == first for g in wanted[key]]
    total = nn.utils.get_total_norm([there(g) for g in originals])
    assert total > 0.1
    for norm, gradients, kept, scale in found:
        assert torch.equal(norm, found[0][0])
        assert torch.allclose(norm, total, rtol=1e-5)
        for key, ours in gradients.items():
            for a, b in zip(ours, wanted[key], strict=True):
                assert torch.allclose(there(a), there(b) * (0.1 / (total + 1e-6)), atol=1e-6)
        assert kept and scale == 8.0


def spoilt(rank: int, plan: Plan) -> str:
    """One process, two steps; the second replica's batch has a number that is none."""
    spec = spec_of(plan)
    place = mesh(spec.ranks)
    executor = Executor(
        plan,
        built(spec, place.rank),
        loss,
        group=place.pipeline,
        timeout=30,
        replicas=place.replicas,
        on_nonfinite="stop",
    )
    x, target = batch(spec, seed=place.replica)
    if place.replica:
        x[0, 0] = float("nan")
    with pytest.raises(PipelineError) as stopped:
        for _ in range(2):
            executor.step(x, target=target)
    executor.close()
    return str(stopped.value)


def test_a_loss_that_is_none_stops_the_replicas_too() -> None:
    told = run(4, spoilt, compiled("one_f_one_b", ranks=2, microbatches=2)).results
    assert all("step 1: the loss of micro-batch 0 of `main` is nan on rank 1" in t for t in told)
    assert told[2] == told[3]
