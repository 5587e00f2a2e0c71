"""The executor, all ranks in one process, against one that knows no plan."""

import gc
import weakref
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stretto.compiler.driver import compile_text
from stretto.compiler.problem.spec import Feed
from stretto.runtime import Executor, run_local
from stretto.runtime.errors import PipelineError
from stretto.runtime.transport.local import Local
from tests.support.specs import (
    both_ways,
    gpipe,
    linear,
    model,
    one_f_one_b,
    ordered,
    pipeline,
    random_model,
    random_order,
    zb_h1,
)
from tests.support.steps import check, double, executors
from tests.support.training import (
    ROWS,
    Layer,
    batch,
    compiled,
    loss,
    one_process,
    plan_of,
    spec_of,
    there,
    trained,
)
from tests.support.verified import verified


@pytest.mark.parametrize("seed", range(24))
def test_random_plans_compute_what_one_process_computes(seed: int) -> None:
    random = Random(seed)
    spec = random_model(random)
    while spec.slices:
        spec = random_model(random)
    spec = random_order(spec, random, pairs=0.3)
    x, target = batch(spec, torch.float64, seed)
    check(spec, trained(plan_of(spec), x, target, double), x, target)


SCHEDULES: list[Any] = [
    ("gpipe", {"ranks": 3, "microbatches": 4}),
    ("one_f_one_b", {"ranks": 3, "microbatches": 4}),
    ("interleaved_1f1b", {"ranks": 2, "microbatches": 4}),
    ("zb_h1", {"ranks": 3, "microbatches": 4}),
    ("dualpipe_v", {"ranks": 2, "microbatches": 4}),
    ("dualpipe", {"ranks": 4, "microbatches": 8}),
    ("chimera", {"ranks": 4, "microbatches": 4}),
    ("two_models", {"ranks": 2, "microbatches": 4}),
]


@pytest.mark.parametrize(("name", "sizes"), SCHEDULES, ids=[name for name, _ in SCHEDULES])
def test_the_library_and_gradients_that_accumulate(name: str, sizes: dict[str, int]) -> None:
    plan = compiled(name, **sizes)
    x, target = batch(spec_of(plan), torch.float64)
    check(spec_of(plan), trained(plan, x, target, double, steps=3), x, target, steps=3)


def test_outputs_and_losses_come_in_the_order_of_the_microbatches() -> None:
    """Though the last stage runs its forwards in another: torch mixes them up there."""
    spec = linear(2, 4)
    words = {0: ["F0.0", "F0.1", "F0.2", "F0.3", "B0.3", "B0.1", "B0.0", "B0.2"]}
    words[1] = ["F1.3", "B1.3", "F1.1", "B1.1", "F1.0", "F1.2", "B1.0", "B1.2"]
    spec = ordered(spec, lambda _, rank: words[rank])
    x, target = batch(spec)
    losses: list[Tensor] = ["stale"]  # type: ignore[list-item]

    def body(executor: Executor) -> Any:
        end = executor.rank == 1
        return executor.step(x if not end else None, target=target, losses=losses if end else None)

    first, second = executors(plan_of(spec), body)
    expected = one_process(spec, x, target)
    assert first is None
    assert torch.equal(second, torch.cat([expected.outputs[0, m] for m in range(4)]))
    assert losses == [expected.losses[0, m] for m in range(4)]


def test_eval_leaves_gradients_alone_and_keeps_no_graph() -> None:
    plan = compiled("dualpipe", ranks=4, microbatches=8)
    x, target = batch(spec_of(plan))

    def body(executor: Executor) -> Any:
        executor.step(x, target=target)
        parameters = [p for s in executor.stages.values() for p in s.module.parameters()]
        before = [there(p.grad).clone() for p in parameters]
        losses: dict[str, list[Tensor]] = {}
        without = executor.eval(x)
        output = executor.eval(x, target=target, losses=losses)
        assert all(torch.equal(a, there(p.grad)) for a, p in zip(before, parameters, strict=True))
        assert not any(stage.saved or stage.deferred for stage in executor.stages.values())
        assert (without is None) == (output is None)
        return output, losses

    found = executors(plan, body)
    expected = one_process(spec_of(plan), x, target)
    for rank, p, name in ((3, 0, "down"), (0, 1, "up")):
        output, losses = found[rank]
        assert torch.allclose(output, torch.cat([expected.outputs[p, m] for m in range(4)]))
        assert torch.allclose(
            torch.stack(losses[name]), torch.stack([expected.losses[p, m] for m in range(4)])
        )


def test_a_step_whose_forwards_alone_break_a_rule_trains_and_does_not_evaluate() -> None:
    plan = compile_text(
        """schedule ruled ranks 2 microbatches 4
        pipeline main { }
        rule F[0, m] after F[1, m - 1] for m in 1 .. microbatches
        order rank r { repeat microbatches { F; B } }""",
        "ruled.pipe",
    )
    x, _ = batch(spec_of(plan))

    def body(executor: Executor) -> Any:
        with pytest.raises(
            PipelineError, match=r"no evaluation: .* `F main\[0, 1\]` on rank 0 wait"
        ):
            executor.eval(x)

    executors(plan, body)
    assert verified(plan).equal


def test_without_scaling_gradients_are_those_of_the_sum() -> None:
    spec = ordered(linear(2, 4), one_f_one_b)
    x, target = batch(spec, torch.float64)
    check(spec, trained(plan_of(spec), x, target, double), x, target)
    whole = trained(plan_of(spec), x, target, double, scale_loss=False)
    check(spec, whole, x, target, steps=4)


def test_copies_start_equal_and_stay_so() -> None:
    """Built with different weights, trained for some steps by an optimizer on every rank."""
    plan = compiled("dualpipe", ranks=4, microbatches=8)
    x, target = batch(spec_of(plan))
    made = iter(range(100))

    def body(executor: Executor) -> dict[str, list[Tensor]]:
        modules = {s.name: s.module for s in executor.stages.values()}
        parameters = [p for m in modules.values() for p in m.parameters()]
        optimizer = torch.optim.AdamW(parameters, lr=0.1)
        for _ in range(3):
            executor.step(x, target=target)
            optimizer.step()
            optimizer.zero_grad()
        return {name: [p.detach() for p in m.parameters()] for name, m in modules.items()}

    found: dict[str, list[Tensor]] = {}
    for part in executors(plan, body, make=lambda seed: Layer(next(made))):
        found |= part
    for s in range(4):
        pairs = zip(found[f"down[{s}]"], found[f"up[{s}]"], strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


def test_a_stage_without_trained_weights_before_and_after_others() -> None:
    def make(seed: int) -> nn.Module:
        return double(seed).requires_grad_(seed == 1)

    for words in (one_f_one_b, zb_h1):
        spec = ordered(linear(3, 3), words)
        x, target = batch(spec, torch.float64)
        found = trained(plan_of(spec), x, target, make)
        expected = one_process(spec, x, target, make)
        for s in range(3):
            for ours, theirs in zip(
                found.gradients("main", s), expected.gradients[0, s], strict=True
            ):
                assert ours is theirs is None or torch.allclose(there(ours), there(theirs))


def test_a_pipeline_that_is_fed_may_have_no_batch_of_its_own() -> None:
    class Sum(Layer):
        def forward(self, *given: Tensor) -> Tensor:
            return super().forward(given[0], *given[1:])

    side = pipeline("side", [0], 2, feeds=(Feed(1, 0),))
    spec = random_order(model(2, side, pipeline("main", [1, 0], 2)), Random(1))
    x, target = batch(spec)
    found = trained(plan_of(spec), {"side": x["side"]}, {"main": target["main"]}, Sum)
    aside, first, last = Sum(0), Sum(100), Sum(101)
    output = last(first(aside(x["side"])))
    assert torch.allclose(found.outputs[0], output, atol=1e-6)
    loss(output, target["main"]).backward()
    for ours, theirs in zip(found.gradients("side", 0), aside.parameters(), strict=True):
        assert torch.allclose(there(ours), there(theirs.grad), atol=1e-6)


def test_both_ways_by_hand() -> None:
    """Rank 0's outputs are those that entered at the other end."""
    spec = random_order(both_ways(2, 4), Random(3))
    x, target = batch(spec)
    found = trained(plan_of(spec), x, target)
    expected = nn.Sequential(Layer(0), Layer(1))(x)
    assert torch.allclose(found.outputs[1], expected[: 2 * ROWS], atol=1e-6)
    assert torch.allclose(found.outputs[0], expected[2 * ROWS :], atol=1e-6)


def test_nothing_keeps_an_executor_alive() -> None:
    """Neither the thread that watches nor the store; and it keeps no outputs nobody wants."""
    plan = plan_of(ordered(linear(1, 2), gpipe))
    x, target = batch(spec_of(plan))

    def rank(transport: Local) -> tuple[weakref.ref[Executor], Any, Any]:
        executor = Executor(plan, [Layer(0)], loss, transport=transport, timeout=20)
        outputs = executor.step(x, target=target, return_outputs=False)
        return weakref.ref(executor), outputs, executor.watchdog.thread

    ((executor, outputs, thread),) = run_local(plan, rank)
    gc.collect()
    assert executor() is None and outputs is None
    thread.join(timeout=5)
    assert not thread.is_alive()
