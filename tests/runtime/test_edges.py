"""What travels between stages, all ranks as threads of this process: nothing runs but the step's
own forwards, shapes are known before data come, and what is wrong is told before it is read."""

import time
from functools import lru_cache
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stretto.compiler.driver import compile_text
from stretto.runtime import Executor, MicrobatchList, PipelineError, run_local
from stretto.runtime.tensor_spec import TensorSpec
from stretto.runtime.transport.local import Local
from tests.support.one_by_one import Gradients, alone, same
from tests.support.specs import (
    both_ways,
    gpipe,
    linear,
    one_f_one_b,
    ordered,
    random_model,
    random_order,
    zb_h1,
)
from tests.support.steps import check, double, executors
from tests.support.training import (
    WIDTH,
    Layer,
    Trained,
    batch,
    built,
    loss,
    one_process,
    plan_of,
    spec_of,
    there,
    trained,
)

# Nothing but the step's own forwards --------------------------------------------------------------

SEEN: list[Tensor] = []


@lru_cache(maxsize=64)
def scale_of(rows: int, kind: type) -> Tensor:
    """A cache that outlives the module."""
    return torch.ones(rows, 1)


class Remembering(nn.Module):
    """Keeps tensors wherever modules do."""

    def __init__(self, seed: int):
        super().__init__()
        self.layer = Layer(seed)
        self.by_rows: dict[int, Tensor] = {}
        self.inputs: list[Tensor] = []
        self.last: Tensor | None = None
        self.total: Tensor
        self.register_buffer("total", torch.zeros(WIDTH))
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        SEEN.append(x)
        self.inputs.append(x)
        self.last = self.by_rows.setdefault(x.shape[0], torch.ones(x.shape[0], 1))
        self.total = self.total + x.detach().sum(0)
        return self.layer(x) * self.last * scale_of(x.shape[0], type(x))


@pytest.mark.parametrize("words", [one_f_one_b, zb_h1])
def test_a_module_runs_for_its_microbatches_and_not_once_more(words: Any) -> None:
    scale_of.cache_clear()
    SEEN.clear()
    plan = plan_of(ordered(linear(2, 3), words))
    x, target = batch(spec_of(plan))

    def body(executor: Executor) -> list[Any]:
        executor.step(x, target=target)
        executor.step(torch.cat([x, x]), target=torch.cat([target, target]))
        executor.eval(x)
        return [stage.module for stage in executor.stages.values()]

    for (module,) in executors(plan, body, make=Remembering):
        assert module.calls == 9
        kept = [*module.by_rows.values(), *module.inputs, module.last, module.total]
        assert {type(tensor) for tensor in kept} == {Tensor}
    assert {type(tensor) for tensor in SEEN} == {Tensor} and len(SEEN) == 18
    assert scale_of.cache_info().currsize == 2 and type(scale_of(2, Tensor)) is Tensor


def test_a_batch_normalization_counts_the_microbatches_alone() -> None:
    plan = plan_of(ordered(linear(2, 3), one_f_one_b))
    x, target = batch(spec_of(plan))
    found = trained(plan, x, target, lambda seed: nn.BatchNorm1d(WIDTH))
    for modules in found.modules:
        for module in modules.values():
            assert module.get_buffer("num_batches_tracked") == 3


# Shapes of micro-batches, steps and ranks ---------------------------------------------------------


class Delayed(Local):
    """Is late with everything, by a random while."""

    random = Random(0)

    def send(self, lane: int, tensors: Any) -> Any:
        time.sleep(self.random.random() * 2e-3)
        return super().send(lane, tensors)

    def receive(self, lane: int, buffers: Any) -> Any:
        time.sleep(self.random.random() * 2e-3)
        return super().receive(lane, buffers)


@pytest.mark.parametrize("seed", range(8))
def test_random_plans_with_delays_and_new_shapes(seed: int) -> None:
    """Micro-batches of the same and of other shapes than in the step before."""
    random = Random(100 + seed)
    spec = random_model(random)
    while spec.slices or spec.ranks == 1:
        spec = random_model(random)
    spec = random_order(spec, random, pairs=0.3)
    plan, (x, target) = plan_of(spec), batch(spec, torch.float64, seed)

    def twice(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: twice(item) for name, item in value.items()}
        return value.repeat_interleave(2, 0)

    def rank(transport: Local) -> Any:
        slow = Delayed(transport.hub, transport.rank)
        modules = built(spec, transport.rank, double)
        executor = Executor(plan, modules, loss, transport=slow, timeout=30)
        outputs = []
        for long in (False, True, False, True):
            more = twice if long else lambda value: value
            for module in modules.values():
                module.zero_grad()
            outputs.append(executor.step(more(x), target=more(target)))
        executor.close()
        return outputs[2], modules

    results = run_local(plan, rank)
    # Every row stands twice in the last batch: the same mean, and so the same gradients.
    losses: list[Any] = [{} for _ in results]
    found = Trained([modules for _, modules in results], [o for o, _ in results], losses)
    expected = trained(plan, x, target, double)
    check(spec, expected, x, target)
    for line in spec.pipelines:
        for s in range(len(line.stages)):
            pairs = zip(
                found.gradients(line.name, s), expected.gradients(line.name, s), strict=True
            )
            for a, b in pairs:
                assert a is b is None or torch.allclose(there(a), there(b), rtol=1e-9, atol=1e-12)


def test_receives_that_come_late_hold_up_nobody() -> None:
    """Both ranks send first and receive then: one that waited for its send, in the step in which
    receives are posted late, would wait for ever."""
    spec = random_order(both_ways(2, 8), Random(5))
    plan, (x, target) = plan_of(spec), batch(spec, torch.float64)
    check(spec, trained(plan, x, target, double, timeout=5), x, target)


UNLIKE = """schedule unlike
ranks 2
microbatches 4
pipeline main { stages 2  place s -> s }
cost F[s, m] = 1 + m for s in 0 .. 2, m in 0 .. 4
cost B[s, m] = 2 + 2 * m for s in 0 .. 2, m in 0 .. 4
order rank r {
  repeat 1 - r { F }
  repeat 3 + r { F; B }
  repeat 1 - r { B }
}
"""


@pytest.mark.parametrize("lengths", [(1, 2, 3, 4), (3, 1, 3, 2), (2, 2, 2, 2)])
def test_microbatches_of_unlike_shape_in_one_step(lengths: tuple[int, ...]) -> None:
    plan = compile_text(UNLIKE, "unlike.pipe")
    draw = torch.Generator().manual_seed(0)
    x, target = (torch.randn(sum(lengths), WIDTH, generator=draw) for _ in range(2))
    xs, targets = (list(whole.split(list(lengths))) for whole in (x, target))
    found = trained(plan, MicrobatchList(xs), MicrobatchList(targets), scale_loss=False)
    gradients, losses = alone([Layer(0), Layer(1)], xs, targets, mean=False)
    for s in range(2):
        assert same(found.gradients("main", s), gradients[s])
    assert found.losses[1]["main"] == losses


def test_a_step_with_another_signature_is_noticed_on_every_rank() -> None:
    """Rank 0 alone is given x, and a shorter one at its second evaluation."""
    plan = plan_of(ordered(linear(3, 2), gpipe))
    x, _ = batch(spec_of(plan))

    def body(executor: Executor) -> list[Any]:
        return [executor.eval(x[:rows] if executor.rank == 0 else None) for rows in (4, 2, 4, 2, 4)]

    outputs = executors(plan, body)[2]
    expected = nn.Sequential(*(Layer(s) for s in range(3)))(x)
    for rows, output in zip((4, 2, 4, 2, 4), outputs, strict=True):
        assert output.shape == (rows, WIDTH)
        assert torch.allclose(output, expected[:rows], atol=1e-6)


def test_weights_may_be_frozen_between_steps() -> None:
    plan = plan_of(ordered(linear(3, 2), one_f_one_b))
    x, target = batch(spec_of(plan))

    def body(executor: Executor) -> Any:
        (stage,) = executor.stages.values()
        executor.step(x, target=target)
        if executor.rank < 2:
            stage.module.zero_grad()
            stage.module.requires_grad_(False)
        executor.step(x, target=target)
        return [parameter.grad for parameter in stage.module.parameters()]

    first, second, third = executors(plan, body)
    assert set(first) == set(second) == {None} and None not in third


def test_conjugated_outputs_arrive_as_they_are() -> None:
    class Turning(Layer):
        def forward(self, x: Tensor, *rest: Tensor) -> Any:
            if rest:
                return x + (rest[0] * rest[1]).imag.to(x.dtype)
            y = torch.complex(super().forward(x), x)
            return x, y, y.conj()

    plan = plan_of(ordered(linear(2, 2), gpipe))
    x, target = batch(spec_of(plan))
    found = trained(plan, x, target, Turning)
    modules: list[nn.Module] = [Turning(0), Turning(1)]
    gradients, _ = alone(modules, x.chunk(2), target.chunk(2))
    assert same(found.gradients("main", 0), gradients[0])


# Gradients that are absent ------------------------------------------------------------------------


class Branching(nn.Module):
    """Gives a state and beside it something that the next stage uses where the first number of the
    state is positive, or, `never`, nowhere."""

    def __init__(self, seed: int, never: bool = False):
        super().__init__()
        self.layer, self.aside, self.never = Layer(seed), Layer(seed + 50), never

    def forward(self, x: Tensor, aside: Tensor | None = None) -> Any:
        if aside is not None and not self.never and x.detach()[0, 0] > 0:
            x = x + aside
        return self.layer(x), self.aside(x)


class Deaf(nn.Module):
    """Does not look at what it is given where its first number, which it hands on, is negative."""

    def __init__(self, seed: int):
        super().__init__()
        self.layer = Layer(seed)

    def forward(self, x: Tensor) -> Tensor:
        first = x.detach()[:, :1]
        y = self.layer(x if first[0, 0] > 0 else torch.ones_like(x))
        return torch.cat([first, y[:, 1:]], 1)


def first_stage(output: Any, target: Tensor) -> Tensor:
    """The loss of a pair of outputs looks at one of them."""
    return loss(output[0] if isinstance(output, tuple) else output, target)


def kinds() -> list[Any]:
    return [Branching, lambda seed: Branching(seed, never=True), Deaf]


@pytest.mark.parametrize("words", [one_f_one_b, zb_h1])
@pytest.mark.parametrize("kind", range(3), ids=["sometimes", "never", "deaf"])
def test_gradients_are_absent_where_they_are_in_one_process(kind: int, words: Any) -> None:
    make = kinds()[kind]
    plan = plan_of(ordered(linear(3, 4), words))
    x, target = batch(spec_of(plan), seed=kind)

    def body(executor: Executor) -> Gradients:
        """With all micro-batches, then with such in which nothing of it is used."""
        found: Gradients = []
        (stage,) = executor.stages.values()
        for inputs in (x, -x.abs(), x):
            stage.module.zero_grad()
            executor.step(inputs, target=target)
            found.append([p.grad for p in stage.module.parameters()])
        return found

    results = executors(plan, body, make=make, loss_fn=first_stage)
    absent = present = 0
    for at, inputs in enumerate((x, -x.abs(), x)):
        gradients, _ = alone([make(s) for s in range(3)], inputs.chunk(4), target.chunk(4))
        for s in range(3):
            assert same(results[s][at], gradients[s]), (at, s)
            absent += gradients[s].count(None)
            present += len(gradients[s]) - gradients[s].count(None)
    assert absent and present


class Picky(Layer):
    """Uses of what feeds it only what a number of its own says, and its input not always."""

    def forward(self, x: Tensor, /, *others: Tensor) -> Tensor:
        said = int(x.detach().abs().sum() * 1e6)
        used = [other for k, other in enumerate(others) if said >> k & 1]
        return super().forward(x if said % 5 else torch.ones_like(x), *used)


@pytest.mark.parametrize("seed", range(8))
def test_absent_gradients_in_random_plans(seed: int) -> None:
    """Several users of one output, copies, fed pipelines, pairs, B and I with W."""
    random = Random(300 + seed)
    spec = random_model(random)
    while spec.slices:
        spec = random_model(random)
    spec = random_order(spec, random, pairs=0.3)
    x, target = batch(spec, torch.float64, seed)

    def make(seed: int) -> nn.Module:
        return Picky(seed, torch.float64)

    found, expected = trained(plan_of(spec), x, target, make), one_process(spec, x, target, make)
    for p, line in enumerate(spec.pipelines):
        for s in range(len(line.stages)):
            for ours, theirs in zip(
                found.gradients(line.name, s), expected.gradients[p, s], strict=True
            ):
                assert (ours is None) == (theirs is None), (line.name, s)
                assert ours is None or torch.allclose(ours, there(theirs), rtol=1e-9, atol=1e-12)


# Messages that are checked ------------------------------------------------------------------------


class Swapping(Local):
    """Sends the third message of its first channel before the second; `parts` says in how many
    parts each is sent."""

    parts = 1
    count = 0

    def send(self, lane: int, tensors: Any) -> Any:
        if lane or self.rank:
            return super().send(lane, tensors)
        self.count += 1
        at = self.count - 1 - self.parts
        if at < 0 or at >= 2 * self.parts:
            return super().send(lane, tensors)
        if at < self.parts:
            self.held = [*getattr(self, "held", []), tensors]
            return []
        begun = list(super().send(lane, tensors))
        if at == 2 * self.parts - 1:
            for held in self.held:
                begun += super().send(lane, held)
        return begun


@pytest.mark.parametrize("checked", [False, True])
def test_messages_that_are_checked(checked: bool) -> None:
    """Two messages change places on their way: nobody notices but who checks."""
    plan = plan_of(ordered(linear(2, 4), gpipe))
    x, target = batch(spec_of(plan))

    def rank(transport: Local) -> list[Tensor]:
        swapping = Swapping(transport.hub, transport.rank)
        swapping.parts = 2 if checked else 1
        modules = built(spec_of(plan), transport.rank)
        options: Any = {"transport": swapping, "timeout": 20.0, "check_messages": checked}
        executor = Executor(plan, modules, loss, **options)
        losses: list[Tensor] = []
        executor.step(x, target=target, losses=losses)
        executor.close()
        return losses

    if not checked:
        _, right = alone([Layer(0), Layer(1)], x.chunk(4), target.chunk(4))
        assert run_local(plan, rank)[1] != right
        return
    with pytest.raises(PipelineError) as stopped:
        run_local(plan, rank)
    told = str(stopped.value)
    assert "message 3 of step 1 on its channel, `F main[0, 2]`, with (2, 6) float32, ins" in told
    assert "instead of message 2 of step 1 on its channel, `F main[0, 1]`, with (2, 6)" in told


@pytest.mark.parametrize("seed", range(3))
def test_checked_messages_change_nothing(seed: int) -> None:
    random = Random(seed)
    spec = random_order(both_ways(2, 6), random, pairs=0.3)
    x, target = batch(spec, torch.float64)
    found = trained(plan_of(spec), x, target, double, steps=2, check_messages=True)
    check(spec, found, x, target, steps=2)


@pytest.mark.parametrize("size", [(), (0,), (3,), (1, 4), (4, 1), (2, 0, 3), (1, 1, 1), (2, 3, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.complex64])
def test_buffers_are_as_any_tensor(size: tuple[int, ...], dtype: torch.dtype) -> None:
    spec = TensorSpec(size, dtype, False)
    made, expected = spec.maker(torch.device("cpu"))(), torch.empty(size, dtype=dtype)
    for found in (made, spec.empty(torch.device("cpu"))):
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
        assert found.stride() == expected.stride()
        assert found.untyped_storage().nbytes() == expected.untyped_storage().nbytes()
