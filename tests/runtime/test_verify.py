"""`verify` finds nothing where nothing is wrong, and whatever is."""

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stretto.compiler.plan.plan import Plan
from stretto.runtime import Executor, run_local
from stretto.runtime.train.verify import StageDifference, Verdict, verify
from stretto.runtime.transport.local import Local
from tests.support.specs import linear, one_f_one_b, ordered, random_model, random_order, zb_h1
from tests.support.training import (
    WIDTH,
    Layer,
    batch,
    built,
    compiled,
    loss,
    plan_of,
    seed_of,
    spec_of,
    there,
)


def verified(
    plan: Plan,
    doctor: Callable[[Executor], None] = lambda _: None,
    make: Callable[[int], nn.Module] = Layer,
    seed: int = 0,
) -> Verdict:
    spec = spec_of(plan)
    x, target = batch(spec, seed=seed)

    def rank(transport: Local) -> Verdict | None:
        modules = built(spec, transport.rank, make)
        executor = Executor(plan, modules, loss, transport=transport, timeout=20)
        doctor(executor)
        found: dict[str, list[Tensor]] = {}
        verdict = verify(
            executor, plan, lambda place: make(seed_of(spec, *place)), loss, x, target, found
        )
        executor.close()
        return verdict

    verdict = run_local(plan, rank)[0]
    assert verdict is not None
    return verdict


@pytest.mark.parametrize("seed", range(12))
def test_random_plans_are_equal_bit_for_bit(seed: int) -> None:
    """Where a stage's gradients come from at most two others: of more, autograd does not promise
    in which order it adds."""
    random = Random(seed)
    spec = random_model(random)
    while spec.slices or sum(len(p.feeds) for p in spec.pipelines) > 1:
        spec = random_model(random)
    verdict = verified(plan_of(random_order(spec, random, pairs=0.3)), seed=seed)
    assert verdict.equal, str(verdict)


def dualpipe() -> Plan:
    return compiled("dualpipe", ranks=4, microbatches=8)


def test_what_it_says_when_all_is_well() -> None:
    verdict = verified(dualpipe())
    lines = str(verdict).splitlines()
    assert lines[1].startswith("  down[0]: gradients equal; from plain micro-batch order ")
    assert lines[-1] == "  8 losses and all gradients are equal, bit for bit"
    # The copies are added after each other, not as one process goes by all micro-batches.
    assert 0 < max(stage.plain for stage in verdict.stages) < 1e-5
    assert max(s.plain for s in verified(compiled("gpipe", ranks=2, microbatches=4)).stages) == 0


def test_a_dropped_sum_is_found() -> None:
    def drop(executor: Executor) -> None:
        executor.replicas.sum = lambda *numbers: None  # type: ignore[method-assign]

    verdict = verified(dualpipe(), drop)
    assert not verdict.equal and not verdict.unequal_losses
    assert not any(stage.equal for stage in verdict.stages)
    assert "  down[2]: gradients differ by " in str(verdict)
    assert str(verdict).endswith("this is not what one process computes")


def test_a_rounding_names_what_may_cause_it() -> None:
    def difference(by: float) -> str:
        return str(Verdict((StageDifference("a[0]", False, by, "w of a[0]", 0.0),), 1, 0, ()))

    assert ".contiguous()" in difference(1e-7)
    assert ".contiguous()" not in difference(0.5)
    assert ".contiguous()" not in str(Verdict((), 1, 0, ("b[0] did not start as a[0]",)))


def test_zeros_instead_of_no_gradient_are_told_as_that() -> None:
    def zeros(executor: Executor) -> None:
        if executor.rank == 0:
            step = executor.step

            def changed(*args: Any, **kwargs: Any) -> Any:
                result = step(*args, **kwargs)
                module = next(iter(executor.stages.values())).module
                idle = module.get_parameter("idle")
                idle.grad = torch.zeros_like(idle)
                return result

            executor.step = changed  # type: ignore[method-assign]

    class Idle(Layer):
        def __init__(self, seed: int) -> None:
            super().__init__(seed)
            self.idle = nn.Parameter(torch.ones(2))

    verdict = verified(compiled("gpipe", ranks=2, microbatches=4), zeros, Idle)
    assert not verdict.equal
    assert "gradients differ (zeros here, none there) in idle of main[0]" in str(verdict)


def test_one_changed_bit_of_one_gradient_is_found() -> None:
    def doctor(executor: Executor) -> None:
        if executor.rank == 2:
            parameter = next(iter(executor.stages.values())).module.get_parameter("up.weight")
            step = executor.step

            def changed(*args: Any, **kwargs: Any) -> Any:
                result = step(*args, **kwargs)
                flat = there(parameter.grad).view(-1)
                flat[3] = torch.nextafter(flat[3], torch.tensor(9.0))
                return result

            executor.step = changed  # type: ignore[method-assign]

    verdict = verified(plan_of(ordered(linear(3, 3), one_f_one_b)), doctor)
    assert [stage.equal for stage in verdict.stages] == [True, True, False]
    assert verdict.stages[2].parameter == "up.weight of main[2]"
    assert 0 < verdict.stages[2].greatest < 1e-6


@pytest.mark.parametrize("times", [0, 2])
def test_a_weight_gradient_that_is_left_out_or_doubled_is_found(times: int) -> None:
    def doctor(executor: Executor) -> None:
        if executor.rank == 1:
            for stage in executor.stages.values():
                stage.module.get_parameter("up.weight").register_hook(
                    lambda gradient: times * gradient
                )

    verdict = verified(plan_of(ordered(linear(3, 3), zb_h1)), doctor)
    assert [stage.equal for stage in verdict.stages] == [True, False, True]


def test_losses_of_other_microbatches_are_found() -> None:
    def doctor(executor: Executor) -> None:
        step = executor.step

        def changed(x: Any = None, **kwargs: Any) -> Any:
            return step(x + 1e-3, **kwargs)

        executor.step = changed  # type: ignore[method-assign, assignment]

    verdict = verified(plan_of(ordered(linear(2, 3), one_f_one_b)), doctor)
    assert verdict.unequal_losses == verdict.losses == 3


def test_copies_that_did_not_start_equal_are_found() -> None:
    def doctor(executor: Executor) -> None:
        if executor.rank == 3:
            with torch.no_grad():
                for stage in executor.stages.values():
                    stage.module.get_parameter("up.weight")[0, 0] += 1e-3

    verdict = verified(dualpipe(), doctor)
    assert not verdict.equal
    assert "up[0] did not start with the weights of down[0]" in str(verdict)


def test_a_module_that_depends_on_chance_is_found() -> None:
    def noisy(seed: int) -> nn.Module:
        return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Dropout(0.5))

    assert not verified(plan_of(ordered(linear(2, 3), one_f_one_b)), make=noisy).equal


def test_numbers_that_are_none_are_equal() -> None:
    """Training that has come apart has done so in one process too."""

    class Apart(Layer):
        def forward(self, x: Tensor, *others: Tensor) -> Tensor:
            return super().forward(x) * float("nan")

    plan = plan_of(ordered(linear(2, 3), one_f_one_b))
    verdict = verified(plan, make=Apart)
    assert verdict.equal and verdict.losses == 3, str(verdict)


def test_where_nothing_is_trained_losses_are_compared() -> None:
    def frozen(seed: int) -> nn.Module:
        return Layer(seed).requires_grad_(False)

    verdict = verified(plan_of(ordered(linear(2, 3), one_f_one_b)), make=frozen)
    assert verdict.equal and verdict.losses == 3, str(verdict)


def test_gradients_of_a_sparse_embedding_are_compared() -> None:
    class Sparse(nn.Module):
        def __init__(self, seed: int):
            super().__init__()
            self.rows, self.layer = nn.Embedding(3, WIDTH, sparse=True), Layer(seed)
            nn.init.ones_(self.rows.weight)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x + self.rows((x[:, 0] > 0).long()))

    def changed(executor: Executor) -> None:
        weight = executor.stages[executor.plan.stages[0]].module.get_parameter("rows.weight")
        weight.register_hook(lambda gradient: gradient * 2)

    plan = plan_of(ordered(linear(2, 3), one_f_one_b))
    assert verified(plan, make=Sparse).equal
    assert not verified(plan, changed, make=Sparse).equal
    copied = verified(dualpipe(), make=Sparse)  # the same row twice may be added in another order
    assert not copied.unequal_losses and max(stage.greatest for stage in copied.stages) < 1e-5
