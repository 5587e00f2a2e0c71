"""`stretto run` as a trainer: what is asked for on the command line happens as in one process."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stretto.compiler.plan.plan import Plan, write_plan
from stretto.runtime.__main__ import main
from tests.support import trainees
from tests.support.one_process import NAMES, SCHEDULES, add_gradients, alike, whole_model
from tests.support.trainees import Adapted, Rich, Trainee, average, frozen_first, rich_optimizers
from tests.support.training import Layer, compiled

STEPS = 3


@pytest.fixture
def trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """`trained(plan, model, *flags)` trains with all ranks in this process, and returns what was
    printed; the exit code is 0 unless `code` says otherwise."""

    def train(plan: Plan, model: Any, *flags: str, code: int = 0) -> str:
        monkeypatch.setattr(trainees, "MODEL", model, raising=False)
        write_plan(plan, tmp_path / "a.plan")
        words = [str(tmp_path / "a.plan"), "--model", "tests.support.trainees:MODEL", "--local"]
        found = main([*words, "--timeout", "30", *flags])
        told = capsys.readouterr()
        sys.stderr.write(told.err)
        assert found == code, told.err
        return told.err + told.out

    return train


def same_weights(name: str, model: Trainee, whole: nn.Sequential, step: int) -> None:
    """All stages and copies have the weights of the whole model after the step."""
    held = [key for at, key in model.found if at == step]
    assert {s for _, s in held} == set(range(len(whole)))
    for key in held:
        theirs = dict(whole[key[1]].named_parameters())
        for parameter, ours in model.found[step, key].items():
            assert alike(name, ours, theirs[parameter]), (key, parameter)


@pytest.mark.parametrize(("name", "sizes"), SCHEDULES, ids=NAMES)
def test_all_that_a_step_does_is_what_one_process_does(
    name: str, sizes: dict[str, int], trained: Callable[..., str]
) -> None:
    """Accumulation, clipping, two optimizers, groups by name, schedulers, an average of weights."""
    plan, model = compiled(name, **sizes), Rich(sizes["microbatches"])
    flags = ("--steps", str(STEPS), "--accumulate", "2", "--clip", "0.3", "--log-every", "2")
    told = trained(plan, model, *flags)
    whole = whole_model(plan)
    optimizers = rich_optimizers(list(whole.named_parameters()))
    schedulers = [torch.optim.lr_scheduler.StepLR(one, 1, 0.7) for one in optimizers]
    averages = [average(layer) for layer in whole]
    means = []
    for step in range(1, STEPS + 1):
        losses: list[Tensor] = []
        for batch in (2 * step - 1, 2 * step):
            losses += add_gradients(whole, *model.data(batch), lambda one: one / 2)
        norm = nn.utils.clip_grad_norm_(whole.parameters(), 0.3)
        for k, optimizer in enumerate(optimizers):
            optimizer.step()
            optimizer.zero_grad()
            schedulers[k].step()
        for layer, averaged in zip(whole, averages, strict=True):
            averaged.update_parameters(layer)
        same_weights(name, model, whole, step)
        assert all(alike(name, n, norm) for (at, _), n in model.norms.items() if at == step and n)
        means.append(torch.stack(losses).double().mean().item())
    for (_, s), ours in model.averages.items():
        for a, b in zip(ours.parameters(), averages[s].parameters(), strict=True):
            assert alike(name, a, b)
    lines = [line.split("  ")[:2] for line in told.splitlines() if line.startswith("step ")]
    assert lines == [[f"step {k}/3", f"loss {means[k - 1]:.4f}"] for k in (1, 2, 3)]


class Summing(Trainee):
    """Its loss is no mean."""

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return super().loss(output, target) * len(output)


@pytest.mark.parametrize("name", ["one_f_one_b", "dualpipe"])
def test_accumulation_is_no_reason_for_a_note(name: str, trained: Callable[..., str]) -> None:
    """The loss is divided by the micro-batches of all batches; a note is of one batch."""
    plan = compiled(name, ranks=2, microbatches=4)
    flags = ("--steps", "1", "--verify", "--accumulate")
    for many in ("2", "3"):
        told = trained(plan, Trainee(4), *flags, many)
        assert "equal, bit for bit" in told and "note:" not in told
    assert "the loss is no mean over equal parts" in trained(plan, Summing(4), *flags, "2")


@pytest.mark.parametrize("make", [Adapted, frozen_first])
def test_frozen_parameters_and_adapters(make: Any, trained: Callable[..., str]) -> None:
    """Also where a rank has nothing to optimize."""
    plan, model = compiled("zb_h1", ranks=3, microbatches=4), Trainee(4, make)
    trained(plan, model, "--steps", "2", "--clip", "0.3")
    whole = whole_model(plan, make)
    optimizer = torch.optim.AdamW([p for p in whole.parameters() if p.requires_grad])
    for step in (1, 2):
        add_gradients(whole, *model.data(step))
        nn.utils.clip_grad_norm_(whole.parameters(), 0.3)
        optimizer.step()
        optimizer.zero_grad()
        same_weights("zb_h1", model, whole, step)
    frozen = [p for p in whole.parameters() if not p.requires_grad]
    assert frozen and len(model.found) == 6


@pytest.mark.parametrize("amp", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["one_f_one_b", "dualpipe"])
def test_lower_precision(name: str, amp: str, trained: Callable[..., str]) -> None:
    """Scaled losses for float16; the first steps overflow, and are skipped by all."""

    def loud(seed: int) -> nn.Module:
        layer = Layer(seed)
        if amp == "float16":
            layer.down.weight.register_hook(lambda g: g * 4096.0)  # overflows, while it is scaled
        return layer

    sizes = dict(SCHEDULES)[name]
    plan, model = compiled(name, **sizes), Trainee(sizes["microbatches"], loud)
    trained(plan, model, "--steps", "6", "--amp", amp, "--clip", "0.5", "--verify")
    whole = whole_model(plan, loud)
    optimizer = torch.optim.AdamW(whole.parameters())
    scaler = torch.amp.GradScaler("cpu", enabled=amp == "float16")
    kind = getattr(torch, amp)

    def forward(module: nn.Module, x: Tensor, target: Tensor) -> Tensor:
        with torch.autocast("cpu", kind):
            return model.loss(module(x), target)

    for step in range(1, 7):
        add_gradients(whole, *model.data(step), scaler.scale, forward)
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(whole.parameters(), 0.5)
        before = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        skipped = {was for (at, _), was in model.skipped.items() if at == step}
        assert skipped == {scaler.get_scale() < before}
        if name != "dualpipe":
            same_weights(name, model, whole, step)


class Tokens(Trainee):
    """Losses that are means over as many rows as the target says."""

    def weight(self, target: Tensor) -> Tensor:
        return (target[:, 0] > 0).sum()

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        rows = (output - target).square().mean(1)
        counting = target[:, 0] > 0
        return rows[counting].sum() / counting.sum().clamp(min=1)


def test_weights_of_tokens_count_over_all_batches_of_a_step(trained: Callable[..., str]) -> None:
    plan, model = compiled("one_f_one_b", ranks=2, microbatches=4), Tokens(4)
    told = trained(plan, model, "--steps", "1", "--accumulate", "3", "--verify")
    assert "equal, bit for bit" in told
    whole = whole_model(plan)
    x, target = (torch.cat(parts) for parts in zip(*map(model.data, (1, 2, 3)), strict=True))
    loss = model.loss(whole(x), target)
    loss.backward()
    torch.optim.AdamW(whole.parameters()).step()
    for (_, (_, s)), ours in model.found.items():
        for name, theirs in whole[s].named_parameters():
            assert torch.allclose(ours[name], theirs, atol=1e-5)
    assert f"step 1/1  loss {loss.item():.4f}" in told


def test_an_optimizer_that_moves_copies_apart_is_found(trained: Callable[..., str]) -> None:
    """At the first step, though nothing else of the training is wrong: ranks with other rates."""

    def unlike() -> Trainee:
        rates = iter((0.1, 0.2, 0.3, 0.4))
        return bad(optimizer=lambda parameters: torch.optim.SGD(parameters, lr=next(rates)))

    model = unlike()
    model.microbatches = 8
    told = trained(compiled("dualpipe", ranks=4, microbatches=8), model, code=1)
    assert {step for step, _ in model.found} == {1}
    assert "` of `up[3]` on rank 0 is not that of `down[3]` on rank 3 any more" in told
    trained(compiled("one_f_one_b", ranks=2, microbatches=4), unlike(), "--steps", "2")


# Evaluation -------------------------------------------------------------------------------------


class Dropping(Layer):
    """Draws random numbers while it trains; has a part that never does."""

    def __init__(self, seed: int):
        super().__init__(seed)
        self.still = nn.Dropout(0.5).eval()
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor, /, *others: Tensor) -> Tensor:
        return super().forward(self.still(self.drop(x)), *others)


class Evaluated(Trainee):
    def eval_data(self) -> Any:
        torch.randn(3)  # as a loader draws its seed
        return iter([self.data(7), self.data(8)])


def test_an_evaluation_changes_nothing_and_is_the_mean_of_its_batches(
    trained: Callable[..., str],
) -> None:
    plan, model = compiled("one_f_one_b", ranks=1, microbatches=4), Evaluated(4, Dropping)
    told = trained(plan, model, "--steps", "4", "--eval-every", "2", "--seed", "3")
    again = Evaluated(4, Dropping)
    trained(plan, again, "--steps", "4", "--seed", "3")
    for key, weights in model.found.items():
        assert all(torch.equal(weights[name], again.found[key][name]) for name in weights)
    lines = [line for line in told.splitlines() if "eval loss" in line]
    for line, step in zip(lines, (2, 4), strict=True):
        layer = Dropping(0).eval()
        layer.load_state_dict(model.found[step, ("main", 0)])
        losses = [model.loss(layer(x), y) for k in (7, 8) for x, y in [model.data(k)]]
        assert line == f"step {step}/4  eval loss {(losses[0] + losses[1]) / 2:.4f}"


# The user's mistakes ----------------------------------------------------------------------------


def bad(**parts: Any) -> Trainee:
    model = Trainee()
    for name, value in parts.items():
        setattr(model, name, value)
    return model


def fails(step: int) -> Callable[..., Any]:
    """A function that fails when it is called for the step'th time by a rank."""
    calls: dict[int, int] = {}

    def call(*_: Any) -> Any:
        import threading

        me = threading.get_ident()
        calls[me] = calls.get(me, 0) + 1
        if calls[me] == step:
            raise ZeroDivisionError("mine")
        return Trainee().data(1)

    return call


class LateScheduler:
    def __init__(self, _: Any) -> None:
        self.step = fails(2)


MISTAKES: list[tuple[dict[str, Any], tuple[str, ...], str]] = [
    ({"data": fails(2)}, (), "--data fails on rank . at step 2: ZeroDivisionError: mine"),
    ({"data": lambda _: 3}, (), "--data fails on rank . at step 1: TypeError: "),
    ({"after_step": fails(2)}, (), "its after_step fails on rank . at step 2: ZeroDivision"),
    ({"scheduler": LateScheduler}, (), "its scheduler fails on rank . at step 2: ZeroDivision"),
    ({"scheduler": lambda _: 3}, (), r"rank .: scheduler\(optimizer\) gave a int"),
    ({"optimizer": torch.optim.LBFGS}, (), "rank .: LBFGS needs a closure"),
    (
        {"scheduler": torch.optim.lr_scheduler.ReduceLROnPlateau},
        (),
        "ReduceLROnPlateau is stepped by a measured number",
    ),
    ({}, ("--eval-every", "1"), "--eval-every needs data: --eval-data MODULE:NAME"),
    ({"eval_data": 3}, ("--eval-every", "1"), "the evaluation data is a int"),
    ({"eval_data": []}, ("--eval-every", "1"), "the evaluation data has no batch"),
    ({"eval_data": [3]}, ("--eval-every", "1"), "--eval-data fails on rank . at step 1: TypeErr"),
]


@pytest.mark.parametrize(("parts", "flags", "words"), MISTAKES)
def test_mistakes_name_the_rank_and_the_step(
    parts: dict[str, Any], flags: tuple[str, ...], words: str, trained: Callable[..., str]
) -> None:
    import re

    plan = compiled("one_f_one_b", ranks=2, microbatches=4)
    told = trained(plan, bad(**parts), *flags, "--steps", "3", code=1)
    errors = [line for line in told.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and re.search(words, errors[0]), told


class Spoilt(Trainee):
    """Its second batch has a number that is none."""

    def data(self, step: int) -> tuple[Tensor, Tensor]:
        x, target = super().data(step)
        if step == 2:
            x[-1, 0] = float("nan")
        return x, target


def test_a_loss_that_is_not_finite_stops_the_training_or_is_told(
    trained: Callable[..., str],
) -> None:
    plan = compiled("zb_h1", ranks=2, microbatches=4)
    words = (
        ": step 2: the loss of micro-batch 3 of `main` is nan on rank 1; the first number that is "
        "NaN is in x of micro-batch 3 of `main`, as rank 0 was given it"
    )
    model = Spoilt()
    assert f"error{words}" in trained(plan, model, "--steps", "4", code=1)
    assert {step for step, _ in model.found} == {1}
    assert f"warning{words}" in trained(plan, Spoilt(), "--steps", "2", "--on-nonfinite", "warn")


def test_gradients_that_are_not_finite_stop_the_training_or_are_told(
    trained: Callable[..., str],
) -> None:
    def broken(seed: int) -> nn.Module:
        layer = Layer(seed)
        if seed == 1:
            layer.norm.bias.register_hook(lambda g: g * float("inf"))
        return layer

    plan = compiled("one_f_one_b", ranks=2, microbatches=4)
    words = "step 1: the norm of all gradients is "
    first = "the first gradient that is not finite is that of `norm.bias` in `main[1]` on rank 1"
    for clip in ((), ("--clip", "1")):
        told = trained(plan, Trainee(4, broken), *clip, code=1)
        assert f"error: {words}" in told and first in told
        told = trained(plan, Trainee(4, broken), *clip, "--steps", "1", "--on-nonfinite", "warn")
        assert f"warning: {words}" in told and first in told


def test_a_seed_makes_weights_that_do_not_depend_on_where_a_stage_is(
    trained: Callable[..., str],
) -> None:
    def drawn(_: int) -> nn.Module:
        return nn.Linear(6, 6)

    weights = []
    for ranks, seed in ((2, "1"), (4, "1"), (4, "2")):
        model = Trainee(4, drawn)
        plan = compiled("interleaved_1f1b", ranks=ranks, microbatches=4, chunks=8 // ranks)
        trained(plan, model, "--steps", "1", "--seed", seed)
        weights.append({key: model.found[1, key]["weight"] for _, key in model.found})
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert not any(torch.equal(weights[1][key], weights[2][key]) for key in weights[1])
    assert len({weight.sum().item() for weight in weights[0].values()}) == 8
