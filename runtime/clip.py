"""Clipping over all stages of all ranks, as `torch.nn.utils` does it for one process. In comes an
executor whose step left gradients; out comes their norm, the same on every rank, and gradients that
were scaled down by it."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_

from stretto.runtime.errors import NonFiniteError
from stretto.runtime.executor import Executor
from stretto.runtime.topology import StageId

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
"""Of gradients, by the number that travels for them."""

ABSENT = -1  # in place of a dtype: the parameter has no gradient


class OneNorm(NamedTuple):
    """The norm of one parameter's gradient: its value, exact, and its dtype."""

    value: float
    dtype: torch.dtype


@torch.no_grad()
def clip_grad_norm_(
    executor: Executor,
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """Scales the gradients of all stages on all ranks so that their common norm is at most
    `max_norm`, and returns what the norm was: the same tensor, bit for bit, on every rank.

    As `torch.nn.utils.clip_grad_norm_` on the parameters of the whole model in one process, stage
    after stage: to the last bit where gradients are, on the CPU. A parameter that several ranks
    hold counts once, and all its holders scale it alike, so that they stay equal. Parameters
    without a gradient do not count. `norm_type` is any p-norm, `float("inf")` the largest entry.
    Gradients that a `GradScaler` has scaled are unscaled first.

    Every rank must call it, also one without stages or gradients; it waits for the others, and for
    the device. (`torch.nn.utils.clip_grad_value_` needs no other rank: call it on
    `executor.parameters()`.) Raises `NonFiniteError`, on every rank, with `error_if_nonfinite`
    where the norm is no finite number, and `PipelineError` where another rank is gone or calls
    something else.
    """
    total = get_total_norm(executor, norm_type, error_if_nonfinite, foreach)
    clip_grads_with_norm_(executor.parameters(), max_norm, total, foreach)
    return total


@torch.no_grad()
def get_total_norm(
    executor: Executor,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """The norm that `clip_grad_norm_` clips by, and nothing is clipped. Every rank must call it.
    Raises `NonFiniteError` and `PipelineError` as that does."""
    if executor.scaler is not None:
        executor.scaler.agree()
    norm_type = float(norm_type)
    found = _of_all_ranks(executor, _own_norms(executor, norm_type, foreach))
    total = _total(found, norm_type).to(executor.context.transport.device)
    if error_if_nonfinite and not bool(total.isfinite()):
        raise NonFiniteError(
            f"the norm of all gradients is {total.item()}: " + _first_nonfinite(executor, found)
        )
    return total


Norms = dict[StageId, list[OneNorm | None]]
"""By stage, in the order of its parameters; None where the parameter has no gradient, or another
place counts for it."""


def _own_norms(executor: Executor, norm_type: float, foreach: bool | None) -> Norms:
    counting = {id(p): p for p in executor.owned_parameters() if p.grad is not None}
    values = _norms_of([_entries(p) for p in counting.values()], norm_type, foreach)
    norms = dict(zip(counting, values, strict=True))

    def norm(parameter: nn.Parameter) -> OneNorm | None:
        value = norms.pop(id(parameter), None)  # at the first place alone
        return None if value is None else OneNorm(value.double().item(), value.dtype)

    return {
        stage: [norm(parameter) for parameter in executor.stages[stage].module.parameters()]
        for stage in executor.plan.stages
    }


def _entries(parameter: nn.Parameter) -> Tensor:
    """The gradient, of a sparse one the entries that are there."""
    assert parameter.grad is not None
    grad = parameter.grad
    return grad.coalesce().values() if grad.is_sparse else grad


def _norms_of(gradients: Sequence[Tensor], norm_type: float, foreach: bool | None) -> list[Tensor]:
    """Each gradient's norm, with torch's fast kernels where it would take them."""
    if any(hasattr(g, "full_tensor") for g in gradients) or foreach is False:
        return [_whole(torch.linalg.vector_norm(g, norm_type)) for g in gradients]
    found: dict[int, Tensor] = {}
    alike: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for k, gradient in enumerate(gradients):
        alike.setdefault((gradient.device, gradient.dtype), []).append(k)
    for group in alike.values():
        norms = torch._foreach_norm([gradients[k] for k in group], norm_type)  # pyright: ignore[reportPrivateImportUsage]
        found.update(zip(group, norms, strict=True))
    return [found[k] for k in range(len(gradients))]


def _whole(norm: Tensor) -> Tensor:
    """The norm over all shards of a DTensor."""
    total: Tensor = norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # pyright: ignore[reportAttributeAccessIssue]
    return total


def _of_all_ranks(executor: Executor, own: Norms) -> Norms:
    """The norms of all stages, in the order of one process: copies stand beside each other."""
    graph = executor.plan.graph
    counts = [float(len(norms)) for norms in own.values()]
    pairs = [number for norms in own.values() for norm in norms for number in _numbers(norm)]
    told = executor.exchange.tell("clip_grad_norm_", counts + pairs)
    found: Norms = {}
    for rank, numbers in enumerate(told):
        stages = graph.on_rank(rank)
        at = len(stages)
        for stage, count in zip(stages, map(int, numbers[:at]), strict=True):
            end = at + 2 * count
            found[stage] = [_norm(*numbers[k : k + 2]) for k in range(at, end, 2)]
            at = end
    in_order = sorted(found, key=lambda one: (graph.original(one.pipeline), one.stage, one))
    return {stage: found[stage] for stage in in_order}


def _numbers(norm: OneNorm | None) -> tuple[float, float]:
    return (0.0, ABSENT) if norm is None else (norm.value, DTYPES.index(norm.dtype))


def _norm(value: float, dtype: float) -> OneNorm | None:
    return None if dtype == ABSENT else OneNorm(value, DTYPES[int(dtype)])


def _total(found: Norms, norm_type: float) -> Tensor:
    """The norm of the norms, as torch computes it; on the CPU, so that all ranks get the same."""
    norms = [
        torch.tensor(norm.value, dtype=norm.dtype)
        for of_stage in found.values()
        for norm in of_stage
        if norm is not None
    ]
    if not norms:
        return torch.tensor(0.0)
    total: Tensor = torch.linalg.vector_norm(torch.stack(norms), norm_type)
    return total


def _first_nonfinite(executor: Executor, found: Norms) -> str:
    """The first gradient that is not finite, by its parameter's name, which its rank tells the
    others."""
    graph, store = executor.plan.graph, executor.peers.store
    for stage, norms in found.items():
        for k, norm in enumerate(norms):
            if norm is not None and not torch.tensor(norm.value).isfinite():
                key = f"nonfinite-gradient/{executor.exchange.told}"
                if stage in executor.stages:
                    parameters = list(executor.stages[stage].module.named_parameters())
                    store.post(key, parameters[k][0])
                (name,) = executor.peers.wait([key])
                return (
                    f"the first gradient that is not finite is that of `{name}` in "
                    f"`{graph.label(stage)}` on rank {graph.topology.rank_of(stage)}"
                )
    return "each gradient is finite, and so they are too large together"
