"""The buffers of copies. Each copy of a stage sees its own micro-batches, so that what it keeps
beside its weights, the running means of a BatchNorm for instance, differs from copy to copy. A
checkpoint has one of each: for numbers with fractions their mean over the copies, for whole numbers
and truth values the largest. The copies are given it as well, so that the run goes on as one that
was resumed from the checkpoint does."""

from collections.abc import Sequence

import torch
from torch import Tensor

from stretto.runtime.replicas import Replicas
from stretto.runtime.transport import P2PLane, Pending


def reconcile(replicas: Replicas) -> None:
    """Gives all copies of this rank's stages the buffers that they have in common then; all ranks
    of the copies must call it. Raises what the transport raises."""
    transport, plan = replicas.context.transport, replicas.context.plan
    for reduction in plan.reductions:
        stages = {
            copy: replicas.context.stages[copy.pipeline, copy.stage].module  # type: ignore[index]
            for copy in reduction.copies
            if copy.rank == replicas.rank
        }
        if not stages or reduction.tie:  # buffers are not tied
            continue
        own = {copy: [b.detach() for b in module.buffers()] for copy, module in stages.items()}
        some = next(iter(own.values()))
        if not some:
            continue
        every: dict[object, Sequence[Tensor]] = {c: [b.clone() for b in own[c]] for c in own}
        begun: list[Pending] = []
        for copy in reduction.copies:
            if copy not in own:
                room = [torch.empty_like(buffer) for buffer in some]
                lane = replicas.lanes[P2PLane(copy.rank, replicas.rank)]
                begun += transport.receive(lane, room)
                every[copy] = room
        for rank in dict.fromkeys(c.rank for c in reduction.copies if c not in own):
            for copy in own:
                lane = replicas.lanes[P2PLane(replicas.rank, rank)]
                begun += transport.send(lane, every[copy])
        for pending in begun:
            pending.wait()
        for k, columns in enumerate(zip(*(every[c] for c in reduction.copies), strict=True)):
            common = _common(columns)
            for copy in own:
                own[copy][k].copy_(common)


def _common(buffers: Sequence[Tensor]) -> Tensor:
    """Of one buffer in every copy, in the order of the reduction."""
    found = buffers[0].clone()
    if found.is_floating_point() or found.is_complex():
        for other in buffers[1:]:
            found += other
        return found / len(buffers)
    for other in buffers[1:]:
        found = torch.maximum(found, other)
    return found
