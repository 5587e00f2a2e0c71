"""Micro-batches of unlike shape in one step, and batches that do not divide, against one
process."""

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stretto.compiler.driver import compile_text
from stretto.compiler.problem.spec import Spec
from stretto.runtime import Executor, MicrobatchList, PipelineError
from stretto.runtime.topology import StageGraph, StageId
from stretto.runtime.train.verify import Verdict, verify
from tests.support.specs import linear, ordered, random_model, random_order, zb_h1
from tests.support.steps import executors
from tests.support.training import WIDTH, Layer, compiled, loss, plan_of, seed_of, spec_of, there

LENGTHS = [1, 5, 2, 3, 1, 1, 7, 2]  # of sequences: no two neighbours alike but one pair
BOTH_WAYS = compiled("dualpipe", ranks=4, microbatches=8)
ZERO_BUBBLE = plan_of(ordered(linear(3, 4), zb_h1))


def window() -> Any:
    """Planned for micro-batches of these lengths."""
    lengths = ", ".join(map(str, LENGTHS))
    return compile_text(
        f"""
schedule window
ranks 3
microbatches 8
let length = [{lengths}]
pipeline main {{
  stages ranks
  place s -> s
}}
split B into I, W
cost F[s, m] = length[m] for s in 0 .. ranks, m in 0 .. microbatches
cost I[s, m] = length[m] for s in 0 .. ranks, m in 0 .. microbatches
cost W[s, m] = length[m] for s in 0 .. ranks, m in 0 .. microbatches
order rank r {{
  let warmup = min(microbatches, ranks - 1 - r)
  repeat warmup                {{ F }}
  repeat microbatches - warmup {{ F; I; W }}
  repeat warmup                {{ I; W }}
}}
""",
        "window.pipe",
    )


def double(seed: int) -> nn.Module:
    return Layer(seed % 100, torch.float64)


def drawn(lengths: list[int], seed: int) -> MicrobatchList:
    draw = torch.Generator().manual_seed(seed)
    return MicrobatchList(
        [torch.randn(2, n, WIDTH, generator=draw, dtype=torch.float64) for n in lengths]
    )


def tokens(target: Tensor) -> int:
    return target.numel() // WIDTH


def verified(executor: Executor, plan: Any, x: Any, target: Any) -> Verdict | None:
    def build(stage: StageId) -> nn.Module:
        return double(stage.stage)

    whole = plan if executor.rank == 0 else None
    return verify(executor, whole, build, loss, x, target, {})


@pytest.mark.parametrize("name", ["zb_h1", "dualpipe", "window"])
def test_microbatches_of_unlike_length_are_those_of_one_process(name: str) -> None:
    """Bit for bit by micro-batch, and the mean over all tokens up to rounding."""
    plan = {"zb_h1": ZERO_BUBBLE, "dualpipe": BOTH_WAYS}.get(name) or window()
    stages = len(spec_of(plan).pipelines[0].stages)
    lengths = LENGTHS[: 4 if plan is ZERO_BUBBLE else 8]
    x, target = drawn(lengths, 0), drawn(lengths, 1)

    def body(executor: Executor) -> Any:
        verdict = verified(executor, plan, x, target)
        gradients = {
            at: [there(p.grad).clone() for p in stage.module.parameters()]
            for at, stage in executor.stages.items()
        }
        output = executor.eval(x)
        shorter = MicrobatchList(list(x)[::-1])  # other shapes, in another step
        other = executor.eval(shorter)
        return verdict, gradients, output, other

    found = executors(plan, body, make=double, scale_loss=tokens)
    verdict = found[0][0]
    assert verdict.equal, str(verdict)
    modules = [double(s) for s in range(stages)]
    model, total = nn.Sequential(*modules), sum(map(tokens, target))
    outputs = [model(one) for one in x]
    squares = [(y - t).square().sum() for y, t in zip(outputs, target, strict=True)]
    (torch.stack(squares).sum() / (total * WIDTH)).backward()
    for _, gradients, _, _ in found:
        for (_, s), ours in gradients.items():
            for one, p in zip(ours, modules[s].parameters(), strict=True):
                assert (one - there(p.grad)).abs().max() <= 1e-13 * there(p.grad).abs().max()
    given = [found[3], found[0]] if plan is BOTH_WAYS else [found[-1]]
    for k, wanted in ((2, outputs), (3, outputs[::-1])):
        made = [one for rank in given for one in rank[k]]
        assert all(isinstance(rank[k], MicrobatchList) for rank in given)
        assert all(torch.allclose(a, b) for a, b in zip(made, wanted, strict=True))


def without_feeds(random: Random) -> Spec:
    """A random model; pipelines that feed each other would need micro-batches of like shape."""
    while True:
        spec = random_model(random)
        if not spec.slices and not any(pipeline.feeds for pipeline in spec.pipelines):
            return random_order(spec, random, pairs=0.3)


def by_pipeline(spec: Spec, make: Callable[[int], Any]) -> Any:
    """`make(microbatches)` for each model; as a step is given it."""
    graph = StageGraph(spec)
    found = {spec.pipelines[p].name: make(graph.model_microbatches(p)) for p in graph.originals()}
    return found if len(found) > 1 else next(iter(found.values()))


@pytest.mark.parametrize("seed", range(16))
def test_random_plans_with_random_lengths_and_weights(seed: int) -> None:
    random = Random(seed)
    spec = without_feeds(random)
    plan, listed = plan_of(spec), seed % 2
    lengths = by_pipeline(spec, lambda many: [random.randint(1, 4) for _ in range(many)])
    rows = by_pipeline(spec, lambda many: random.randint(many, 3 * many))

    def given(draw: int) -> Any:
        if isinstance(rows, dict) and listed:
            return {name: drawn(own, draw) for name, own in lengths.items()}
        if listed:
            return drawn(lengths, draw)
        make = torch.Generator().manual_seed(draw)
        if isinstance(rows, dict):
            return {name: torch.randn(n, WIDTH, generator=make) for name, n in rows.items()}
        return torch.randn(rows, WIDTH, generator=make)

    def body(executor: Executor) -> Any:
        def build(stage: StageId) -> nn.Module:
            return Layer(seed_of(spec, *stage), torch.float64 if listed else torch.float32)

        whole = plan if executor.rank == 0 else None
        return verify(executor, whole, build, loss, given(0), given(1), {})

    def make(number: int) -> nn.Module:
        return Layer(number, torch.float64 if listed else torch.float32)

    weights = (lambda target: 0 if target.shape[-2] == 1 else target.numel(), True)
    found = executors(plan, body, make=make, ragged=True, scale_loss=weights[seed % 3 > 1])
    assert found[0].equal, str(found[0])


@pytest.mark.parametrize("plan", [ZERO_BUBBLE, BOTH_WAYS], ids=["zb_h1", "dualpipe"])
def test_a_ragged_batch_is_run_where_that_was_asked_for(plan: Any) -> None:
    """Cut as by `tensor_split`; each micro-batch counts by its rows, so that gradients are those of
    the whole batch."""
    spec = spec_of(plan)
    count, stages = (4, 3) if plan is ZERO_BUBBLE else (8, 4)
    draw = torch.Generator().manual_seed(0)
    assert spec.ranks
    for rows in (count + 1, 2 * count + 3, 2 * count):
        x, target = (
            torch.randn(rows, WIDTH, generator=draw, dtype=torch.float64) for _ in range(2)
        )

        def body(executor: Executor, x: Any = x, target: Any = target) -> Any:
            verdict = verified(executor, plan, x, target)
            gradients = {
                at: [p.grad for p in stage.module.parameters()]
                for at, stage in executor.stages.items()
            }
            return verdict, gradients, executor.eval(x)

        found = executors(plan, body, make=double, ragged=True)
        assert found[0][0].equal, str(found[0][0])
        modules = [double(s) for s in range(stages)]
        output = nn.Sequential(*modules)(x)
        loss(output, target).backward()
        for _, gradients, _ in found:
            for (_, s), ours in gradients.items():
                for one, p in zip(ours, modules[s].parameters(), strict=True):
                    gap = (there(one) - there(p.grad)).abs().max()
                    assert gap <= 1e-13 * there(p.grad).abs().max()
        given = [found[3], found[0]] if plan is BOTH_WAYS else [found[-1]]
        assert torch.allclose(torch.cat([rank[2] for rank in given]), output)


def gradients_of(plan: Any, body: Callable[[Executor], Any], **options: Any) -> list[Tensor]:
    """By stage and parameter, of a plan that has each stage once."""

    def step(executor: Executor) -> Any:
        body(executor)
        return [there(p.grad) for s in executor.stages.values() for p in s.module.parameters()]

    return [g for part in executors(plan, step, make=double, **options) for g in part]


def test_how_much_microbatches_of_unlike_rows_count() -> None:
    """Those of a list alike, of a ragged batch by their rows, also where the rows of one step of
    several are all alike: the total is in rows."""
    draw = torch.Generator().manual_seed(0)
    first, second = (
        [torch.randn(n, WIDTH, generator=draw, dtype=torch.float64) for n in (7, 8)]
        for _ in range(2)
    )
    plan = ZERO_BUBBLE

    def summed(*losses: Any) -> list[Tensor]:
        modules = [double(s) for s in range(3)]
        model = nn.Sequential(*modules)
        sum(weight * loss(model(x), y) for x, y, weight in losses).backward()  # pyright: ignore[reportAttributeAccessIssue]
        return [there(p.grad) for module in modules for p in module.parameters()]

    def equal(ours: list[Tensor], theirs: list[Tensor]) -> None:
        assert all(torch.allclose(a, b, rtol=1e-11) for a, b in zip(ours, theirs, strict=True))

    x, y = (MicrobatchList(part[0].split([1, 3, 1, 2])) for part in (first, second))
    alike = gradients_of(plan, lambda e: e.step(x, target=y))
    equal(alike, summed(*((a, b, 1 / 4) for a, b in zip(x, y, strict=True))))
    by_rows = gradients_of(plan, lambda e: e.step(x, target=y), ragged=True)
    equal(by_rows, summed((first[0], second[0], 1)))

    def several(executor: Executor) -> None:
        for a, b in zip(first, second, strict=True):
            executor.step(a, target=b, weight_total=15)

    both = gradients_of(plan, several, ragged=True)
    equal(both, summed((first[0], second[0], 7 / 15), (first[1], second[1], 8 / 15)))


def test_a_ragged_batch_is_refused_and_the_next_one_taken() -> None:
    """Where nobody asked for it, and where there are fewer rows than micro-batches."""
    x = torch.zeros(8, WIDTH, dtype=torch.float64)

    def told(rows: int, **options: Any) -> list[str]:
        def body(executor: Executor) -> str:
            try:
                executor.step(x[:rows], target=x[:rows])
            except PipelineError as error:
                executor.step(x, target=x)
                return str(error)
            raise AssertionError("it was not refused")

        return executors(ZERO_BUBBLE, body, make=double, **options)

    for message in told(7):
        assert "x has 7 rows, which do not divide into 4 micro-batches: give it 4 or 8" in message
        for way in ("drop_last=True", "MicrobatchList", "ragged=True"):
            assert way in message
    for message in told(3, ragged=True):
        assert "x has 3 rows, fewer than the 4 micro-batches" in message


def test_ranks_that_are_given_unlike_lengths_are_told_before_anything_is_sent() -> None:
    """x on the first rank, the target on the last, keywords in between."""
    x = torch.zeros(8, WIDTH, dtype=torch.float64)

    def told(middle: dict[str, Any], target: Any) -> list[str]:
        def body(executor: Executor) -> str:
            try:
                if executor.rank == 0:
                    executor.step(x)
                elif executor.rank == 1:
                    executor.step(**middle)
                else:
                    executor.step(target=target)
            except PipelineError as error:
                return str(error)
            raise AssertionError("it was not refused")

        return executors(ZERO_BUBBLE, body, make=Named)

    for message in told({}, x[:4]):
        assert "x has 8 rows on rank 0 and target 4 on rank 2" in message
    for message in told({"bias": x[:4]}, x):
        assert "x has 8 rows on rank 0 and `bias` 4 on rank 1" in message
    for message in told({}, MicrobatchList([x[:1]] * 4)):
        assert "x has 8 rows on rank 0 and target 4 on rank 2" in message
    for message in told({"bais": x}, x):
        assert "no stage takes `bais`, which rank 1 was given" in message


class Named(nn.Module):
    """Takes `bias`."""

    def __init__(self, seed: int):
        super().__init__()
        self.layer = double(seed)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        y: Tensor = self.layer(x)
        return y if bias is None else y + bias


def test_keywords_that_only_the_first_stage_takes_may_be_given_everywhere() -> None:
    class Scaled(Named):
        def forward(self, x: Tensor, bias: Any = None, scale: Any = 1) -> Tensor:
            return super().forward(x * scale, bias)

    def make(seed: int) -> nn.Module:
        return Scaled(seed) if seed == 0 else Named(seed)

    x = torch.ones(8, WIDTH, dtype=torch.float64)

    def body(executor: Executor) -> Any:
        return executor.step(x, target=x, scale=3)

    output = executors(ZERO_BUBBLE, body, make=make)[2]
    expected = Named(2)(Named(1)(Scaled(0)(x, scale=3)))
    assert torch.allclose(output, expected)
