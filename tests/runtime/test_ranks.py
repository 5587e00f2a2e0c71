"""Steps over gloo, each rank a process: bit for bit what one process computes."""

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage

from stretto.compiler.plan.plan import Plan
from stretto.runtime import Executor, PipelineError
from stretto.runtime.train.verify import verify
from stretto.runtime.transport.gloo import Gloo
from stretto.runtime.transport.nccl import Nccl
from tests.support.ranks import run
from tests.support.training import Layer, batch, built, compiled, loss, seed_of, spec_of, there

pytestmark = pytest.mark.xdist_group("ranks")  # one after the other: they wait for each other

SCHEDULES: list[Any] = [
    ("gpipe", {"ranks": 4, "microbatches": 8}),
    ("one_f_one_b", {"ranks": 4, "microbatches": 8}),
    ("interleaved_1f1b", {"ranks": 4, "microbatches": 8}),
    ("zb_h1", {"ranks": 4, "microbatches": 8}),
    ("zb_v", {"ranks": 4, "microbatches": 8}),
    ("dualpipe_v", {"ranks": 2, "microbatches": 8}),
    ("dualpipe", {"ranks": 4, "microbatches": 8}),
    ("chimera", {"ranks": 4, "microbatches": 4}),
    ("two_models", {"ranks": 4, "microbatches": 8}),
]


def step(rank: int, plan: Plan, x: Any, target: Any, nearby: bool = True) -> Any:
    """A verified step: what rank 0 found, and this rank's gradients and losses. `nearby`: short
    messages need not go through gloo."""
    spec = spec_of(plan)
    modules = built(spec, rank)
    executor = Executor(plan, modules, loss, transport=Gloo(nearby=nearby), timeout=30)
    losses: dict[str, list[Tensor]] = {}
    verdict = verify(
        executor, plan, lambda place: Layer(seed_of(spec, *place)), loss, x, target, losses
    )
    executor.close()
    gradients = {key: [p.grad for p in m.parameters()] for key, m in modules.items()}
    return None if verdict is None else (verdict.equal, str(verdict)), gradients, losses


def in_order(plan: Plan, x: Any, target: Any) -> dict[tuple[str, int], list[Tensor]]:
    """The gradients of one process that takes the micro-batches of each pipeline in their order,
    and adds the copies' sums by rank; where a plan adds in that order."""
    spec = spec_of(plan)
    found: dict[tuple[str, int], list[Tensor]] = {}
    total: dict[int, list[Tensor]] = {}
    for p, pipeline in enumerate(spec.pipelines):
        stages = [Layer(seed_of(spec, p, s)) for s in range(len(pipeline.stages))]
        own = p if pipeline.replicates < 0 else pipeline.replicates
        name = spec.pipelines[own].name
        xs, ys = (x[name], target[name]) if isinstance(x, dict) else (x, target)
        count = sum(q.microbatches for q in spec.pipelines if own in (_at(spec, q), q.replicates))
        parts = zip(xs.chunk(count), ys.chunk(count), strict=True)
        for m, (part, wanted) in enumerate(parts):
            if pipeline.first <= m < pipeline.first + pipeline.microbatches:
                (loss(nn.Sequential(*stages)(part), wanted) / count).backward()
        for s, stage in enumerate(stages):
            found[pipeline.name, s] = [there(q.grad) for q in stage.parameters()]
    for pipeline in spec.pipelines:
        for s in range(len(pipeline.stages)) if pipeline.replicates >= 0 else ():
            pair = (found[pipeline.name, s], found[spec.pipelines[pipeline.replicates].name, s])
            total[s] = [a + b for a, b in zip(*pair, strict=True)]
            found[pipeline.name, s] = found[spec.pipelines[pipeline.replicates].name, s] = total[s]
    return found


def _at(spec: Any, pipeline: Any) -> int:
    return spec.pipelines.index(pipeline)


@pytest.mark.parametrize(("name", "sizes"), SCHEDULES, ids=[name for name, _ in SCHEDULES])
def test_a_step_is_bit_for_bit_that_of_one_process(name: str, sizes: dict[str, int]) -> None:
    plan = compiled(name, **sizes)
    spec = spec_of(plan)
    x, target = batch(spec)
    outcome = run(spec.ranks, step, plan, x, target)
    equal, words = outcome.results[0][0]
    assert equal, words
    for p in spec.pipelines:
        assert any(p.name in losses for _, _, losses in outcome.results)
    # The same, computed here: all these add each pipeline's micro-batches in their order.
    expected = in_order(plan, x, target)
    for _, gradients, _ in outcome.results:
        for key, ours in gradients.items():
            assert all(torch.equal(a, b) for a, b in zip(ours, expected[key], strict=True)), key


@pytest.mark.parametrize("name", ["zb_v", "chimera"])
def test_a_step_whose_messages_all_go_through_gloo(name: str) -> None:
    plan = compiled(name, ranks=4, microbatches=4)
    x, target = batch(spec_of(plan))
    outcome = run(4, step, plan, x, target, False)
    equal, words = outcome.results[0][0]
    assert equal, words


def side_by_side(rank: int, plan: Plan) -> Any:
    """Two pipelines, each in a group of its own, at the same time."""
    groups = [dist.new_group(members) for members in ([0, 2], [1, 3])]
    mine = groups[rank % 2]
    assert isinstance(mine, dist.ProcessGroup)
    spec = spec_of(plan)
    x, target = batch(spec, seed=rank % 2)
    own = dist.get_rank(mine)
    (module,) = built(spec, own).values()
    stage = PipelineStage(module, own, 2, torch.device("cpu"), group=mine)
    executor = Executor(plan, [stage], loss, group=mine, timeout=30)
    losses: list[Tensor] = []
    output = executor.step(x if own == 0 else None, target=target, losses=losses)
    executor.close()
    return output, losses


def test_a_plans_ranks_are_those_of_its_group() -> None:
    plan = compiled("one_f_one_b", ranks=2, microbatches=4)
    outcome = run(4, side_by_side, plan)
    for first in (0, 1):
        x, target = batch(spec_of(plan), seed=first)
        expected = nn.Sequential(Layer(0), Layer(1))(x)
        output, losses = outcome.results[first + 2]
        assert torch.allclose(output, expected, atol=1e-6)
        parts = zip(expected.chunk(4), target.chunk(4), strict=True)
        assert torch.allclose(torch.stack(losses), torch.stack([loss(a, b) for a, b in parts]))


def many_types(rank: int, plan: Plan) -> Any:
    """Edges of types that gloo itself does not know, shapes that change, numbers, nothing."""

    class Mixed(nn.Module):
        def forward(self, x: Tensor, *rest: Tensor) -> Any:
            half = x.to(torch.bfloat16)
            return x * 2, half, x > 0, x.to(torch.complex64), x.sum(), x[:0], x.t()

    def judge(output: Any, target: Tensor) -> Tensor:
        parts = (part.abs() if part.is_complex() else part for part in output)
        return sum((part.float().sum() for part in parts), torch.zeros(()))

    executor = Executor(plan, [Mixed()], judge, timeout=30)
    found = []
    for rows in (8, 16, 8):
        x = torch.arange(rows * 3, dtype=torch.float32).view(rows, 3) - rows
        output = executor.step(x if rank == 0 else None, target=x if rank == 2 else None)
        found.append(None if output is None else [part.shape for part in output[:3]])
    executor.close()
    return found


def test_any_type_and_new_shapes_travel() -> None:
    outcome = run(3, many_types, compiled("one_f_one_b", ranks=3, microbatches=4))
    assert outcome.results[2] == [[(rows, 3)] * 3 for rows in (8, 16, 8)]


class Pairs(Nccl):
    """NCCL's way to travel, a communicator for every lane, over a backend that is here."""

    backend = "gloo"

    def here(self) -> torch.device:
        return torch.device("cpu")

    def settle(self) -> None:
        pass


def by_pairs(rank: int, plan: Plan, families: list[list[int]] | None) -> Any:
    spec = spec_of(plan)
    groups = [dist.new_group(family) for family in families or []]
    mine = next((g for g, f in zip(groups, families or [], strict=True) if rank in f), None)
    assert mine is None or isinstance(mine, dist.ProcessGroup)
    transport = Pairs(mine, families)
    x, target = batch(spec)
    modules = built(spec, transport.rank)
    executor = Executor(plan, modules, loss, group=mine, transport=transport, timeout=30)
    executor.step(x, target=target)
    executor.close()
    return {key: [p.grad for p in m.parameters()] for key, m in modules.items()}


@pytest.mark.parametrize("families", [None, [[0, 2], [1, 3]]], ids=["one", "two"])
def test_a_communicator_for_every_lane(families: list[list[int]] | None) -> None:
    plan = compiled("dualpipe", ranks=2 if families else 4, microbatches=8)
    outcome = run(4, by_pairs, plan, families)
    expected = in_order(plan, *batch(spec_of(plan)))
    for gradients in outcome.results:
        for key, ours in gradients.items():
            assert all(torch.equal(a, b) for a, b in zip(ours, expected[key], strict=True)), key


def incomplete(rank: int) -> str:
    group = dist.new_group([0, 1])
    if not isinstance(group, dist.ProcessGroup):
        return ""  # not in this pipeline
    try:
        Pairs(group)
    except PipelineError as stopped:
        return str(stopped)
    return ""


def test_communicators_of_other_pipelines_are_asked_for() -> None:
    results = run(3, incomplete).results
    assert all("pass `transport=Nccl(group, families=…)`" in words for words in results[:2])
