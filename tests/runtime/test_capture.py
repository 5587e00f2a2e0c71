"""A step of all ranks as one graph, on a device that keeps what it was given and checks that it
could have been captured; and what cannot be captured is refused by name. There is no GPU here."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stretto.compiler.plan.plan import Plan
from stretto.runtime import Executor, GradScaler, PipelineError, run_local
from stretto.runtime.graphs import CapturedStep, capture
from stretto.runtime.transport.local import Local
from tests.support.happens_before import CheckedDevice, Drop, computing_on, settled
from tests.support.part_plans import part_plan
from tests.support.part_stages import CutLayer
from tests.support.training import (
    Layer,
    Modules,
    batch,
    built,
    compiled,
    loss,
    one_process,
    spec_of,
)


def captured(
    plan: Plan, make: Any = Layer, drop: Drop | None = None, **options: Any
) -> tuple[CheckedDevice, list[Modules], list[CapturedStep]]:
    """The step of all ranks: device, modules by rank, and what each rank was given."""
    device = CheckedDevice(drop) if drop else CheckedDevice()
    spec = spec_of(plan)

    def rank(transport: Local) -> CapturedStep:
        with device.watching():
            modules = every[transport.rank]
            executor = Executor(plan, modules, loss, transport=transport, timeout=20.0, **options)
            found = capture(executor, x, target=target)
            executor.close()
            return found

    with computing_on(device), device.watching():
        x, target = batch(spec)
        every = [built(spec, rank, make) for rank in range(spec.ranks)]
        return device, every, run_local(plan, rank)


@pytest.mark.parametrize("name", ["one_f_one_b", "zb_v", "dualpipe", "parts"])
def test_a_replay_is_a_step(name: str) -> None:
    plan = part_plan("both ways") if name == "parts" else compiled(name, ranks=2, microbatches=4)
    make = CutLayer if name == "parts" else Layer
    device, every, steps = captured(plan, make)
    settled(device)
    spec = spec_of(plan)
    for seed in (1, 2):
        x, target = batch(spec, seed=seed)
        for tensor, new in zip(steps[0].batch, (x, target), strict=True):
            tensor.copy_(new)
        for modules in every:  # as an optimizer does
            for module in modules.values():
                module.zero_grad(set_to_none=True)
        steps[0].replay()
        expected = one_process(spec, x, target, make)
        for p, line in enumerate(spec.pipelines):
            for s in range(len(line.stages)):
                (module,) = [m[line.name, s] for m in every if (line.name, s) in m]
                for ours, theirs in zip(module.parameters(), expected.gradients[p, s], strict=True):
                    assert (ours.grad is None) == (theirs is None)
                    assert theirs is None or torch.allclose(ours.grad, theirs, atol=1e-6)  # type: ignore[arg-type]
        found = [one for step in steps for one in step.losses]
        wanted = [expected.losses[key] for key in sorted(expected.losses)]
        assert sorted(float(one) for one in found) == pytest.approx(sorted(map(float, wanted)))


@pytest.mark.parametrize("words", ["own.wait_stream(origin)", "origin.wait_event(end)"])
def test_a_stream_outside_of_the_capture_is_found(words: str) -> None:
    plan = compiled("one_f_one_b", ranks=2, microbatches=4)
    device, *_ = captured(plan, drop=lambda site, stream, event: words in site)
    told = "is not part of the capture" if "own" in words else "is not joined when the capture ends"
    assert any(told in one for one in device.found)


class Looks(Layer):
    """A stage whose module asks how large a number is."""

    def forward(self, x: Tensor, /, *others: Tensor) -> Tensor:
        return super().forward(x) * (2 if x.sum().item() > 0 else 1)


def test_a_module_that_looks_at_numbers_is_found() -> None:
    device, *_ = captured(compiled("one_f_one_b", ranks=2, microbatches=4), Looks)
    assert any("the host looks at a number in a capture: item" in one for one in device.found)


class Tied(nn.Module):
    """Two stages with one weight."""

    def __init__(self, _: int):
        super().__init__()
        draw = torch.Generator().manual_seed(1)
        self.weight = nn.Parameter(torch.randn(6, 6, generator=draw))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


@pytest.mark.parametrize(
    "make, options, words",
    [
        (Layer, {"on_nonfinite": "stop"}, "`on_nonfinite` has the host look at the losses"),
        (Layer, {"check_messages": True}, "`check_messages` has the host read a header"),
        (Layer, {"scale_loss": lambda target: 1.0}, "`scale_loss` weighs each micro-batch"),
        (Tied, {"ties": {"shared": [(0, "weight"), (1, "weight")]}}, "`main[0].weight` is tied"),
    ],
    ids=["nonfinite", "headers", "weights", "ties"],
)
def test_what_needs_the_host_is_refused(make: Any, options: Any, words: str) -> None:
    with pytest.raises(PipelineError, match="the step cannot be captured: ") as told:
        captured(compiled("one_f_one_b", ranks=2, microbatches=4), make, **options)
    assert words in str(told.value)


def refused(body: Any, on: bool = True) -> str:
    """What a rank is told that does this with its executor and the batch."""
    plan = compiled("one_f_one_b", ranks=2, microbatches=4)
    device = CheckedDevice()
    x, target = batch(spec_of(plan))

    def rank(transport: Local) -> None:
        modules = built(spec_of(plan), transport.rank)
        executor = Executor(plan, modules, loss, transport=transport, timeout=20.0)
        try:
            body(executor, x, target)
        finally:
            executor.close()

    with computing_on(device if on else None), pytest.raises(PipelineError) as told:
        run_local(plan, rank)
    return str(told.value)


def test_what_a_replay_could_not_read_is_refused() -> None:
    def cpu(executor: Executor, x: Tensor, target: Tensor) -> None:
        capture(executor, x, target=target)

    def elsewhere(executor: Executor, x: Tensor, target: Tensor) -> None:
        capture(executor, x.to("meta"), target=target)

    def copies(executor: Executor, x: Tensor, target: Tensor) -> None:
        usual = executor.preparation.begin

        def begin(name: Any, cut: Any, keep: bool) -> Any:
            made = usual(name, cut, keep)
            own = {
                p: one._replace(target=[t.clone() for t in one.target])
                for p, one in made.microbatches.items()
            }
            return made._replace(microbatches=own)

        executor.preparation = SimpleNamespace(begin=begin, check_messages=False)  # type: ignore[assignment]
        capture(executor, x, target=target)

    def added(executor: Executor, x: Tensor, target: Tensor) -> None:
        executor.step(x, target=target)
        capture(executor, x, target=target)

    def scaled(executor: Executor, x: Tensor, target: Tensor) -> None:
        GradScaler(executor)
        capture(executor, x, target=target)

    assert "its ranks are on the CPU" in refused(cpu, on=False)
    assert "the batch has (8, 6) on meta: a replay reads it where it was" in refused(elsewhere)
    assert "has a gradient, which a replay would replace" in refused(added)
    assert "a GradScaler changes the scale" in refused(scaled)
    assert "a micro-batch is a copy of a part of the batch" in refused(copies)
