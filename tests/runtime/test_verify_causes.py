"""`--verify` names the cause of a difference where it can see it, and what is equal to one process
and still not the gradient of the whole batch. Each is provoked here."""

from collections.abc import Callable
from random import random
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stretto.runtime import Executor, run_local
from stretto.runtime.train.verify import Verdict, verify
from stretto.runtime.transport.local import Local
from tests.support.ranks import run
from tests.support.training import (
    ROWS,
    WIDTH,
    Layer,
    batch,
    built,
    compiled,
    loss,
    seed_of,
    spec_of,
)


def verified(
    make: Callable[[int], nn.Module] = Layer,
    loss_fn: Any = loss,
    target: Any = None,
    plan: Any = None,
    before: Callable[[Executor], None] = lambda _: None,
    **options: Any,
) -> Verdict:
    plan = plan or compiled("one_f_one_b", ranks=2, microbatches=4)
    spec = spec_of(plan)
    x, y = batch(spec)
    wanted = y if target is None else target

    def rank(transport: Local) -> Verdict | None:
        executor = Executor(
            plan,
            built(spec, transport.rank, make),
            loss_fn,
            transport=transport,
            timeout=30,
            **options,
        )
        before(executor)
        found: dict[str, list[Tensor]] = {}
        stage = lambda at: make(seed_of(spec, *at))  # noqa: E731
        verdict = verify(executor, plan, stage, loss_fn, x, wanted, found)
        executor.close()
        return verdict

    verdict = run_local(plan, rank)[0]
    assert verdict is not None
    return verdict


def test_where_all_is_well_it_says_no_more() -> None:
    verdict = verified()
    assert verdict.equal and not verdict.causes and not verdict.notes
    assert verified(plan=compiled("dualpipe", ranks=2, microbatches=4)).notes == ()


class Dropping(Layer):
    def __init__(self, seed: int):
        super().__init__(seed)
        self.drop = nn.Dropout(0.3 if seed == 1 else 0.0)

    def forward(self, x: Tensor, /, *others: Tensor) -> Tensor:
        return super().forward(self.drop(x))


class Noisy(Layer):
    """Draws without a module for it, by torch or by Python."""

    kind = "torch"

    def __init__(self, seed: int):
        super().__init__(seed)
        self.noisy = seed == 0

    def forward(self, x: Tensor, /, *others: Tensor) -> Tensor:
        if self.noisy:
            x = x * (1 + (torch.rand(()).item() if self.kind == "torch" else random()))
        return super().forward(x)


def test_random_numbers_name_their_stage_and_module() -> None:
    verdict = verified(Dropping)
    assert not verdict.equal
    assert verdict.causes == (
        "`main[1]` draws random numbers: `drop` (Dropout, 0.3) in training mode. They are others "
        "in one process; verify without them, with probability 0 or in evaluation mode",
    )
    assert "  likely cause: `main[1]` draws" in str(verdict)
    for kind in ("torch", "python"):
        (cause,) = verified(type("Kind", (Noisy,), {"kind": kind})).causes
        assert cause.startswith("`main[0]` draws random numbers. They")
    noisy = verified(loss_fn=lambda y, t: loss(y, t) * (1 + torch.rand(())))
    assert noisy.causes[0].startswith("the loss function draws random numbers")


class Counting(Layer):
    """Depends on how often it ran, as one with a random generator of its own does."""

    calls = 0

    def forward(self, x: Tensor, /, *others: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x) * self.calls


def test_what_depends_on_how_often_it_ran_is_told() -> None:
    def ran_before(executor: Executor) -> None:
        for stage in executor.stages.values():
            assert isinstance(stage.module, Counting)
            stage.module.calls += 1

    causes = verified(Counting, before=ran_before).causes
    assert [cause[:39] for cause in causes] == [
        "`main[0]` gives another output when it ",
        "`main[1]` gives another output when it ",
    ]


class Normed(Layer):
    def __init__(self, seed: int):
        super().__init__(seed)
        self.rows = nn.BatchNorm1d(WIDTH) if seed == 1 else nn.Identity()

    def forward(self, x: Tensor, /, *others: Tensor) -> Tensor:
        found: Tensor = super().forward(self.rows(x))
        return found


def test_a_norm_over_micro_batches_is_noted() -> None:
    verdict = verified(Normed)
    assert verdict.equal and verdict.notes == (
        "`rows` of `main[1]` is a BatchNorm1d in training mode: it normalizes each micro-batch by "
        "itself, not the batch",
    )
    assert "\n  note: `rows` of" in str(verdict)
    assert not verified(lambda seed: Normed(seed).eval()).notes


def tokens(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output, target)


def test_a_mean_over_tokens_is_noted_unless_it_is_weighed() -> None:
    target = torch.arange(4 * ROWS) % WIDTH
    target[:3] = -100
    target[0] = 2
    verdict = verified(loss_fn=tokens, target=target)
    assert verdict.equal
    (note,) = verdict.notes
    assert "the loss is no mean over equal parts (their targets have 1, 1, 2, 2 entries" in note
    both = compiled("dualpipe", ranks=2, microbatches=4)
    assert len(verified(loss_fn=tokens, target=target, plan=both).notes) == 1
    weighed = {"scale_loss": lambda t: (t != -100).sum()}
    assert not verified(loss_fn=tokens, target=target, **weighed).notes
    assert not verified(loss_fn=tokens, target=target.clamp(min=0)).notes
    (note,) = verified(loss_fn=lambda y, t: loss(y, t) * len(y)).notes  # a sum, not a mean
    assert "entries that count" not in note


def test_a_parameter_in_several_places_is_named() -> None:
    shared = nn.Parameter(torch.ones(WIDTH))

    class Tied(Layer):
        def __init__(self, seed: int):
            super().__init__(seed)
            self.shared = shared

        def forward(self, x: Tensor, /, *others: Tensor) -> Tensor:
            return super().forward(x) * self.shared

    def spoil(executor: Executor) -> None:
        if executor.rank == 0:
            module = executor.stages[executor.plan.stages[0]].module
            module.get_parameter("shared").register_hook(lambda g: g * 2)

    plan = compiled("interleaved_1f1b", ranks=1, microbatches=2)
    (cause,) = verified(Tied, plan=plan, before=spoil).causes
    assert "`shared` of `main[0]`" in cause and "`shared` of `main[1]` are one parameter" in cause


def unlike_threads(rank: int) -> Any:
    torch.set_num_threads(1 + rank)
    plan = compiled("one_f_one_b", ranks=2, microbatches=2)
    spec = spec_of(plan)
    x, target = batch(spec)
    executor = Executor(plan, built(spec, rank), loss, timeout=30)
    if rank:  # what more threads do to long sums, here to short ones
        for parameter in executor.parameters():
            parameter.register_hook(lambda g: g * 1.0000001)
    made = verify(executor, plan, lambda at: Layer(seed_of(spec, *at)), loss, x, target, {})
    executor.close()
    return made and made.causes


@pytest.mark.xdist_group("ranks")
def test_unlike_numbers_of_threads_are_named() -> None:
    causes, _ = run(2, unlike_threads).results
    assert causes == (
        "rank 1 computes with 2 threads, and rank 0, which is the one process too, with 1: sums "
        "are cut by threads. Set OMP_NUM_THREADS alike",
    )
