"""What is given in another way, or switched behind the executor's back, is the same or refused."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stretto.runtime import (
    Arguments,
    Executor,
    MicrobatchList,
    PipelineError,
    StepRefused,
    run_local,
)
from stretto.runtime.transport.local import Local
from tests.support.training import (
    ROWS,
    WIDTH,
    Layer,
    batch,
    built,
    compiled,
    loss,
    one_process,
    spec_of,
    there,
    trained,
)

PLAN = compiled("zb_v", ranks=2, microbatches=4)


class Masked(Layer):
    """Every stage asks for the mask by name."""

    def forward(self, x: Tensor, /, *, mask: Tensor | None = None) -> Tensor:  # type: ignore[override]
        return super().forward(x) if mask is None else super().forward(x) * mask


class First(Masked):
    """Takes x by name too."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:  # type: ignore[override]
        return super().forward(x, mask=mask)


def pieces(x: Tensor) -> list[Tensor]:
    return list(x.split(ROWS))


WAYS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "mapping": lambda x, mask: {"x": x, "mask": mask},
    "arguments": lambda x, mask: Arguments((x,), {"mask": mask}),
    "list of mappings": lambda x, mask: MicrobatchList(
        [{"x": a, "mask": b} for a, b in zip(pieces(x), pieces(mask), strict=True)]
    ),
    "list of arguments": lambda x, mask: MicrobatchList(
        [Arguments((a,), {"mask": b}) for a, b in zip(pieces(x), pieces(mask), strict=True)]
    ),
    "mapping of lists": lambda x, mask: {"x": MicrobatchList(pieces(x)), "mask": mask},
}


@pytest.mark.parametrize("way", WAYS)
def test_keywords_reach_the_later_stages_however_they_are_given(way: str) -> None:
    """A mask that came in a dict reached the first stage alone, and all others did without."""
    x, target = batch(spec_of(PLAN))
    mask = torch.rand(x.shape, generator=torch.Generator().manual_seed(3))
    found = trained(PLAN, WAYS[way](x, mask), target, make=First)
    stages = [First(k) for k in range(4)]  # one process
    for a, b, y in zip(pieces(x), pieces(mask), pieces(target), strict=True):
        for stage in stages:
            a = stage(a, mask=b)
        (loss(a, y) / 4).backward()
    for k, stage in enumerate(stages):
        for gradient, parameter in zip(found.gradients("main", k), stage.parameters(), strict=True):
            assert gradient is not None and torch.equal(gradient, parameter.grad), k  # type: ignore[arg-type]


@pytest.mark.parametrize("lacking", [0, 1])
def test_microbatches_with_unlike_keywords_are_refused(lacking: int) -> None:
    x, target = batch(spec_of(PLAN))
    given: list[dict[str, Any]] = [{"x": a, "mask": torch.ones(ROWS, WIDTH)} for a in pieces(x)]
    del given[lacking]["mask"]
    words = f"has the keyword `mask`, and micro-batch {lacking} does not"
    with pytest.raises(PipelineError, match=words):
        trained(PLAN, MicrobatchList(given), target, make=First)


COPIES = compiled("dualpipe", ranks=2, microbatches=4)


@pytest.mark.parametrize("way", ["frozen", "mode", "autocast"])
def test_copies_that_are_switched_differently_are_refused(way: str) -> None:
    """Where one is frozen its micro-batches were missing in the gradients of all. When all are
    switched alike again, the same executors go on."""
    x, target = batch(spec_of(COPIES))
    modules = [built(spec_of(COPIES), rank) for rank in range(2)]

    def switch(rank: int, on: bool) -> None:
        for module in modules[rank].values():
            if way == "frozen":
                module.get_parameter("up.weight").requires_grad_(not on)
            elif way == "mode":
                module.get_submodule("norm").train(not on)

    def body(transport: Local) -> str:
        rank = transport.rank
        executor = Executor(COPIES, modules[rank], loss, transport=transport, timeout=20.0)
        switch(rank, rank == 1)
        enabled = rank == 1 and way == "autocast"
        with torch.autocast("cpu", enabled=enabled), pytest.raises(StepRefused) as refused:
            executor.step(x, target=target)
        assert not any(parameter.grad is not None for parameter in executor.parameters())
        switch(rank, False)
        executor.step(x, target=target)
        executor.close()
        return str(refused.value)

    words = {
        "frozen": "`up[0]` on rank 1 has other frozen parameters (`requires_grad`) than",
        "mode": "`up[0]` on rank 1 is in another mode (`train()`, `eval()`) than",
        "autocast": "`up[0]` on rank 1 runs under another `torch.autocast` than",
    }
    for told in run_local(COPIES, body):
        assert f"{words[way]} its copy `down[0]` on rank 0" in told
    expected = one_process(spec_of(COPIES), x, target).gradients
    for stages in modules:
        for (_, stage), module in stages.items():
            for found, wanted in zip(module.parameters(), expected[0, stage], strict=True):
                assert torch.allclose(there(found.grad), there(wanted), atol=1e-6)


def test_a_holder_of_a_tie_that_is_frozen_alone_is_refused() -> None:
    """Later than when the executor was made, which looks at it too."""
    x, target = batch(spec_of(PLAN))
    ties = {"up": [(0, "up.weight"), (-2, "up.weight")]}

    def freeze(executor: Executor) -> None:
        for stage in executor.stages.values():
            if stage.stage.stage == 2:
                stage.module.get_parameter("up.weight").requires_grad_(False)

    words = "`main.2..up.weight` on rank 1 and `main.0..up.weight` on rank 0 are one parameter"
    with pytest.raises(StepRefused, match=words):
        trained(PLAN, x, target, before=freeze, ties=ties)


def test_executors_beside_each_other_on_the_same_threads() -> None:
    """One that trains, and one of another plan that evaluates the same modules with other rows:
    the second read the first one's cards and verdicts."""
    other = compiled("zb_v", ranks=2, microbatches=6)
    modules = [built(spec_of(PLAN), rank) for rank in range(2)]
    stages = [Layer(k) for k in range(4)]
    x, target = batch(spec_of(PLAN))
    rows = torch.randn(18, WIDTH, generator=torch.Generator().manual_seed(5))
    chain = nn.Sequential(*stages)

    def body(transport: Local) -> list[Tensor]:
        rank = transport.rank
        options: dict[str, Any] = {"transport": transport, "timeout": 20.0}
        trains = Executor(PLAN, modules[rank], loss, **options)
        looks = Executor(other, modules[rank], loss, **options)
        found = []
        for _ in range(3):
            trains.step(x, target=target)
            found.append(looks.eval(rows))
        trains.close()
        looks.close()
        return [output for output in found if output is not None]

    (outputs,) = [found for found in run_local(PLAN, body) if found]
    expected = torch.cat([chain(piece) for piece in rows.chunk(6)])
    assert len(outputs) == 3 and all(torch.equal(output, expected) for output in outputs)


def test_group_norms_with_channels_last_are_not_cut() -> None:
    """torch crashes where their weights' gradients are asked for without that of the input."""

    class Image(nn.Module):
        def __init__(self, seed: int):
            super().__init__()
            self.layer, self.up = Layer(seed), nn.Conv2d(1, 4, 3, padding=1)
            self.norm, self.down = nn.GroupNorm(2, 4), nn.Conv2d(4, 1, 1)
            draw = torch.Generator().manual_seed(seed)
            with torch.no_grad():
                for parameter in (*self.up.parameters(), *self.down.parameters()):
                    parameter.copy_(torch.randn(parameter.shape, generator=draw) / 3)

        def forward(self, x: Tensor) -> Tensor:
            wide = self.up(self.layer(x)[:, None, None]).to(memory_format=torch.channels_last)
            return x + self.down(self.norm(wide))[:, 0, 0]

    x, target = batch(spec_of(PLAN))
    found = trained(PLAN, x, target, make=Image)
    expected = one_process(spec_of(PLAN), x, target, make=Image).gradients
    for k in range(4):
        for gradient, wanted in zip(found.gradients("main", k), expected[0, k], strict=True):
            assert torch.allclose(there(gradient), there(wanted), atol=1e-6)
