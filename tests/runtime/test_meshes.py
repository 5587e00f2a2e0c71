"""What else torch parallelises a stage with: tensor parallelism by DTensor, hybrid sharding, mixed
precision of FSDP2."""

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from stretto.compiler.plan.plan import Plan
from stretto.runtime import Executor, PipelineError
from stretto.runtime.train.find import find
from tests.support.mesh import batch_seed, expected, gradients_of, mesh
from tests.support.paths import ROOT
from tests.support.ranks import run
from tests.support.training import Layer, batch, built, compiled, loss, one_process, spec_of, there

pytestmark = pytest.mark.xdist_group("ranks")  # one after the other: they wait for each other

SIZES = {"ranks": 2, "microbatches": 4}


def full_run(name: str) -> Any:
    """For `make test-full`."""
    return pytest.param(name, marks=pytest.mark.full)


# Tensor parallelism -----------------------------------------------------------------------------


def tensor_parallel(_: int, plan: Plan, local: bool) -> Any:
    """A step of a pp × tp mesh: every stage's two layers are cut over its two processes."""
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        RowwiseParallel,
        parallelize_module,
    )

    spec = spec_of(plan)
    place = mesh(spec.ranks)  # its replicas are the processes that share a stage here
    modules = built(spec, place.rank)
    ways = {"up": ColwiseParallel(), "down": RowwiseParallel()}
    for module in modules.values():
        parallelize_module(module, DeviceMesh.from_group(place.replicas, "cpu"), ways)
    if not local:
        modules = {key: Distributed(module, place.replicas) for key, module in modules.items()}
    executor = Executor(plan, modules, loss, group=place.pipeline, timeout=30)
    x, target = batch(spec)
    try:
        executor.step(x, target=target)
    except PipelineError as error:
        return str(error)
    finally:
        executor.close()
    return gradients_of(modules)  # pyright: ignore[reportArgumentType]


class Distributed(nn.Module):
    """Gives a DTensor."""

    def __init__(self, module: nn.Module, group: dist.ProcessGroup):
        super().__init__()
        self.module, self.group = module, group

    def forward(self, x: Tensor) -> Tensor:
        from torch.distributed.device_mesh import DeviceMesh
        from torch.distributed.tensor import DTensor

        found = DeviceMesh.from_group(self.group, "cpu")
        return DTensor.from_local(self.module(x), found)


@pytest.mark.parametrize("name", ["dualpipe", *map(full_run, ("one_f_one_b", "zb_v"))])
def test_stages_that_are_cut_over_processes_train_as_whole_ones(name: str) -> None:
    plan = compiled(name, **SIZES)
    spec = spec_of(plan)
    wanted = one_process(spec, *batch(spec)).gradients
    numbers = {line.name: p for p, line in enumerate(spec.pipelines)}
    for found in run(4, tensor_parallel, plan, True).results:
        assert found
        for (pipeline, stage), gradients in found.items():
            for ours, theirs in zip(gradients, wanted[numbers[pipeline], stage], strict=True):
                assert torch.allclose(there(ours), there(theirs), rtol=1e-4, atol=1e-6)


def test_a_stage_that_hands_on_a_dtensor_is_refused() -> None:
    told = run(4, tensor_parallel, compiled("one_f_one_b", **SIZES), False).results
    assert all("gives a DTensor" in str(one) for one in told), told


# FSDP2 ------------------------------------------------------------------------------------------


def sharded(rank: int, plan: Plan, case: str) -> Any:
    """A step of stages that are sharded over a mesh of two dimensions, or in mixed precision."""
    from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    spec = spec_of(plan)
    place = mesh(spec.ranks)
    modules = built(spec, place.rank)
    for module in modules.values():
        if case == "hybrid":
            found = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
            fully_shard(module, mesh=found)
        else:
            policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32)
            fully_shard(module, mesh=DeviceMesh.from_group(place.replicas, "cpu"), mp_policy=policy)
    executor = Executor(plan, modules, lossy, group=place.pipeline, timeout=30)
    x, target = batch(spec, seed=batch_seed(0, place.replica))
    executor.step(x, target=target)
    executor.close()
    return gradients_of(modules)


def lossy(output: Tensor, target: Tensor) -> Tensor:
    return loss(output.float(), target)


@pytest.mark.full
def test_hybrid_sharding_gives_the_mean_over_all() -> None:
    """Four replicas of a pipeline of one rank, sharded in pairs."""
    plan = compiled("gpipe", ranks=1, microbatches=4)
    wanted = expected(plan, 4)
    for found in run(4, sharded, plan, "hybrid").results:
        for key, gradients in found.items():
            for ours, theirs in zip(gradients, wanted[key], strict=True):
                assert torch.allclose(there(ours), there(theirs), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["zb_v", full_run("dualpipe")])
def test_mixed_precision_adds_in_the_type_it_reduces_in(name: str) -> None:
    """Stages in bfloat16, whose gradients are added in float32, micro-batch by micro-batch: as one
    process that does so by hand."""
    plan = compiled(name, **SIZES)
    spec = spec_of(plan)
    whole = [by_hand(plan, batch_seed(0, replica)) for replica in range(2)]
    for found in run(4, sharded, plan, "mixed").results:
        for (pipeline, stage), gradients in found.items():
            for k, ours in enumerate(gradients):
                first, second = (one[stage][k] for one in whole)
                assert there(ours).dtype == torch.float32
                assert torch.equal(there(ours), (first + second) / 2), (pipeline, stage, k)
    assert len(spec.pipelines) in (1, 2)


def by_hand(plan: Plan, seed: int) -> list[list[Tensor]]:
    """By stage its gradients: of each micro-batch in bfloat16, their sum in float32; copies are
    added after their own micro-batches."""
    spec = spec_of(plan)
    stages = [Layer(s) for s in range(len(spec.pipelines[0].stages))]
    low = [Layer(s, torch.bfloat16) for s in range(len(stages))]
    x, target = batch(spec, seed=seed)
    many = sum(line.microbatches for line in spec.pipelines)
    sums = []
    for line in spec.pipelines:
        total = [[torch.zeros_like(p) for p in stage.parameters()] for stage in stages]
        for m in range(line.first, line.first + line.microbatches):
            for stage in low:
                stage.zero_grad()
            out = x.chunk(many)[m]
            for stage in low:
                out = stage(out.to(torch.bfloat16))
            (lossy(out, target.chunk(many)[m]) / many).backward()
            for own, stage in zip(total, low, strict=True):
                for kept, parameter in zip(own, stage.parameters(), strict=True):
                    kept += there(parameter.grad).float()
        sums.append(total)
    for other in sums[1:]:
        for own, further in zip(sums[0], other, strict=True):
            for kept, more in zip(own, further, strict=True):
                kept += more
    return sums[0]


# The example ------------------------------------------------------------------------------------

EXAMPLE = f"{ROOT}/examples/data_parallel.py"


def example(_: int, words: list[str]) -> tuple[list[float], bool]:
    parser = find(f"{EXAMPLE}:parser", "model")()
    found: tuple[list[float], bool] = find(f"{EXAMPLE}:train", "model")(parser.parse_args(words))
    return found


@pytest.mark.parametrize("how", ["fsdp", *map(full_run, ("plain", "ddp"))])
def test_the_example_trains_as_one_process(how: str) -> None:
    results = run(4, example, ["dualpipe", "--how", how, "--steps", "3"], seconds=120).results
    gpt = find(f"{ROOT}/examples/gpt.py:MODEL", "model")
    model = nn.Sequential(*(gpt.stage(s, 2) for s in range(2)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    wanted = []
    for step in (1, 2, 3):
        x, target = find(f"{ROOT}/examples/gpt.py:DATA", "data")(step)
        total = gpt.loss(model(x), target)
        total.backward()
        optimizer.step()
        optimizer.zero_grad()
        wanted.append(float(total.detach()))
    for losses, equal in results:
        assert equal and losses == pytest.approx(wanted, rel=1e-4)
