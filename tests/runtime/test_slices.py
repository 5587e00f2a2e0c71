"""Micro-batches cut along the sequence. Expected is a causal model on whole sequences, and one
process that runs the same slices by plain autograd."""

import subprocess
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stretto.compiler.problem.spec import Operation, Spec
from stretto.runtime import Executor, PipelineError
from tests.support.command_line import STRETTO
from tests.support.paths import ROOT
from tests.support.specs import both_ways, linear, random_order, vee, written
from tests.support.steps import executors
from tests.support.training import WIDTH, plan_of, spec_of, there
from tests.support.verified import verified

LENGTH, ROWS, SLICES = 8, 2, 4


class Causal(nn.Module):
    """Attention to what came before; a slice leaves its keys and values."""

    def __init__(self, seed: int, dtype: torch.dtype = torch.float32):
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.into, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.places = nn.Parameter(torch.zeros(LENGTH, WIDTH))
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=draw) / 2)
        self.to(dtype)

    def forward(self, x: Tensor, carried: Any = None) -> Any:
        before = carried or ()
        start = sum(left["keys"].shape[1] for left in before)
        q, k, v = self.into(x + self.places[start : start + x.shape[1]]).chunk(3, -1)
        keys = torch.cat([*(left["keys"] for left in before), k], 1)
        values = torch.cat([*(left["pair"][0] for left in before), v], 1)
        seen = torch.ones(x.shape[1], keys.shape[1], dtype=torch.bool).tril(start)
        scores = (q @ keys.transpose(1, 2)).masked_fill(~seen, -torch.inf)
        y = x + self.out(torch.softmax(scores, -1) @ values)
        return y if carried is None else (y, {"keys": k, "pair": (v, start)})


def linear_layer(seed: int) -> nn.Linear:
    """Ranks are threads, which share torch's own generator."""
    draw, layer = torch.Generator().manual_seed(seed), nn.Linear(WIDTH, WIDTH)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draw) / 2)
    return layer


class Summing(nn.Module):
    """A running sum: each slice hands on the whole state, and looks at the last one alone."""

    def __init__(self, seed: int):
        super().__init__()
        self.layer = linear_layer(seed)

    def forward(self, x: Tensor, carried: Any = None) -> Any:
        y = torch.tanh(self.layer(x))
        state = y.cumsum(1) + (carried[-1] if carried else 0)
        return state if carried is None else (state, state[:, -1:])


class Pointwise(nn.Module):
    """Looks at each place alone, and writes on its input."""

    def __init__(self, seed: int):
        super().__init__()
        self.layer = linear_layer(seed)

    def forward(self, x: Tensor, *, carried: Any = None) -> Any:
        y = self.layer(torch.tanh_(x))
        return y if carried is None else (y, ())


def mean(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().mean()


def given(rows: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(5)
    x = torch.randn(rows, LENGTH, WIDTH, generator=draw).to(dtype)
    return x, torch.randn(rows, LENGTH, WIDTH, generator=draw).to(dtype)


def taken(plan: Any, make: Callable[[int], nn.Module], **more: Any) -> Any:
    """By rank: losses, output, modules by stage; of one step on threads."""
    options = {k: more.pop(k) for k in list(more) if k in ("scale_loss", "slice_lengths")}
    x, target = more.get("batch") or given(ROWS * microbatches_of(spec_of(plan)))

    def body(executor: Executor) -> Any:
        losses: dict[str, list[Tensor]] = {}
        output = executor.step(x, target=target, losses=losses)
        return losses, output, {at: stage.module for at, stage in executor.stages.items()}

    return executors(plan, body, make, mean, **options)


def microbatches_of(spec: Spec) -> int:
    return sum(line.microbatches for line in spec.pipelines)


def alone(make: Callable[[int], nn.Module], batch: Any, many: int, slices: int) -> Any:
    """Modules of two stages and outputs, by plain autograd: micro-batch by micro-batch, one
    backward for all of its slices. `slices` 0: whole sequences."""
    modules, outputs = [make(0), make(1)], []
    for x, target in zip(batch[0].chunk(many), batch[1].chunk(many), strict=True):
        carried: list[list[Any]] = [[] for _ in modules]
        total, made = torch.zeros((), dtype=x.dtype), []
        for part, wanted in zip(x.chunk(slices or 1, 1), target.chunk(slices or 1, 1), strict=True):
            value = part.clone()
            for module, left in zip(modules, carried, strict=True):
                if slices:
                    value, carry = module(value, carried=tuple(left))
                    left.append(carry)
                else:
                    value = module(value)
            total = total + mean(value, wanted) / ((slices or 1) * many)
            made.append(value.detach())
        total.backward()
        outputs.append(torch.cat(made, 1))
    return modules, torch.cat(outputs)


def _from_the_last(halves: bool) -> Any:
    """Two stages, one micro-batch: all forwards, then the slices' backwards, weights among them."""

    def order(stage: int) -> list[tuple[Operation, ...]]:
        slices = range(SLICES)
        named = [("F", k) for k in slices]
        named += [(kind, k) for k in slices[::-1] for kind in ("IW" if halves else "B")]
        return [(Operation(kind, 0, stage, 0, k),) for kind, k in named]

    return plan_of(written(linear(2, 1, slices=SLICES), [order(0), order(1)]))


@pytest.mark.parametrize("kind", [Causal, Summing, Pointwise])
@pytest.mark.parametrize("split", [False, True], ids=["B", "I-W"])
def test_slices_are_one_process_bit_for_bit(kind: Callable[[int], nn.Module], split: bool) -> None:
    """Of one micro-batch, where autograd adds in the order of the slices' backwards too."""
    plan = _from_the_last(halves=split)
    found = taken(plan, kind)
    modules, output = alone(kind, given(ROWS), 1, SLICES)
    assert torch.equal(found[1][1], output)
    for own in found:
        for at, module in own[2].items():
            for ours, theirs in zip(
                module.parameters(), modules[at.stage].parameters(), strict=True
            ):
                assert torch.equal(there(ours.grad), there(theirs.grad))


@pytest.mark.parametrize("split", [False, True], ids=["B", "I-W"])
def test_slices_are_the_whole_sequence_to_rounding(split: bool) -> None:
    def double(seed: int) -> nn.Module:
        return Causal(seed, torch.float64)

    many = 3
    plan = plan_of(
        random_order(linear(2, many, slices=SLICES), Random(2), split=1.0 if split else 0.0)
    )
    batch = given(ROWS * many, torch.float64)
    found = taken(plan, double, batch=batch)
    modules, output = alone(double, batch, many, 0)
    assert torch.allclose(found[1][1], output, rtol=1e-12, atol=1e-12)
    wanted = [mean(a, b) for a, b in zip(output.chunk(many), batch[1].chunk(many), strict=True)]
    assert torch.allclose(torch.stack(found[1][0]["main"]), torch.stack(wanted))
    for own in found:
        for at, module in own[2].items():
            for ours, theirs in zip(
                module.parameters(), modules[at.stage].parameters(), strict=True
            ):
                assert torch.allclose(there(ours.grad), there(theirs.grad), rtol=1e-11, atol=1e-13)


PLANS = {
    "linear": linear(3, 3, slices=SLICES),
    "vee": vee(2, 3, slices=2),
    "copies": both_ways(2, 4, slices=2),
    "pairs": both_ways(2, 4, slices=2, pair=3),
    "one-slice": linear(2, 2, slices=1),
}


@pytest.mark.parametrize("kind", [Causal, Summing])
@pytest.mark.parametrize("name", PLANS)
def test_every_plan_with_slices_is_verified(name: str, kind: Callable[[int], nn.Module]) -> None:
    spec = random_order(PLANS[name], Random(len(name)), pairs=0.5 if name == "pairs" else 0.0)
    verdict = verified(plan_of(spec), kind, given(ROWS * microbatches_of(spec)), mean)
    assert verdict.equal, str(verdict)


def test_forwards_alone_run_in_slices_and_keep_nothing() -> None:
    plan = plan_of(random_order(linear(2, 3, slices=SLICES), Random(3)))
    x, target = given(3 * ROWS)

    def body(executor: Executor) -> Any:
        losses: list[Tensor] = []
        output = executor.eval(x, target=target, losses=losses)
        memories = [stage.memory for stage in executor.stages.values()]
        assert all(m is not None and not m.left and not m.used for m in memories)
        executor.step(x, target=target)
        assert all(m is not None and not m.left and not m.used for m in memories)
        return output, losses

    output, losses = executors(plan, body, Causal, mean)[1]
    expected = nn.Sequential(Causal(0), Causal(1))(x)
    assert torch.allclose(output, expected, atol=1e-6)
    wanted = [mean(a, b) for a, b in zip(expected.chunk(3), target.chunk(3), strict=True)]
    assert torch.allclose(torch.stack(losses), torch.stack(wanted))


@pytest.mark.parametrize("how", ["lengths", "weights", "unscaled"])
def test_losses_of_slices_add_up_to_the_microbatch_s(how: str) -> None:
    """Slices of unlike length by their length; by the user's weight; or a sum of means."""
    many, lengths = 2, [5, 1, 2]
    plan = plan_of(random_order(linear(2, many, slices=3), Random(0)))
    x, target = given(ROWS * many, torch.float64)
    counted = target.abs() > 0.6  # numbers that count
    factor = many if how == "unscaled" else 1

    def tokens(output: Tensor, wanted: Tensor) -> Tensor:
        return ((output - wanted[..., :WIDTH]).square() * wanted[..., WIDTH:]).sum() / (
            wanted[..., WIDTH:].sum().clamp(min=1)
        )

    judge: Any = mean
    labels = target
    options: dict[str, Any] = {"slice_lengths": lengths}
    if how == "weights":
        judge, labels = tokens, torch.cat([target, counted.double()], -1)
        options |= {"scale_loss": lambda wanted: wanted[..., WIDTH:].sum()}
    if how == "unscaled":
        options |= {"scale_loss": False}

    def body(executor: Executor) -> Any:
        executor.step(x, target=labels)
        return next(iter(executor.stages.values())).module

    def double(seed: int) -> nn.Module:
        return Causal(seed, torch.float64)

    found = nn.Sequential(*executors(plan, body, double, judge, **options))
    reference = nn.Sequential(double(0), double(1))
    (factor * judge(reference(x), labels)).backward()
    for ours, theirs in zip(found.parameters(), reference.parameters(), strict=True):
        assert torch.allclose(there(ours.grad), there(theirs.grad), rtol=1e-11, atol=1e-13)


def test_a_failure_names_its_slice() -> None:
    class Bomb(Causal):
        def forward(self, x: Tensor, carried: Any = None) -> Any:
            if carried is not None and len(carried) == 2 and x.abs().sum() > 1e6:
                raise ValueError("too large")
            return super().forward(x, carried)

    plan = plan_of(random_order(linear(2, 2, slices=SLICES), Random(4)))
    x, target = given(2 * ROWS)
    x[ROWS, 5] = 1e7  # in micro-batch 1, slice 2

    with pytest.raises(PipelineError, match=r"computes `F main\[0, 1, slice 2\]`.*too large"):
        executors(plan, lambda e: e.step(x, target=target), Bomb, mean)


class Silent(nn.Linear):
    def __init__(self, seed: int):
        super().__init__(WIDTH, WIDTH)


class Lone(Pointwise):
    def forward(self, x: Tensor, *, carried: Any = None) -> Any:
        return self.layer(x)


class Buffered(Pointwise):
    """Carries one buffer, on which every slice writes."""

    def __init__(self, seed: int):
        super().__init__(seed)
        self.kept = torch.zeros(ROWS, WIDTH)

    def forward(self, x: Tensor, *, carried: Any = None) -> Any:
        with torch.no_grad():
            self.kept += x[:, 0]
        return self.layer(x), self.kept


@pytest.mark.parametrize(
    ("make", "change", "words"),
    [
        (Silent, lambda x, y: (x, y), r"`main\[0\]`, a Silent, does not say what a slice leaves"),
        (Lone, lambda x, y: (x, y), r"`main\[.\]` was given a slice and returned a Tensor"),
        (Buffered, lambda x, y: (x, y), "was changed in place by a later one"),
        (Causal, lambda x, y: (x[:, :7], y[:, :7]), "length of 7 along dimension 1.*give it 8"),
        (Causal, lambda x, y: (x, y[:, :4]), "x and target has tensors of lengths 4 and 8"),
        (Causal, lambda x, y: (x, y[:, 0, 0]), "target has no tensor with a dimension 1"),
    ],
    ids=["silent", "lone", "buffered", "length", "unlike", "no-dimension"],
)
def test_what_cannot_be_sliced_is_refused(make: Any, change: Any, words: str) -> None:
    plan = plan_of(random_order(linear(1, 2, slices=SLICES), Random(4)))
    x, target = change(*given(2 * ROWS))
    with pytest.raises(PipelineError, match=words):
        executors(plan, lambda e: e.step(x, target=target), make, mean)


def test_a_sequence_along_another_dimension() -> None:
    """Sequences first, as (sequence, batch, width): the batch is cut along dimension 1."""

    class First(Causal):
        def forward(self, x: Tensor, carried: Any = None) -> Any:
            made = super().forward(x.transpose(0, 1), carried)
            if carried is None:
                return made.transpose(0, 1)
            return made[0].transpose(0, 1), made[1]

    torch_pipelining = pytest.importorskip("torch.distributed.pipelining.microbatch")
    chunk = torch_pipelining.TensorChunkSpec(1)
    plan = plan_of(random_order(linear(1, 2, slices=SLICES), Random(4)))
    x, target = (t.transpose(0, 1).contiguous() for t in given(2 * ROWS))
    output = executors(
        plan,
        lambda e: e.step(x, target=target),
        First,
        mean,
        slice_dim=0,
        args_chunk_spec=(chunk,),
        target_chunk_spec=chunk,
        output_merge_spec=chunk,
    )[0]
    assert torch.allclose(output, First(0)(x), atol=1e-6)


def test_the_example_trains_by_the_command_line() -> None:
    command = [
        *STRETTO, "run", "examples/seq1f1b.pipe", "--set", "ranks=2", "--set", "microbatches=2",
        "--model", "examples/gpt.py:MODEL", "--data", "examples/gpt.py:DATA",
        "--steps", "1", "--verify", "--local",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "2 losses and all gradients are equal, bit for bit" in done.stderr
