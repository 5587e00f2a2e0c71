"""A step on threads of this process against one process that adds in the plan's order."""

from collections.abc import Callable
from typing import Any

from torch import nn

from stretto.runtime import Executor, run_local
from stretto.runtime.train.verify import Verdict, verify
from stretto.runtime.transport.local import Local
from tests.support.training import Layer, batch, built, loss, seed_of, spec_of


def verified(
    plan: Any,
    make: Callable[[int], nn.Module] = Layer,
    given: Any = None,
    loss_fn: Any = loss,
    before: Callable[[Executor], Any] = lambda _: None,
) -> Verdict:
    """The verdict; `given` is x and target, by default rows of `WIDTH`. `before` is called on every
    rank with its executor."""
    spec = spec_of(plan)
    x, target = given or batch(spec)

    def rank(transport: Local) -> Any:
        own = built(spec, transport.rank, make)
        executor = Executor(plan, own, loss_fn, transport=transport, timeout=20)
        try:
            before(executor)
            return verify(
                executor,
                plan,
                lambda at: make(seed_of(spec, at.pipeline, at.stage)),
                loss_fn,
                x,
                target,
                {},
            )
        finally:
            executor.close()

    verdict: Verdict = run_local(plan, rank)[0]
    return verdict
