"""Loss scaling and lower precision, against `torch.amp` in one process."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stretto.runtime import Executor, GradScaler, PipelineError, clip_grad_norm_
from tests.support.one_process import (
    NAMES,
    SCHEDULES,
    add_gradients,
    alike,
    whole_model,
)
from tests.support.steps import executors
from tests.support.training import Layer, batch, compiled, loss, spec_of, there

STEPS = 8
BAD = {2: 1, 3: 0, 6: 2}  # by step the stage whose gradient gets an infinity
SETTINGS: dict[str, Any] = {"init_scale": 2.0**10, "growth_interval": 2}


def spoil(module: nn.Module, stage: int, step: int, before: dict[int, Tensor]) -> None:
    """An infinity in one gradient, as an overflow leaves it."""
    if BAD.get(step) == stage:
        there(module.get_parameter("down.weight").grad)[1, 2] = float("inf")


@pytest.mark.parametrize(("name", "sizes"), SCHEDULES, ids=NAMES)
def test_one_rank_finds_an_infinity_and_all_skip_the_step(name: str, sizes: dict[str, int]) -> None:
    """Scales, norms and weights after every step are those of torch's scaler; of copies only one
    gets the infinity, and both skip."""
    plan = compiled(name, **sizes)
    x, target = batch(spec_of(plan))

    def body(executor: Executor) -> Any:
        mine = list(executor.parameters())
        first, second = mine[::2], mine[1::2]  # two optimizers
        optimizers = [torch.optim.AdamW(some, lr=0.05) for some in (first, second)]
        scaler = GradScaler(executor, **SETTINGS)
        told = []
        for step in range(STEPS):
            executor.step(x, target=target)
            for at, stage in executor.stages.items():
                if at.pipeline == 0:
                    spoil(stage.module, at.stage, step, {})
            for optimizer in optimizers:
                scaler.unscale_(optimizer)
            norm = clip_grad_norm_(executor, 0.2) if step % 2 else None
            for optimizer in optimizers:
                scaler.step(optimizer)
                optimizer.zero_grad()
            scaler.update()
            told.append((scaler.get_scale(), norm))
        return told, {at: list(s.module.parameters()) for at, s in executor.stages.items()}

    found = executors(plan, body)
    whole = whole_model(plan)
    mine = list(whole.parameters())
    optimizers = [torch.optim.AdamW(mine, lr=0.05)]
    scaler = torch.amp.GradScaler("cpu", **SETTINGS)
    for step in range(STEPS):
        add_gradients(whole, x, target, scaler.scale)
        for s, layer in enumerate(whole):
            spoil(layer, s, step, {})
        scaler.unscale_(optimizers[0])
        norm = nn.utils.clip_grad_norm_(mine, 0.2) if step % 2 else None
        scaler.step(optimizers[0])
        optimizers[0].zero_grad()
        scaler.update()
        for told, _ in found:
            assert told[step][0] == scaler.get_scale()
            assert norm is None or norm.isnan() or alike(name, told[step][1], norm)
    assert len({scale for scale, _ in found[0][0]}) > 2
    for held in (of_stage for _, of_stages in found for of_stage in of_stages.items()):
        (_, s), ours = held
        theirs = whole[s].parameters()
        assert all(alike(name, a, b) for a, b in zip(ours, theirs, strict=True))


def test_a_rank_without_optimizer_takes_part() -> None:
    """Its stages are frozen; and clipping unscales by itself."""
    plan = compiled("one_f_one_b", ranks=2, microbatches=2)
    x, target = batch(spec_of(plan))

    def make(seed: int) -> nn.Module:
        return Layer(seed).requires_grad_(seed == 1)

    def body(executor: Executor) -> Any:
        trained = [p for p in executor.parameters() if p.requires_grad]
        scaler = GradScaler(executor, init_scale=4.0, growth_interval=1)
        executor.step(x, target=target)
        norm = clip_grad_norm_(executor, 100.0)
        if trained:
            optimizer = torch.optim.SGD(trained, lr=0.1)
            scaler.step(optimizer)
        scaler.update()
        return norm, scaler.get_scale()

    (a, scale), (b, other) = executors(plan, body, make)
    whole = whole_model(plan, make)
    add_gradients(whole, x, target)
    assert torch.equal(a, b) and scale == other == 8.0
    assert torch.equal(
        a, nn.utils.get_total_norm([p.grad for p in whole.parameters() if p.grad is not None])
    )


def test_a_state_that_torch_saved_is_taken_and_given_back() -> None:
    plan = compiled("one_f_one_b", ranks=1, microbatches=2)
    theirs = torch.amp.GradScaler("cpu", init_scale=8.0)
    theirs.scale(torch.ones(()))
    saved = theirs.state_dict() | {"_growth_tracker": 3}

    def body(executor: Executor) -> Any:
        scaler = GradScaler(executor)
        scaler.load_state_dict(saved)
        return scaler.state_dict(), [stage.scale for stage in executor.stages.values()]

    assert executors(plan, body) == [(saved, [8.0])]


def test_what_would_be_wrong_is_refused() -> None:
    plan = compiled("one_f_one_b", ranks=2, microbatches=2)
    x, target = batch(spec_of(plan))

    def scaled_twice(executor: Executor) -> None:
        GradScaler(executor).scale(torch.ones(()))

    def not_updated(executor: Executor) -> None:
        scaler = GradScaler(executor)
        executor.step(x, target=target)
        scaler.unscale_(torch.optim.SGD(executor.parameters(), lr=0.1))
        executor.step(x, target=target)

    def of_other_scales(executor: Executor) -> None:
        scaler = GradScaler(executor, init_scale=2.0 + executor.rank)
        executor.step(x, target=target)
        scaler.update()

    def half(executor: Executor) -> None:
        scaler = GradScaler(executor)
        executor.step(x.half(), target=target.half())
        scaler.update()

    for body, make, words in (
        (scaled_twice, Layer, "leave out `scaler.scale"),
        (not_updated, Layer, "call `scaler.update()` before it"),
        (of_other_scales, Layer, "rank 0 has the loss scale 2, but rank 1 3|rank 1 has the loss"),
        (half, lambda s: Layer(s, torch.float16), "has gradients of float16"),
    ):
        with pytest.raises(PipelineError, match=words.replace("(", r"\(").replace(")", r"\)")):
            executors(plan, body, make)


# Lower precision --------------------------------------------------------------------------------


class Mixed(Layer):
    """Part of it computes in full precision, whatever is around it."""

    def forward(self, x: Tensor, /, *others: Tensor) -> Tensor:
        x = super().forward(x, *others)
        with torch.autocast("cpu", enabled=False):
            exact: Tensor = x.float() @ self.up.weight.T @ self.down.weight.T
        return x + exact.to(x.dtype)


def test_a_step_under_another_autocast_sends_other_types() -> None:
    """What travels between stages is of the type that the forward computes in."""
    plan = compiled("zb_h1", ranks=2, microbatches=2)
    x, target = batch(spec_of(plan))

    def make(seed: int) -> nn.Module:
        draw = torch.Generator().manual_seed(seed)
        layer = nn.Linear(6, 6)
        with torch.no_grad():
            layer.weight.copy_(torch.randn(6, 6, generator=draw))
            layer.bias.zero_()
        return layer

    def step(module: Any, on: bool) -> Any:
        with torch.autocast("cpu", torch.bfloat16, enabled=on):
            return module()

    def body(executor: Executor) -> Any:
        found: list[Tensor] = []
        for on in (False, True, True, False, True):
            losses: list[Tensor] = []
            step(lambda losses=losses: executor.step(x, target=target, losses=losses), on)
            found += losses
        return found

    _, ours = executors(plan, body, make)
    whole = whole_model(plan, make)
    theirs = [
        step(lambda a=a, b=b: loss(whole(a), b), on)
        for on in (False, True, True, False, True)
        for a, b in zip(x.chunk(2), target.chunk(2), strict=True)
    ]
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert not torch.equal(ours[0], ours[2])


@pytest.mark.parametrize(("name", "sizes"), SCHEDULES, ids=NAMES)
@pytest.mark.parametrize("kind", ["autocast", "whole"])
def test_bfloat16(name: str, sizes: dict[str, int], kind: str) -> None:
    """Autocast around a step, as around a forward in one process, whose backward is outside; or the
    whole model in bfloat16. Then a step in full precision."""
    plan = compiled(name, **sizes)
    whole_type = torch.bfloat16 if kind == "whole" else torch.float32
    x, target = batch(spec_of(plan), whole_type)

    def make(seed: int) -> nn.Module:
        return Mixed(seed) if kind == "autocast" else Layer(seed, torch.bfloat16)

    def around(on: bool) -> Any:
        return torch.autocast("cpu", torch.bfloat16) if on and kind == "autocast" else nullcontext()

    def body(executor: Executor) -> Any:
        losses: list[Tensor] = []
        found = []
        optimizer = torch.optim.SGD(executor.parameters(), lr=0.1)
        for on in (True, True, False):
            with around(on):
                executor.step(x, target=target, losses=losses)
            clip_grad_norm_(executor, 0.5)
            optimizer.step()
            optimizer.zero_grad()
            found += losses
        return found, {at: list(s.module.parameters()) for at, s in executor.stages.items()}

    found = executors(plan, body, make)
    whole = whole_model(plan, make)
    optimizer = torch.optim.SGD(whole.parameters(), lr=0.1)
    losses: list[Tensor] = []

    def forward(model: nn.Module, x: Tensor, target: Tensor, on: bool) -> Tensor:
        with around(on):
            return loss(model(x), target)

    for on in (True, True, False):
        losses += add_gradients(
            whole,
            x,
            target,
            forward=lambda m, x, y, on=on: forward(m, x, y, on),  # type: ignore[misc]
        )
        nn.utils.clip_grad_norm_(whole.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
    if name != "dualpipe":
        (ours,) = [told for told, _ in found if told]
        assert all(torch.equal(a, b) for a, b in zip(ours, losses, strict=True))
    for held in (of_stage for _, of_stages in found for of_stage in of_stages.items()):
        (_, s), ours = held
        for a, b in zip(ours, whole[s].parameters(), strict=True):
            assert torch.equal(a, b) if name != "dualpipe" else torch.allclose(a, b, atol=3e-2)
