"""Steps of the executor on threads of this process, and how they are judged."""

from typing import Any

import torch
from torch import nn

from stretto.compiler.problem.spec import Spec
from stretto.runtime import Executor, run_local
from stretto.runtime.transport.local import Local
from tests.support.training import (
    Layer,
    Trained,
    built,
    loss,
    one_process,
    spec_of,
    there,
)


def double(seed: int) -> nn.Module:
    """A layer whose sums are rounded in float64."""
    return Layer(seed, torch.float64)


def check(spec: Spec, found: Trained, x: Any, target: Any, steps: int = 1) -> None:
    """Gradients, losses and outputs are those of one process, up to rounding in float64."""
    expected = one_process(spec, x, target, double)
    for p, line in enumerate(spec.pipelines):
        for s in range(len(line.stages)):
            for ours, theirs in zip(
                found.gradients(line.name, s), expected.gradients[p, s], strict=True
            ):
                assert (ours is None) == (theirs is None), (line.name, s)
                wanted = None if theirs is None else steps * theirs
                assert ours is None or torch.allclose(ours, there(wanted), rtol=1e-11, atol=1e-13)
        last = line.stages[-1].rank
        many = range(line.microbatches)
        if (p, 0) in expected.losses:
            losses = torch.stack(found.losses[last][line.name])
            assert torch.allclose(losses, torch.stack([expected.losses[p, m] for m in many]))
        if not line.feeds:
            output = found.outputs[last]
            output = output[line.name] if isinstance(output, dict) else output
            assert torch.allclose(output, torch.cat([expected.outputs[p, m] for m in many]))


def executors(
    plan: Any, body: Any, make: Any = Layer, loss_fn: Any = loss, **options: Any
) -> list[Any]:
    """`body(executor)` on every rank."""

    def rank(transport: Local) -> Any:
        executor = Executor(
            plan,
            built(spec_of(plan), transport.rank, make),
            loss_fn,
            transport=transport,
            timeout=options.pop("timeout", 20.0),
            **options,
        )
        try:
            return body(executor)
        finally:
            executor.close()

    return run_local(plan, rank)
