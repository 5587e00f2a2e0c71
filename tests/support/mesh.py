"""Pipelines beside each other: two or more replicas of a plan's ranks over gloo, and what their
gradients must be. Global rank g is rank g % ranks of pipeline g // ranks."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from stretto.compiler.plan.plan import Plan
from stretto.runtime import Executor
from tests.support.training import Layer, Modules, batch, built, loss, spec_of, trained

Wrap = Callable[[nn.Module, dist.ProcessGroup], nn.Module]


class Mesh(NamedTuple):
    """This process's place: its pipeline and the group of its ranks; its replica's number and the
    group of those that hold the same stages."""

    pipeline: dist.ProcessGroup
    replicas: dist.ProcessGroup
    rank: int
    replica: int


def mesh(ranks: int) -> Mesh:
    """All processes call it, with the ranks of the plan."""
    world, own = dist.get_world_size(), dist.get_rank()
    many = world // ranks
    rows = [dist.new_group([d * ranks + r for r in range(ranks)]) for d in range(many)]
    columns = [dist.new_group([d * ranks + r for d in range(many)]) for r in range(ranks)]
    return Mesh(rows[own // ranks], columns[own % ranks], own % ranks, own // ranks)  # pyright: ignore[reportArgumentType]


class Counted:
    """How often collectives that carry gradients are begun in this process."""

    NAMES = ("all_reduce", "reduce_scatter_single", "reduce_scatter_tensor")

    def __init__(self) -> None:
        self.count = 0
        self.saved = {name: getattr(dist, name) for name in self.NAMES if hasattr(dist, name)}

    def __enter__(self) -> "Counted":
        for name, real in self.saved.items():
            setattr(dist, name, self._counting(real))
        return self

    def __exit__(self, *_: object) -> None:
        for name, real in self.saved.items():
            setattr(dist, name, real)

    def _counting(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.count += 1
            return real(*args, **kwargs)

        return call


def plain(module: nn.Module, _: dist.ProcessGroup) -> nn.Module:
    """For `replicas=`."""
    return module


def ddp(module: nn.Module, group: dist.ProcessGroup) -> nn.Module:
    return DistributedDataParallel(module, process_group=group)


def fsdp(module: nn.Module, group: dist.ProcessGroup) -> nn.Module:
    """The whole stage."""
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import fully_shard

    fully_shard(module, mesh=DeviceMesh.from_group(group, "cpu"))
    return module


def fsdp_blocks(module: nn.Module, group: dist.ProcessGroup) -> nn.Module:
    """Its layers, resharded after every forward, and what is left."""
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import fully_shard

    found = DeviceMesh.from_group(group, "cpu")
    for name in ("up", "down"):
        fully_shard(module.get_submodule(name), mesh=found, reshard_after_forward=True)
    fully_shard(module, mesh=found, reshard_after_forward=True)
    return module


KINDS: dict[str, Wrap] = {"plain": plain, "ddp": ddp, "fsdp": fsdp, "fsdp_blocks": fsdp_blocks}


def full(tensor: Tensor | None) -> Tensor | None:
    """The whole of a sharded tensor; all replicas must ask."""
    if tensor is None:
        return None
    found: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor.clone()  # pyright: ignore[reportAttributeAccessIssue]
    return found


Gradients = dict[tuple[str, int], list[Tensor | None]]


def mesh_step(
    rank: int, plan: Plan, kind: str, steps: int = 1, make: Callable[[int], nn.Module] = Layer
) -> tuple[Gradients, int, int]:
    """Steps of one process of the mesh, on its replica's batch: the gradients of its stages, how
    many collectives carried gradients, and how many stages it has."""
    spec = spec_of(plan)
    place = mesh(spec.ranks)
    modules: Modules = {
        key: KINDS[kind](module, place.replicas)
        for key, module in built(spec, place.rank, make).items()
    }
    replicas = place.replicas if kind == "plain" else None
    executor = Executor(plan, modules, loss, group=place.pipeline, timeout=30, replicas=replicas)
    with Counted() as counted:
        for step in range(steps):
            x, target = batch(spec, seed=batch_seed(step, place.replica))
            executor.step(x, target=target)
    executor.close()
    return gradients_of(modules), counted.count, len(modules)


def batch_seed(step: int, replica: int) -> int:
    """Every step and replica has a batch of its own."""
    return 100 * step + replica


def gradients_of(modules: Modules) -> Gradients:
    return {key: [full(p.grad) for p in module.parameters()] for key, module in modules.items()}


def expected(
    plan: Plan, replicas: int, step: int = 0, make: Callable[[int], nn.Module] = Layer
) -> Gradients:
    """The mean over the replicas of what one pipeline without replicas finds for each one's batch
    (which is, bit for bit, what one process does)."""
    spec = spec_of(plan)
    found: list[Gradients] = []
    for replica in range(replicas):
        x, target = batch(spec, seed=batch_seed(step, replica))
        alone = trained(plan, x, target, make)
        found.append(
            {
                key: [p.grad for p in module.parameters()]
                for modules in alone.modules
                for key, module in modules.items()
            }
        )
    return {
        key: [_mean([f[key][k] for f in found]) for k in range(len(found[0][key]))]
        for key in found[0]
    }


def _mean(gradients: list[Tensor | None]) -> Tensor | None:
    there = [g for g in gradients if g is not None]
    if not there:
        return None
    total = there[0].clone()
    for gradient in there[1:]:
        total += gradient
    return total / len(gradients)


def same(found: Gradients, wanted: Gradients) -> bool:
    """Bit for bit."""
    return all(
        (a is None) == (b is None) and (a is None or b is None or torch.equal(a, b))
        for key, ours in found.items()
        for a, b in zip(ours, wanted[key], strict=True)
    )
