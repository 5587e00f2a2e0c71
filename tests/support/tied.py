"""A small causal language model whose head is its embedding, in stages and in one process."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from stretto.compiler.plan.plan import Plan
from stretto.compiler.problem.spec import Spec
from stretto.runtime import Executor, run_local
from stretto.runtime.transport.local import Local
from tests.support.training import Modules, spec_of

VOCABULARY, WIDTH, LENGTH, ROWS = 11, 8, 5, 2
HEADS = 2


class Block(nn.Module):
    """Attention and a layer behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)])
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        rows, length, _ = x.shape
        q, k, v = (
            part.view(rows, length, HEADS, -1).transpose(1, 2)
            for part in self.qkv(self.norms[0](x)).chunk(3, -1)
        )
        mask = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
        scores = (q @ k.transpose(2, 3) / 2).masked_fill(mask, -1e9)
        x = x + self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(x.shape))
        return x + self.down(torch.tanh(self.up(self.norms[1](x))))


class TiedStage(nn.Module):
    """Stage `index` of `count`: the first has the embedding, the last the head, and those of
    `more` use it on their way. `weight`: the parameter to use, one of its own by default."""

    def __init__(
        self, index: int, count: int, more: Sequence[int] = (), weight: nn.Parameter | None = None
    ):
        super().__init__()
        draw = torch.Generator().manual_seed(index + 1)
        self.first, self.last = index == 0, index == count - 1
        self.block = Block()
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=draw) / 3)
        names = []
        if self.first:
            self.embedding = nn.Embedding(VOCABULARY, WIDTH)
            self.position = nn.Parameter(torch.randn(LENGTH, WIDTH, generator=draw) / 3)
            self.embedding.weight = fresh() if weight is None else weight
            names.append("embedding.weight")
        if self.last:
            self.norm = nn.LayerNorm(WIDTH)
            self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
            self.head.weight = (
                self.embedding.weight if self.first else fresh() if weight is None else weight
            )
            names.append("head.weight")
        self.middle = index in more
        if self.middle:
            self.again = fresh() if weight is None else weight
            names.append("again")
        self.tied = dict.fromkeys(names, "embedding")

    def forward(self, x: Tensor) -> Tensor:
        if self.first:
            x = self.embedding(x) + self.position
        if self.middle:
            x = x + torch.tanh(x @ self.again.T) @ self.again / 4
        x = self.block(x)
        return self.head(self.norm(x)) if self.last else x


def fresh() -> nn.Parameter:
    """Another parameter with the same values each time."""
    draw = torch.Generator().manual_seed(0)
    return nn.Parameter(torch.randn(VOCABULARY, WIDTH, generator=draw) / 3)


def token_loss(output: Tensor, target: Tensor) -> Tensor:
    return cross_entropy(output.flatten(0, 1), target.flatten())


def tokens(spec: Spec, seed: int = 0) -> tuple[Tensor, Tensor]:
    """x and target of a step, of all micro-batches of the model."""
    draw = torch.Generator().manual_seed(seed)
    rows = ROWS * sum(pipeline.microbatches for pipeline in spec.pipelines)
    whole = torch.randint(VOCABULARY, (rows, LENGTH + 1), generator=draw)
    return whole[:, :-1], whole[:, 1:]


class TiedRun(NamedTuple):
    """By rank the stages, the executors' ties and what the steps left."""

    modules: list[Modules]
    executors: list[Executor]

    def holders(self) -> Iterator[nn.Parameter]:
        """Every parameter that stands for the tied one, over all ranks."""
        for modules in self.modules:
            for module in modules.values():
                assert isinstance(module, TiedStage)
                for name in module.tied:
                    yield module.get_parameter(name)


def tied_stages(
    plan: Plan,
    rank: int,
    one_object: bool = True,
    more: Sequence[int] = (),
    dtype: torch.dtype = torch.float64,
) -> Modules:
    """The rank's stages; with `one_object` those of a rank share the parameter."""
    weight = fresh() if one_object else None
    return {
        (pipeline.name, s): TiedStage(s, len(pipeline.stages), more, weight).to(dtype)
        for pipeline in spec_of(plan).pipelines
        for s, stage in enumerate(pipeline.stages)
        if stage.rank == rank
    }


def tied_run(
    plan: Plan, modules: list[Modules], steps: int = 2, body: Any = None, **options: Any
) -> TiedRun:
    """Steps of AdamW on all ranks; `body(executor, optimizer)` in their place."""
    x, target = tokens(spec_of(plan))

    def rank(transport: Local) -> Executor:
        executor = Executor(
            plan,
            modules[transport.rank],
            token_loss,
            transport=transport,
            timeout=30.0,
            **options,
        )
        optimizer = torch.optim.AdamW(executor.parameters(), lr=0.01)
        try:
            if body is not None:
                body(executor, optimizer)
                return executor
            for step in range(steps):
                if step:
                    optimizer.step()
                    optimizer.zero_grad()
                executor.step(x, target=target)
        finally:
            executor.close()
        return executor

    return TiedRun(modules, run_local(plan, rank))


class OneProcess:
    """The same model with one parameter, trained by plain autograd."""

    def __init__(
        self, spec: Spec, more: Sequence[int] = (), dtype: torch.dtype = torch.float64
    ) -> None:
        count = len(spec.pipelines[0].stages)
        weight = fresh()
        self.stages = [TiedStage(s, count, more, weight).to(dtype) for s in range(count)]
        self.weight = weight
        self.x, self.target = tokens(spec)
        self.many = sum(pipeline.microbatches for pipeline in spec.pipelines)
        own = {id(p): p for stage in self.stages for p in stage.parameters()}
        self.optimizer = torch.optim.AdamW(own.values(), lr=0.01)

    def backward(self) -> None:
        """One step's gradients, added to what is there."""
        for x, target in zip(self.x.chunk(self.many), self.target.chunk(self.many), strict=True):
            for stage in self.stages:
                x = stage(x)
            (token_loss(x, target) / self.many).backward()

    def steps(self, many: int = 2) -> "OneProcess":
        for step in range(many):
            if step:
                self.optimizer.step()
                self.optimizer.zero_grad()
            self.backward()
        return self


def near(found: Tensor | None, expected: Tensor | None) -> bool:
    """Within a millionth of the largest entry; or both absent."""
    if found is None or expected is None:
        return found is expected
    gap = (found - expected).abs().max()
    return bool(gap <= 1e-6 * expected.abs().max())
