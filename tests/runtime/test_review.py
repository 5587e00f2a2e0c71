"""What is given in another way, or switched behind the executor's back, is the same or refused."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from stretto.runtime import Arguments, MicrobatchList, PipelineError
from tests.support.training import ROWS, WIDTH, Layer, batch, compiled, loss, spec_of, trained

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
