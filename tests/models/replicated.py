"""The cells with data parallelism: two pipelines of two ranks as processes, each on its half of the
batch, against the mean of what one process computes for the halves."""

import warnings
from collections.abc import Callable
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from stretto.runtime import Executor, PipelineError
from tests.models import oracle
from tests.models.cells import RANKS, ROWS, Alone, Feature, Found, Ranked, compare, plan_of, spec_of
from tests.models.zoo import ZOO, Batch, Entry
from tests.support import ranks

REPLICAS = 2
HOW = ("replicas", "DDP", "FSDP2")


def features() -> tuple[Feature, ...]:
    """One for each kind of replicas; they run by `run` of this module."""

    def unused(_: Any) -> dict[str, Tensor | None]:
        raise NotImplementedError

    return tuple(Feature(how, "equal", unused, unused) for how in HOW)


def run(schedule: str, entry: Entry, how: str) -> Found:
    """Runs one cell."""
    order = oracle.orders(plan_of(schedule))
    halves = _halves(entry, order.microbatches)
    found = []
    for half in halves:
        alone = Alone(entry, entry.build(order.stages), order, half)
        found.append(alone.named(alone.step().gradients))
    expected = {name: _mean([one[name] for one in found]) for name in found[0]}
    try:
        outcome = ranks.run(RANKS * REPLICAS, _rank, schedule, entry.name, how, seconds=100)
    except AssertionError as error:
        return Found("wrong", str(error))
    refused = [told for told, _ in outcome.results if told]
    if refused:
        return Found("refused", refused[0])
    return compare(expected, [tensors for _, tensors in outcome.results], 1e-6)


def _halves(entry: Entry, microbatches: int) -> list[Batch]:
    whole = entry.batch(REPLICAS * ROWS * microbatches)
    every = oracle.pieces(whole.every_stage, REPLICAS) if whole.every_stage else [{}] * REPLICAS
    parts = zip(
        oracle.pieces(whole.x, REPLICAS),
        every,
        oracle.pieces(whole.target, REPLICAS),
        strict=True,
    )
    return [Batch(*part) for part in parts]


def _mean(tensors: list[Tensor | None]) -> Tensor | None:
    """A parameter that one replica has not used counts as zeros there."""
    total = oracle.total(tensors)
    return None if total is None else total / REPLICAS


def _rank(number: int, schedule: str, name: str, how: str) -> tuple[str, dict[str, Any]]:
    """One process: what it was refused, or its gradients."""
    warnings.simplefilter("ignore")
    (entry,) = [one for one in ZOO if one.name == name]
    mesh = init_device_mesh("cpu", (REPLICAS, RANKS), mesh_dim_names=("dp", "pp"))
    plan, mine = plan_of(schedule), dist.get_rank(mesh.get_group("pp"))
    order = oracle.orders(plan)
    wrap, options = _wrap(how, mesh)
    modules = {}
    for pipeline in spec_of(plan).pipelines:
        own = entry.build(order.stages)
        for s, stage in enumerate(pipeline.stages):
            if stage.rank == mine:
                modules[pipeline.name, s] = wrap(own[s])
    half = _halves(entry, order.microbatches)[number // RANKS]
    try:
        executor = Executor(
            plan, modules, entry.loss, group=mesh.get_group("pp"), timeout=60.0, **options
        )
        rank = Ranked(entry, executor, modules, half)
        rank.step()
        executor.close()
    except PipelineError as error:
        return str(error), {}
    return "", {name.replace(".module.", "."): _whole(g) for name, g in rank.gradients().items()}


def _wrap(how: str, mesh: Any) -> tuple[Callable[[nn.Module], nn.Module], dict[str, Any]]:
    group = mesh.get_group("dp")
    if how == "replicas":
        return (lambda stage: stage), {"replicas": group}
    if how == "DDP":

        def ddp(stage: nn.Module) -> nn.Module:
            learns = any(p.requires_grad for p in stage.parameters())
            return DistributedDataParallel(stage, process_group=group) if learns else stage

        return ddp, {}

    def sharded(stage: nn.Module) -> nn.Module:
        fully_shard(stage, mesh=mesh["dp"])  # in place
        return stage

    return sharded, {}


def _whole(gradient: Any) -> Tensor | None:
    return gradient.full_tensor() if isinstance(gradient, DTensor) else gradient
