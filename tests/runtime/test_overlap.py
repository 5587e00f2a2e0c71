"""Units of two operations: one call where the class offers it, and when messages leave."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from stretto.compiler.program.program import Compute
from stretto.runtime import Executor, run_local
from stretto.runtime.transport.local import Local
from tests.support.training import (
    Layer,
    batch,
    built,
    compiled,
    loss,
    spec_of,
    there,
    trained,
)


class Overlapping(Layer):
    """Runs units as DualPipe's users write them."""

    calls: ClassVar[
        list[tuple[bool, bool]]
    ] = []  # whether the forward, the backward, are of a last stage

    @classmethod
    def overlapped_forward_backward(
        cls,
        module0: nn.Module,
        inputs0: list[Tensor],
        criterion0: Any,
        labels0: list[Tensor] | None,
        module1: nn.Module,
        loss1: Tensor | None,
        outputs1: list[Tensor],
        output_grads1: list[Tensor],
    ) -> tuple[list[Tensor], Tensor | None]:
        cls.calls.append((criterion0 is not None, loss1 is not None))
        outputs0 = [module0(*inputs0)]
        loss0 = None
        if criterion0 is not None:
            assert labels0 is not None
            loss0 = criterion0(*outputs0, *labels0)
        if loss1 is not None:
            loss1.backward()
            loss1.detach_()
        else:
            torch.autograd.backward(outputs1, output_grads1)
        return outputs0, loss0


def test_an_overlapped_unit_is_one_call_where_the_class_offers_it() -> None:
    plan = compiled("dualpipe", ranks=4, microbatches=10)
    pairs = sum(
        isinstance(i, Compute) and i.unit >= 0 and i.operation.kind == "F"
        for rank in plan.programs["train"].ranks
        for i in rank
    )
    x, target = batch(spec_of(plan))
    Overlapping.calls.clear()
    one, two = trained(plan, x, target, Overlapping), trained(plan, x, target)
    assert len(Overlapping.calls) == pairs > 0
    assert {(True, False), (False, True)} <= set(Overlapping.calls)
    for name in ("down", "up"):
        for s in range(4):
            for a, b in zip(one.gradients(name, s), two.gradients(name, s), strict=True):
                assert torch.equal(there(a), there(b))
    assert one.losses == two.losses


def test_the_first_half_of_a_unit_is_sent_before_the_second_runs() -> None:
    plan = compiled("dualpipe", ranks=4, microbatches=8)
    x, target = batch(spec_of(plan))
    events: dict[int, list[str]] = {}

    class Watched(Local):
        def send(self, lane: int, tensors: Any) -> Any:
            events[self.rank].append("send")
            return super().send(lane, tensors)

    def rank(transport: Local) -> None:
        told = events[transport.rank] = []
        modules = built(spec_of(plan), transport.rank)
        for module in modules.values():
            module.register_forward_hook(lambda *_: told.append("F"))
            module.get_parameter("norm.weight").register_hook(lambda _: told.append("B"))
        watched = Watched(transport.hub, transport.rank)
        executor = Executor(plan, modules, loss, transport=watched, timeout=20)
        told.clear()
        executor.step(x, target=target)
        executor.close()

    run_local(plan, rank)
    for number, told in events.items():
        units = sum(
            isinstance(i, Compute)
            and i.unit >= 0
            and i.operation.kind == "F"
            and i.operation.stage < 3
            for i in plan.programs["train"].ranks[number]
        )
        assert " ".join(told).count("F send B") >= units > 0
