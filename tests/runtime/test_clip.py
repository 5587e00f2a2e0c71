"""Clipping over all ranks, against `torch.nn.utils` on the whole model in one process."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stretto.compiler.plan.plan import Plan, write_plan
from stretto.runtime import (
    Executor,
    NonFiniteError,
    PipelineError,
    clip_grad_norm_,
    stage_counts,
    stages_of,
)
from tests.support.ranks import run
from tests.support.steps import executors
from tests.support.training import (
    ROWS,
    Layer,
    batch,
    built,
    compiled,
    loss,
    seed_of,
    spec_of,
    there,
)

SCHEDULES: list[Any] = [
    ("one_f_one_b", {"ranks": 3, "microbatches": 4}),
    ("interleaved_1f1b", {"ranks": 2, "microbatches": 4}),
    ("zb_h1", {"ranks": 3, "microbatches": 4}),
    ("dualpipe", {"ranks": 4, "microbatches": 8}),
]
NORMS = (2.0, 1.0, 3.0, float("inf"))


def one_process(plan: Plan, x: Tensor, target: Tensor, make: Any = Layer) -> nn.Sequential:
    """The whole model, with the gradients of the step added in the order of micro-batches."""
    spec = spec_of(plan)
    many = sum(pipeline.microbatches for pipeline in spec.pipelines)
    whole = nn.Sequential(*(make(seed_of(spec, 0, s)) for s in range(stages(plan))))
    for part, wanted in zip(x.split(ROWS), target.split(ROWS), strict=True):
        (loss(whole(part), wanted) / many).backward()
    return whole


def stages(plan: Plan) -> int:
    return next(iter(stage_counts(plan).values()))


def parameters(executor: Executor, stage: int) -> list[list[nn.Parameter]]:
    """Those of every copy of the stage that the rank holds."""
    return [
        list(module.module.parameters()) for at, module in executor.stages.items() if at[1] == stage
    ]


@pytest.mark.parametrize(("name", "sizes"), SCHEDULES, ids=[name for name, _ in SCHEDULES])
def test_the_norm_and_two_clipped_steps_are_those_of_one_process(
    name: str, sizes: dict[str, int]
) -> None:
    """Bit for bit where the plan adds in the order of the micro-batches; copies are equal."""
    plan = compiled(name, **sizes)
    x, target = batch(spec_of(plan))

    def body(executor: Executor) -> Any:
        mine = [p for stage in executor.stages.values() for p in stage.module.parameters()]
        optimizer = torch.optim.AdamW(mine, lr=0.1)
        norms = []
        for norm_type in NORMS:
            executor.step(x, target=target)
            norms.append(clip_grad_norm_(executor, 0.2, norm_type))
            optimizer.step()
            optimizer.zero_grad()
        return norms, [parameters(executor, s) for s in range(stages(plan))]

    found = executors(plan, body)
    for norms, _ in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(norms, found[0][0], strict=True))
    spec = spec_of(plan)
    whole = nn.Sequential(*(Layer(seed_of(spec, 0, s)) for s in range(stages(plan))))
    optimizer = torch.optim.AdamW(whole.parameters(), lr=0.1)
    same = torch.equal if name != "dualpipe" else torch.allclose
    for norm, norm_type in zip(found[0][0], NORMS, strict=True):
        for part, wanted in zip(x.split(ROWS), target.split(ROWS), strict=True):
            (loss(whole(part), wanted) / len(x.split(ROWS))).backward()
        assert same(norm, nn.utils.clip_grad_norm_(whole.parameters(), 0.2, norm_type))
        assert norm > 0.2
        optimizer.step()
        optimizer.zero_grad()
    for s, expected in enumerate(whole):
        first, *others = [copy for _, held in found for copy in held[s]]
        for ours, theirs in zip(first, expected.parameters(), strict=True):
            if name == "dualpipe":
                assert torch.allclose(ours, theirs, atol=1e-4)
            else:
                assert torch.equal(ours, theirs)
        for other in others:
            assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert name != "dualpipe" or len(others) == 1  # pyright: ignore[reportPossiblyUnboundVariable]


class Odd(Layer):
    """Some gradients are absent, one is sparse, one is of another type."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.idle = nn.Parameter(torch.ones(2))
        self.rows = nn.Embedding(3, 6, sparse=True)
        nn.init.ones_(self.rows.weight)
        self.exact = nn.Parameter(torch.full((), 0.5, dtype=torch.float64))
        if seed == 0:
            self.requires_grad_(False)

    def forward(self, x: Tensor, /, *others: Tensor) -> Tensor:
        x = super().forward(x, *others)
        return (x + self.rows((x[:, 0] > 0).long())) * self.exact.float()


def test_gradients_that_are_absent_sparse_or_of_another_type() -> None:
    """And a first rank that has none at all."""
    plan = compiled("one_f_one_b", ranks=3, microbatches=4)
    x, target = batch(spec_of(plan))

    def body(executor: Executor) -> Any:
        executor.step(x, target=target)
        norm = clip_grad_norm_(executor, 0.2)
        return norm, parameters(executor, executor.rank)[0]

    found = executors(plan, body, Odd)
    whole = one_process(plan, x, target, Odd)
    everything = [p for p in whole.parameters() if p.grad is not None]
    flat = torch.cat([p.grad.to_dense().double().flatten() for p in everything])  # type: ignore[union-attr]
    for (norm, ours), layer in zip(found, whole, strict=True):
        assert torch.allclose(norm, flat.norm().to(norm.dtype), rtol=1e-5)
        for a, b in zip(ours, layer.parameters(), strict=True):
            assert (a.grad is None) == (b.grad is None)
            if b.grad is not None:
                expected = b.grad.to_dense() * (0.2 / flat.norm()).to(b.dtype)
                assert torch.allclose(there(a.grad).to_dense(), expected, rtol=1e-4)


def test_where_nothing_learns_the_norm_is_zero() -> None:
    plan = compiled("one_f_one_b", ranks=2, microbatches=2)
    x, target = batch(spec_of(plan))

    def body(executor: Executor) -> Tensor:
        executor.step(x, target=target)
        return clip_grad_norm_(executor, 1.0)

    assert executors(plan, body, lambda s: Layer(s).requires_grad_(False)) == [0.0, 0.0]


def test_what_is_not_finite_is_told_by_all_ranks_alike() -> None:
    plan = compiled("dualpipe", ranks=4, microbatches=8)
    x, target = batch(spec_of(plan))

    def body(executor: Executor) -> Any:
        executor.step(x, target=target)
        if executor.rank in (1, 2):
            for copy in parameters(executor, 1):
                there(copy[2].grad)[0] = float("nan")
        with pytest.raises(NonFiniteError) as stopped:
            clip_grad_norm_(executor, 1.0, error_if_nonfinite=True)
        norm = clip_grad_norm_(executor, 1.0)
        executor.step(x, target=target)  # it can go on
        return str(stopped.value), norm

    found = executors(plan, body)
    assert {words for words, _ in found} == {
        "the norm of all gradients is nan: the first gradient that is "
        "not finite is that of `up.weight` in `down[1]` on rank 1"
    }
    assert all(norm.isnan() for _, norm in found)


def test_ranks_that_call_something_else_are_told() -> None:
    plan = compiled("one_f_one_b", ranks=2, microbatches=2)

    def body(executor: Executor) -> None:
        if executor.rank:
            executor.exchange.tell("GradScaler", [0.0])
        else:
            clip_grad_norm_(executor, 1.0)

    with pytest.raises(PipelineError, match=r"is in GradScaler and rank|is in clip_grad_norm_ and"):
        executors(plan, body)


def clipped(rank: int, plan: Plan, late: int) -> Any:
    """As a process; rank `late` never clips."""
    spec = spec_of(plan)
    x, target = batch(spec)
    executor = Executor(plan, built(spec, rank), loss, timeout=1.0 if late >= 0 else 30.0)
    executor.step(x, target=target)
    if rank == late:
        return executor.close()
    return clip_grad_norm_(executor, 0.2)


@pytest.mark.xdist_group("ranks")
def test_processes_agree_and_a_rank_that_does_not_come_is_named() -> None:
    plan = compiled("one_f_one_b", ranks=2, microbatches=4)
    x, target = batch(spec_of(plan))
    norms = run(2, clipped, plan, -1).results
    expected = nn.utils.clip_grad_norm_(one_process(plan, x, target).parameters(), 0.2)
    assert all(torch.equal(norm, expected) for norm in norms)
    outcome = run(2, clipped, plan, 1, check=False)
    assert outcome.codes[0] == 1
    assert "rank 0 waits in clip_grad_norm_ for the numbers of rank 1" in outcome.output[0]


# Which stages a rank holds ----------------------------------------------------------------------


def test_the_stages_of_a_rank_are_known_from_a_plan_and_from_its_file(tmp_path: Any) -> None:
    plan = compiled("dualpipe", ranks=4, microbatches=8)
    write_plan(plan, tmp_path / "a.plan")
    for given in (plan, tmp_path / "a.plan"):
        assert stages_of(given, 1) == [("down", 1), ("up", 2)]
        assert stage_counts(given) == {"down": 4, "up": 4}
        with pytest.raises(PipelineError, match="the plan has ranks 0 to 3, not 4: start 4 "):
            stages_of(given, 4)
    interleaved = compiled("interleaved_1f1b", ranks=2, microbatches=4)
    assert [stage for _, stage in stages_of(interleaved, 1)] == [1, 3]


def test_what_it_says_is_what_an_executor_takes() -> None:
    plan = compiled("two_models", ranks=2, microbatches=4)
    held = [stages_of(plan, rank) for rank in range(2)]
    spec = spec_of(plan)
    assert held == [sorted(built(spec, rank), key=lambda at: at[1]) for rank in range(2)]
    assert sorted(at for stages in held for at in stages) == sorted(
        (name, s) for name, count in stage_counts(plan).items() for s in range(count)
    )
