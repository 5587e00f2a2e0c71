"""The executor, all ranks in one process, against one that knows no plan."""

import gc
import weakref
from collections.abc import Iterator
from random import Random
from typing import Any, ClassVar

import pytest
import torch
from msgspec.structs import replace
from torch import Tensor, nn

from stretto.compiler.problem.spec import Feed, Spec
from stretto.compiler.program.program import Compute
from stretto.runtime import Executor, Stopped, run_local
from stretto.runtime.transport.local import Local
from tests.support.specs import (
    both_ways,
    gpipe,
    interleaved,
    interleaved_1f1b,
    linear,
    model,
    one_f_one_b,
    ordered,
    pipeline,
    random_model,
    random_order,
    vee,
    zb_h1,
)
from tests.support.training import (
    ROWS,
    WIDTH,
    Layer,
    Trained,
    alone,
    batch,
    built,
    compiled,
    loss,
    plan_of,
    spec_of,
    trained,
)


def double(seed: int) -> nn.Module:
    return Layer(seed, torch.float64)


def check(spec: Spec, found: Trained, x: Any, target: Any, steps: int = 1) -> None:
    """Gradients, losses and outputs are those of one process, up to rounding in float64."""
    expected = alone(spec, x, target, double)
    for p, line in enumerate(spec.pipelines):
        for s in range(len(line.stages)):
            for ours, theirs in zip(
                found.gradients(line.name, s), expected.gradients[p, s], strict=True
            ):
                assert (ours is None) == (theirs is None), (line.name, s)
                assert ours is None or torch.allclose(ours, steps * theirs, rtol=1e-11, atol=1e-13)
        last = line.stages[-1].rank
        many = range(line.microbatches)
        if (p, 0) in expected.losses:
            losses = torch.stack(found.losses[last][line.name])
            assert torch.allclose(losses, torch.stack([expected.losses[p, m] for m in many]))
        if not line.feeds:
            output = found.outputs[last]
            output = output[line.name] if isinstance(output, dict) else output
            assert torch.allclose(output, torch.cat([expected.outputs[p, m] for m in many]))


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


# What a step takes and gives --------------------------------------------------------------------


def executors(
    plan: Any, body: Any, make: Any = Layer, loss_fn: Any = loss, **options: Any
) -> list[Any]:
    """`body(executor)` on every rank."""

    def rank(transport: Local) -> Any:
        executor = Executor(
            plan,
            built(spec_of(plan), transport.rank, make),
            loss_fn,
            transport=transport,
            timeout=options.pop("timeout", 20.0),
            **options,
        )
        try:
            return body(executor)
        finally:
            executor.close()

    return run_local(plan, rank)


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
    expected = alone(spec, x, target)
    assert first is None
    assert torch.equal(second, torch.cat([expected.outputs[0, m] for m in range(4)]))
    assert losses == [expected.losses[0, m] for m in range(4)]


def test_eval_leaves_gradients_alone_and_keeps_no_graph() -> None:
    plan = compiled("dualpipe", ranks=4, microbatches=8)
    x, target = batch(spec_of(plan))

    def body(executor: Executor) -> Any:
        executor.step(x, target=target)
        parameters = [p for s in executor.stages.values() for p in s.module.parameters()]
        before = [p.grad.clone() for p in parameters]
        losses: dict[str, list[Tensor]] = {}
        without = executor.eval(x)
        output = executor.eval(x, target=target, losses=losses)
        assert all(torch.equal(a, p.grad) for a, p in zip(before, parameters, strict=True))
        assert not any(stage.tapes or stage.rests for stage in executor.stages.values())
        assert (without is None) == (output is None)
        return output, losses

    found = executors(plan, body)
    expected = alone(spec_of(plan), x, target)
    for rank, p, name in ((3, 0, "down"), (0, 1, "up")):
        output, losses = found[rank]
        assert torch.allclose(output, torch.cat([expected.outputs[p, m] for m in range(4)]))
        assert torch.allclose(
            torch.stack(losses[name]), torch.stack([expected.losses[p, m] for m in range(4)])
        )


def test_without_scaling_gradients_are_those_of_the_sum() -> None:
    spec = ordered(linear(2, 4), one_f_one_b)
    x, target = batch(spec, torch.float64)
    check(spec, trained(plan_of(spec), x, target, double), x, target)
    whole = trained(plan_of(spec), x, target, double, scale_loss=False)
    check(spec, whole, x, target, steps=4)


def test_batches_may_be_tuples_and_dicts() -> None:
    class First(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(WIDTH, WIDTH)

        def forward(self, a: Tensor, b: Tensor, *, c: Tensor | None = None) -> Tensor:
            return self.layer(a + 2 * b + (0 if c is None else c))

    def make(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return First() if seed == 0 else nn.Linear(WIDTH, WIDTH)

    def judge(output: Tensor, target: Any) -> Tensor:
        return (output * target["weight"] - target["pair"][0]).square().sum()

    spec = ordered(linear(2, 2), gpipe)
    draw = torch.Generator().manual_seed(0)
    a, b, c, w, y = (torch.randn(4, WIDTH, generator=draw) for _ in range(5))
    target = {"weight": w, "pair": (y, y)}
    for x in ((a, b), {"a": a, "b": b, "c": c}):
        found = trained(plan_of(spec), x, target, make, loss_fn=judge)
        first, last = make(0), make(1)
        output = last(first(*x)) if isinstance(x, tuple) else last(first(**x))
        assert torch.allclose(found.outputs[1], output)
        (judge(output, target) / 2).backward()
        for ours, theirs in zip(found.gradients("main", 0), first.parameters(), strict=True):
            assert torch.allclose(ours, theirs.grad, atol=1e-5)


def test_an_edge_may_have_several_tensors_some_without_gradient() -> None:
    class Wide(nn.Module):
        """Hands on a state, a mask of whole numbers, an unused copy and a number."""

        def __init__(self, seed: int):
            super().__init__()
            self.layer = Layer(seed)

        def forward(self, x: Tensor, mask: Tensor | None = None, *rest: Tensor) -> Any:
            if mask is None:
                mask = (torch.arange(x.shape[0]) % 2)[:, None]
            y = self.layer(x) * mask
            return y, mask, y.detach() + 1, y.mean(), x.view(-1)

    def judge(output: Any, target: Tensor) -> Tensor:
        return loss(output[0], target) + output[3]

    spec = ordered(linear(3, 3), zb_h1)
    x, target = batch(spec)
    found = trained(plan_of(spec), x, target, Wide, loss_fn=judge)
    modules = [Wide(s) for s in range(3)]
    for part, wanted in zip(x.chunk(3), target.chunk(3), strict=True):
        output: Any = (part,)
        for module in modules:
            output = module(*output)
        (judge(output, wanted) / 3).backward()
    for s, module in enumerate(modules):
        for ours, theirs in zip(found.gradients("main", s), module.parameters(), strict=True):
            assert torch.equal(ours, theirs.grad)
    assert found.outputs[2][1].dtype == torch.int64


def test_agreeing_on_shapes_leaves_modules_as_they_were() -> None:
    class Counting(nn.Module):
        def __init__(self, seed: int):
            super().__init__()
            self.layer, self.norm = Layer(seed), nn.BatchNorm1d(WIDTH)
            self.cache: Tensor | None = None
            self.calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            if self.cache is None:
                self.cache = torch.ones(WIDTH)
            return self.norm(self.layer(x)) * self.cache

    class Stubborn(Counting):
        """Cannot be walked without contents."""

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x * (2 if x.sum().item() > 0 else 1) + torch.rand(1) * 0)

    spec = ordered(linear(2, 3), one_f_one_b)
    x, target = batch(spec)
    for kind in (Counting, Stubborn):
        torch.manual_seed(0)
        modules = trained(plan_of(spec), x, target, kind).modules
        for module in (modules[0]["main", 0], modules[1]["main", 1]):
            assert module.norm.num_batches_tracked == 3 and module.calls == 3
            assert type(module.cache) is Tensor


def test_a_layer_with_two_names_keeps_its_parameters() -> None:
    class Twice(nn.Module):
        def __init__(self, seed: int):
            super().__init__()
            self.layer = self.same = Layer(seed)

        def forward(self, x: Tensor) -> Tensor:
            return self.same(x)

    plan = plan_of(ordered(linear(2, 3), one_f_one_b))
    x, target = batch(spec_of(plan))
    twice, once = trained(plan, x, target, Twice), trained(plan, x, target)
    for (_, stage), module in twice.modules[1].items():
        assert all(type(p) is nn.Parameter for p in module.same.parameters())
        pairs = zip(twice.gradients("main", stage), once.gradients("main", stage), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


def test_new_shapes_are_agreed_on_anew() -> None:
    spec = ordered(linear(3, 2), one_f_one_b)
    x, target = batch(spec)

    def body(executor: Executor) -> list[Any]:
        """Only the ends are given the batch."""
        found = []
        for rows in (4, 8, 4, 2, 8):
            many = x.repeat(2, 1)[:rows] if executor.rank == 0 else None
            wanted = target.repeat(2, 1)[:rows] if executor.rank == 2 else None
            found.append(executor.step(many, target=wanted))
        assert len(executor.agreement.agreed) == 3
        return found

    outputs = executors(plan_of(spec), body)[2]
    expected = nn.Sequential(*(Layer(s) for s in range(3)))(x.repeat(2, 1))
    for rows, output in zip((4, 8, 4, 2, 8), outputs, strict=True):
        assert torch.allclose(output, expected[:rows], atol=1e-6)


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
        expected = alone(spec, x, target, make)
        for s in range(3):
            for ours, theirs in zip(
                found.gradients("main", s), expected.gradients[0, s], strict=True
            ):
                assert ours is theirs is None or torch.allclose(ours, theirs)


class Overlapping(Layer):
    """Runs units as DualPipe's users write them."""

    calls: ClassVar[
        list[tuple[bool, bool]]
    ] = []  # whether the forward, the backward, are of a last stage

    @classmethod
    def overlapped_forward_backward(
        cls,
        module0: nn.Module,
        inputs0: list[Tensor],
        criterion0: Any,
        labels0: list[Tensor] | None,
        module1: nn.Module,
        loss1: Tensor | None,
        outputs1: list[Tensor],
        output_grads1: list[Tensor],
    ) -> tuple[list[Tensor], Tensor | None]:
        cls.calls.append((criterion0 is not None, loss1 is not None))
        outputs0 = [module0(*inputs0)]
        loss0 = criterion0(*outputs0, *labels0) if criterion0 is not None else None
        if loss1 is not None:
            loss1.backward()
            loss1.detach_()
        else:
            torch.autograd.backward(outputs1, output_grads1)
        return outputs0, loss0


def test_an_overlapped_unit_is_one_call_where_the_class_offers_it() -> None:
    plan = compiled("dualpipe", ranks=4, microbatches=10)
    pairs = sum(
        getattr(i, "unit", -1) >= 0 and i.operation.kind == "F"
        for rank in plan.programs["train"].ranks
        for i in rank
    )
    x, target = batch(spec_of(plan))
    Overlapping.calls.clear()
    one, two = trained(plan, x, target, Overlapping), trained(plan, x, target)
    assert len(Overlapping.calls) == pairs > 0
    assert {(True, False), (False, True)} <= set(Overlapping.calls)
    for name in ("down", "up"):
        for s in range(4):
            for a, b in zip(one.gradients(name, s), two.gradients(name, s), strict=True):
                assert torch.equal(a, b)
    assert one.losses == two.losses


def test_the_first_half_of_a_unit_is_sent_before_the_second_runs() -> None:
    plan = compiled("dualpipe", ranks=4, microbatches=8)
    x, target = batch(spec_of(plan))
    events: dict[int, list[str]] = {}

    class Watched(Local):
        def send(self, lane: int, tensors: Any) -> Any:
            events[self.rank].append("send")
            return super().send(lane, tensors)

    def rank(transport: Local) -> None:
        told = events[transport.rank] = []
        modules = built(spec_of(plan), transport.rank)
        for module in modules.values():
            module.register_forward_hook(lambda *_: told.append("F"))
            module.norm.weight.register_hook(lambda _: told.append("B"))
        watched = Watched(transport.hub, transport.rank)
        executor = Executor(plan, modules, loss, transport=watched, timeout=20)
        told.clear()
        executor.step(x, target=target)
        executor.close()

    run_local(plan, rank)
    for number, told in events.items():
        units = sum(
            type(i) is Compute and i.unit >= 0 and i.operation.kind == "F" and i.operation.stage < 3
            for i in plan.programs["train"].ranks[number]
        )
        assert " ".join(told).count("F send B") >= units > 0


# How stages may be given ------------------------------------------------------------------------


def test_stages_as_a_list_by_number_or_as_torch_makes_them() -> None:
    class PipelineStage:
        """What is used of torch's."""

        def __init__(self, submod: nn.Module, stage_index: int):
            self.submod, self.stage_index = submod, stage_index

    plan = plan_of(ordered(interleaved(2, 2, 2), interleaved_1f1b))
    spec = spec_of(plan)
    x, target = batch(spec)

    def as_list(own: dict[Any, nn.Module]) -> Any:
        return [own[key] for key in sorted(own)]

    def by_number(own: dict[Any, nn.Module]) -> Any:
        return {s: module for (_, s), module in own.items()}

    def as_torch(own: dict[Any, nn.Module]) -> Any:
        return [PipelineStage(module, s) for (_, s), module in reversed(own.items())]

    outputs = []
    for change in (dict, as_list, by_number, as_torch):

        def rank(transport: Local, change: Any = change) -> Any:
            own = change(built(spec, transport.rank))
            executor = Executor(plan, own, loss, transport=transport, timeout=20)
            executor.close()
            return executor.step(x, target=target)

        outputs.append(run_local(plan, rank)[1])
    assert all(torch.equal(output, outputs[0]) for output in outputs)


def wrong() -> Iterator[Any]:
    """What is given to rank 0 of a V (stages 0 and 3), and what it is told."""
    a, b = Layer(0), Layer(1)
    yield [a], "rank 0 has 2 stages, `main[0]` and `main[3]`, and was given 1 modules"
    yield {0: a}, "rank 0 was given no module for `main[3]`"
    yield {0: a, 2: b}, "rank 0 was given a module for stage 2, but has `main[0]` and `main[3]`"
    yield {0: a, 3: None}, "`main[3]` is a NoneType, not an nn.Module"
    yield [a, a], "one module for two stages"


@pytest.mark.parametrize(("given", "words"), list(wrong()), ids=range(5))
def test_stages_that_do_not_fit_are_refused(given: Any, words: str) -> None:
    plan = plan_of(random_order(vee(2, 2), Random(0)))

    def rank(transport: Local) -> None:
        own: Any = given if transport.rank == 0 else built(spec_of(plan), 1)
        Executor(plan, own, loss, transport=transport, timeout=10)

    with pytest.raises(Stopped) as stopped:
        run_local(plan, rank)
    assert words in str(stopped.value)


def refused() -> Iterator[Any]:
    """x, target, and what is said, for 2 ranks and 4 micro-batches."""
    x = torch.zeros(8, WIDTH)
    yield x[:7], x, "x has 7 rows, which do not divide into 4 micro-batches: give it 4 or 8"
    yield x, x[:3], "target has 3 rows, which do not divide into 4 micro-batches: give it 4"
    yield (x, x[:4]), x, "x has tensors with 4 and 8 rows"
    yield None, x, "rank 0 has the first stage of `main`: give it x"
    yield x, None, "rank 1 ends `main` with the loss: give it target"
    yield torch.zeros(8, WIDTH + 1), x, "`main[0]` on rank 0 fails on an input of (2, 7) float32"


@pytest.mark.parametrize(("x", "target", "words"), list(refused()), ids=range(6))
def test_batches_that_do_not_fit_are_refused_on_every_rank(x: Any, target: Any, words: str) -> None:
    plan = plan_of(ordered(linear(2, 4), one_f_one_b))
    told: list[str] = []

    def body(executor: Executor) -> None:
        try:
            executor.step(x, target=target)
        except Stopped as stopped:
            told.append(str(stopped))

    try:
        executors(plan, body)
    except Stopped as stopped:  # a rank may hear of it before it has begun its own step
        told.append(str(stopped))
    assert len(told) == 2 and all(words in message for message in told), told


def test_a_module_that_fails_is_named_on_every_rank() -> None:
    class Bomb(Layer):
        def forward(self, x: Tensor, *others: Tensor) -> Tensor:
            if not isinstance(x, torch._subclasses.FakeTensor) and x.abs().sum() > 1000:
                raise ValueError("too large")
            return super().forward(x)

    plan = plan_of(ordered(linear(3, 4), one_f_one_b))
    x, target = batch(spec_of(plan))
    x[5] *= 1e6  # in micro-batch 2
    told: dict[int, str] = {}

    def body(executor: Executor) -> None:
        with pytest.raises(Stopped) as stopped:
            executor.step(x, target=target)
        told[executor.rank] = str(stopped.value)
        with pytest.raises(Stopped, match="has stopped before"):
            executor.step(x, target=target)

    executors(plan, body, make=lambda seed: Bomb(seed) if seed == 0 else Layer(seed))
    reason = "rank 0 computes `F main[0, 2]` (made.pipe:1) and fails: ValueError: too large"
    assert told[0] == reason
    assert told[1].endswith(reason) and told[2].endswith(reason)


def test_other_shapes_in_a_later_microbatch_are_refused() -> None:
    class Growing(Layer):
        def forward(self, x: Tensor, *others: Tensor) -> Tensor:
            real = not isinstance(x, torch._subclasses.FakeTensor)
            return super().forward(x)[: 1 if real and x[0, 0] == 0 else None]

    plan = plan_of(ordered(linear(2, 2), one_f_one_b))
    x, target = batch(spec_of(plan))
    x[ROWS] = 0
    with pytest.raises(Stopped) as stopped:
        trained(plan, x, target, Growing)
    assert "gives (1, 6) float32 where (2, 6) float32 was agreed" in str(stopped.value)


@pytest.mark.parametrize(
    ("judge", "words"),
    [
        (lambda output, target: (output - target).detach().square().mean(), "has no gradient"),
        (lambda output, target: (output - target).square(), "a tensor with one number"),
        (lambda output, target: None, "a tensor with one number"),
    ],
)
def test_losses_that_teach_nothing_are_refused(judge: Any, words: str) -> None:
    plan = plan_of(ordered(linear(2, 2), one_f_one_b))
    x, target = batch(spec_of(plan))

    def rank(transport: Local) -> None:
        modules = built(spec_of(plan), transport.rank)
        executor = Executor(plan, modules, judge, transport=transport, timeout=20)
        executor.step(x, target=target)

    with pytest.raises(Stopped, match=words):
        run_local(plan, rank)


def test_what_the_runtime_cannot_run_is_refused() -> None:
    spec = random_order(linear(2, 2, slices=2), Random(0))
    with pytest.raises(Stopped, match="slices"):
        trained(plan_of(spec), *batch(spec))
    plan = compiled("gpipe", ranks=2, microbatches=2)
    forwards = replace(plan, programs={"eval": plan.programs["eval"]})
    with pytest.raises(Stopped, match="only its forwards: call `eval`"):
        trained(forwards, *batch(spec_of(plan)))


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
        assert torch.allclose(ours, theirs.grad, atol=1e-6)


def test_both_ways_by_hand() -> None:
    """Rank 0's outputs are those that entered at the other end."""
    spec = random_order(both_ways(2, 4), Random(3))
    x, target = batch(spec)
    found = trained(plan_of(spec), x, target)
    expected = nn.Sequential(Layer(0), Layer(1))(x)
    assert torch.allclose(found.outputs[1], expected[: 2 * ROWS], atol=1e-6)
    assert torch.allclose(found.outputs[0], expected[2 * ROWS :], atol=1e-6)


def test_nothing_keeps_an_executor_alive() -> None:
    """Neither the thread that watches nor the board; and it keeps no outputs nobody wants."""
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
