"""Ties where more than the executor takes part: `stretto run`, several models, evaluations,
optimizers with groups, clipping, and ranks that are processes."""

import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from msgspec.structs import replace
from torch import Tensor, nn

from stretto.compiler.plan.plan import Plan, write_plan
from stretto.compiler.problem.spec import Feed, Tie, TiedPlace
from stretto.runtime import Executor, PipelineError, run_local
from stretto.runtime.__main__ import main
from stretto.runtime.checkpoint import load, save
from stretto.runtime.clip import clip_grad_norm_
from stretto.runtime.train.model import Model, Models
from stretto.runtime.transport.local import Local
from tests.support import trainees
from tests.support.ranks import run
from tests.support.specs import model, pipeline, random_order
from tests.support.tied import (
    OneProcess,
    TiedStage,
    fresh,
    near,
    tied_run,
    tied_stages,
    token_loss,
    tokens,
)
from tests.support.training import Modules, compiled, plan_of, spec_of

# stretto run ------------------------------------------------------------------------------------


class Declared:
    """Builds each stage by itself."""

    ties: Any = None

    def __init__(self, plan: Plan, steps: int = 3):
        self.spec, self.steps = spec_of(plan), steps
        self.found: dict[tuple[str, int], nn.Module] = {}

    def stage(self, index: int, count: int) -> nn.Module:
        return TiedStage(index, count, (), fresh()).double()

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return token_loss(output, target)

    def data(self, step: int) -> tuple[Tensor, Tensor]:
        return tokens(self.spec)

    def optimizer(self, parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, lr=0.01)

    def after_step(self, done: Any) -> None:
        self.found |= done.modules


class Told(Declared):
    """Says itself what is tied; its modules do not."""

    def __init__(self, plan: Plan, steps: int = 3):
        super().__init__(plan, steps)
        self.ties = {"embedding": [(0, "embedding.weight"), (-1, "head.weight")]}

    def stage(self, index: int, count: int) -> nn.Module:
        made = super().stage(index, count)
        made.tied = {}  # type: ignore[assignment]
        return made


class Whole(Told):
    """One module, which stages are cut out of; nothing is declared."""

    def __init__(self, plan: Plan, steps: int = 3):
        super().__init__(plan, steps)
        self.ties = None
        self.whole: dict[int, nn.Module] = {}

    def stage(self, index: int, count: int) -> nn.Module:
        weight = fresh()
        for k in range(count) if not self.whole else ():
            self.whole[k] = TiedStage(k, count, (), weight).double()
            self.whole[k].tied = {}  # type: ignore[assignment]
        return self.whole[index]


Trained = Callable[..., str]


@pytest.fixture
def trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Trained:
    def train(plan: Plan, given: Any, *flags: str, code: int = 0) -> str:
        monkeypatch.setattr(trainees, "MODEL", given, raising=False)
        write_plan(plan, tmp_path / "a.plan")
        words = [str(tmp_path / "a.plan"), "--model", "tests.support.trainees:MODEL", "--local"]
        found = main([*words, "--timeout", "30", *flags])
        told = capsys.readouterr()
        sys.stderr.write(told.err)
        assert found == code, told.err
        return told.err + told.out

    return train


PLANS: list[Any] = [
    ("one_f_one_b", {"ranks": 2, "microbatches": 4}),
    ("zb_v", {"ranks": 2, "microbatches": 4}),
    ("dualpipe", {"ranks": 2, "microbatches": 4}),
]


@pytest.mark.parametrize(("name", "sizes"), PLANS, ids=[name for name, _ in PLANS])
@pytest.mark.parametrize("kind", [Declared, Told, Whole])
def test_stretto_run_trains_tied_models(
    name: str, sizes: dict[str, int], kind: type[Declared], trained: Trained
) -> None:
    plan = compiled(name, **sizes)
    given = kind(plan)
    told = trained(plan, given, "--steps", "3", "--verify")
    assert "gradients are equal, bit for bit" in told
    alone = OneProcess(spec_of(plan)).steps(3)
    alone.optimizer.step()
    for (_, s), module in given.found.items():
        expected = dict(alone.stages[s].named_parameters(remove_duplicate=False))
        for parameter, ours in module.named_parameters():
            assert near(ours.detach(), expected[parameter].detach()), (s, parameter)


def test_what_may_be_a_tie_stands_in_the_verdict(trained: Trained) -> None:
    given = Told(compiled("one_f_one_b", ranks=2, microbatches=4))
    given.ties = None
    told = trained(compiled("one_f_one_b", ranks=2, microbatches=4), given, "--verify")
    pair = "`main[0].embedding.weight` and `main[1].head.weight` start with the same values"
    assert f"warning: {pair}" in told and f"\n  not tied: {pair}" in told
    assert "equal, bit for bit, to those of a model in which these are not tied" in told
    assert ".py:" not in told
    given.ties = {}
    again = trained(compiled("one_f_one_b", ranks=2, microbatches=4), given, "--verify")
    assert again.count("start with") == told.count("start with")  # those of before, printed again
    assert "equal, bit for bit\n" in again


class Grouped(Declared):
    """No decay of embeddings, by name."""

    def __init__(self, plan: Plan, steps: int = 3):
        super().__init__(plan, steps)
        self.names: set[str] = set()

    def optimizer(self, named_parameters: Any) -> torch.optim.Optimizer:  # pyright: ignore[reportIncompatibleMethodOverride]
        self.names |= {name for name, _ in named_parameters}
        groups: dict[bool, list[nn.Parameter]] = {}
        for name, parameter in named_parameters:
            groups.setdefault("embedding" in name, []).append(parameter)
        made = [{"params": group, "weight_decay": 0.5 * (not e)} for e, group in groups.items()]
        return torch.optim.AdamW(made, lr=0.01)


def test_groups_by_name_are_those_of_the_first_place(trained: Trained) -> None:
    plan = compiled("one_f_one_b", ranks=2, microbatches=4)
    given = Grouped(plan)
    trained(plan, given, "--steps", "3")
    assert "0.embedding.weight" in given.names and "1.head.weight" not in given.names
    first, last = given.found["main", 0], given.found["main", 1]
    assert torch.equal(first.get_parameter("embedding.weight"), last.get_parameter("head.weight"))


def linear(index: int, count: int) -> nn.Module:
    return nn.Linear(2, 2)


def test_several_models_say_what_they_share() -> None:
    plan = compiled("two_models", ranks=2, microbatches=4)
    spec = spec_of(plan)

    class Both:
        policy, critic = (SimpleNamespace(**vars(Model(linear))) for _ in "ab")
        ties = {"all": [("policy", 0, "weight"), ("critic", 0, "weight")]}  # noqa: RUF012

    models = Models(spec, Both, "--model")
    assert models.ties() == Both.ties
    Both.policy.ties = {"own": [(0, "weight"), (-1, "weight")]}
    own = [("policy", 0, "weight"), ("policy", -1, "weight")]
    models = Models(spec, Both, "--model")
    assert models.ties() == {**Both.ties, "policy/own": own}
    shared = Tie("t", ((TiedPlace(0, 0, "weight"),), (TiedPlace(1, 0, "weight"),)))
    models.refuse_optimizers([shared])
    Both.critic.optimizer = torch.optim.SGD
    with pytest.raises(PipelineError, match="several models share `t`, and have each an optimizer"):
        Models(spec, Both, "--model").refuse_optimizers([shared])
    alone = Models(spec_of(compiled("gpipe", ranks=2, microbatches=2)), Both.critic, "--model")
    assert alone.ties() is None


# Drift, clipping --------------------------------------------------------------------------------


def test_holders_that_are_moved_differently_are_told() -> None:
    plan = compiled("dualpipe", ranks=2, microbatches=4)
    modules = [tied_stages(plan, rank) for rank in (0, 1)]

    def body(executor: Executor, _: Any) -> None:
        x, target = tokens(spec_of(plan))
        optimizer = torch.optim.SGD(executor.parameters(), lr=0.1 * (1 + executor.rank))
        executor.step(x, target=target)
        optimizer.step()
        executor.step(x, target=target)

    with pytest.raises(PipelineError, match="which is one parameter, have different values"):
        tied_run(plan, modules, body=body)


@pytest.mark.parametrize("name", ["one_f_one_b", "dualpipe"])
def test_clipping_counts_a_tied_parameter_once(name: str) -> None:
    plan = compiled(name, ranks=2, microbatches=4)
    norms: list[Tensor] = []

    def body(executor: Executor, _: Any) -> None:
        x, target = tokens(spec_of(plan))
        executor.step(x, target=target)
        norms.append(clip_grad_norm_(executor, 0.01))

    run_ = tied_run(plan, [tied_stages(plan, rank) for rank in (0, 1)], body=body)
    alone = OneProcess(spec_of(plan))
    alone.backward()
    expected = torch.nn.utils.clip_grad_norm_(
        {id(p): p for stage in alone.stages for p in stage.parameters()}.values(), 0.01
    )
    assert torch.allclose(torch.stack(norms), expected, rtol=1e-12)
    assert all(near(holder.grad, alone.weight.grad) for holder in run_.holders())


# Checkpoints ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "then"),
    [(("zb_v", 2), ("one_f_one_b", 4)), (("one_f_one_b", 4), ("zb_v", 2))],
    ids=["apart", "together"],
)
def test_a_checkpoint_fits_where_holders_are_elsewhere(
    first: tuple[str, int], then: tuple[str, int], tmp_path: Path
) -> None:
    """Where one rank has both, its optimizer knows one of them."""
    plans = [compiled(name, ranks=ranks, microbatches=4) for name, ranks in (first, then)]

    def body(plan: Plan, resumed: bool) -> Callable[[Executor, torch.optim.Optimizer], None]:
        def steps(executor: Executor, optimizer: torch.optim.Optimizer) -> None:
            if resumed:
                assert load(executor, tmp_path, optimizer) == 2
            x, target = tokens(spec_of(plan))
            for _ in range(2):
                executor.step(x, target=target)
                optimizer.step()
                optimizer.zero_grad()
            if not resumed:
                save(executor, tmp_path, 2, optimizer)

        return steps

    for plan, resumed in zip(plans, (False, True), strict=True):
        modules = [tied_stages(plan, rank) for rank in range(spec_of(plan).ranks)]
        if resumed:  # elsewhere: it is all in the checkpoint
            for module in (module for own in modules for module in own.values()):
                for parameter in {id(p): p for p in module.parameters()}.values():
                    parameter.data.add_(1)
        run_ = tied_run(plan, modules, body=body(plan, resumed))
    alone = OneProcess(spec_of(plans[0]))
    for _ in range(4):
        alone.backward()
        alone.optimizer.step()
        alone.optimizer.zero_grad()
    assert all(near(holder.detach(), alone.weight.detach()) for holder in run_.holders())  # pyright: ignore[reportPossiblyUnboundVariable]


@pytest.mark.parametrize("saved_tied", [True, False])
def test_a_checkpoint_of_other_ties_is_refused(saved_tied: bool, tmp_path: Path) -> None:
    """And so where one rank has both, as one object or as two."""

    def body(name: str, tied: bool, act: Callable[..., Any]) -> None:
        plan = compiled(name, ranks=2 if name == "zb_v" else 4, microbatches=4)
        modules = [tied_stages(plan, rank, one_object=tied) for rank in range(spec_of(plan).ranks)]
        for module in (module for own in modules for module in own.values() if not tied):
            module.tied = {}  # type: ignore[assignment]
        options: Any = {} if tied else {"ties": {}}
        tied_run(plan, modules, body=act, **options)

    pair = r"with `stage0of4.embedding.weight` and `stage3of4.head.weight` as "
    body("one_f_one_b", saved_tied, lambda executor, _: save(executor, tmp_path, 1))
    for name in ("one_f_one_b", "zb_v"):
        body(name, saved_tied, lambda executor, _: load(executor, tmp_path))
        with pytest.raises(PipelineError, match=pair) as told:
            body(name, not saved_tied, lambda executor, _: load(executor, tmp_path))
        expected = "here they are several" if saved_tied else "here they are one"
        assert expected in str(told.value)


# Several models, evaluations --------------------------------------------------------------------


class Coder(nn.Module):
    """A stage of an encoder or a decoder; their first ones embed with one table."""

    def __init__(self, seed: int, weight: nn.Parameter | None):
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.own = nn.Parameter(torch.randn(8, 8, generator=draw, dtype=torch.float64) / 3)
        self.shared = weight

    def forward(self, x: Tensor, /, *others: Tensor) -> Tensor:
        if self.shared is not None:
            x = x @ self.shared
        for other in others:
            x = x + other
        return torch.tanh(x @ self.own)


def table() -> nn.Parameter:
    draw = torch.Generator().manual_seed(9)
    return nn.Parameter(torch.randn(8, 8, generator=draw, dtype=torch.float64) / 3)


@pytest.mark.parametrize("crossed", [False, True], ids=["one-rank", "two-ranks"])
def test_pipelines_of_several_models_share_a_parameter(crossed: bool) -> None:
    """The encoder feeds the decoder. Where their first stages are on one rank they share the
    object; else the executor is told."""
    ranks = (1, 0) if crossed else (0, 1)
    spec = model(
        2,
        pipeline("encoder", (0, 1), 3, feeds=(Feed(1, 1),)),
        pipeline("decoder", ranks, 3),
    )
    plan = plan_of(random_order(spec, Random(1)))
    ties = {"table": [("encoder", 0, "shared"), ("decoder", 0, "shared")]} if crossed else None
    modules: list[Modules] = []
    for rank in range(2):
        weight = table()
        modules.append(
            {
                (p.name, s): Coder(10 * k + s, weight if s == 0 else None)
                for k, p in enumerate(spec.pipelines)
                for s, stage in enumerate(p.stages)
                if stage.rank == rank
            }
        )
    draw = torch.Generator().manual_seed(3)
    x = {
        name: torch.randn(6, 8, generator=draw, dtype=torch.float64)
        for name in ("encoder", "decoder")
    }
    target = {"decoder": torch.randn(6, 8, generator=draw, dtype=torch.float64)}

    def square(output: Tensor, wanted: Tensor) -> Tensor:
        return (output - wanted).square().mean()

    def rank_(transport: Local) -> list[str]:
        own = modules[transport.rank]
        executor = Executor(
            plan, own, {"decoder": square}, transport=transport, timeout=20.0, ties=ties
        )
        executor.step(x, target=target)
        executor.close()
        return [name for name, _ in executor.named_parameters()]

    names = run_local(plan, rank_)
    assert ("encoder[0].shared" in names[1]) == crossed
    alone = table()
    whole = [[Coder(10 * k + s, alone if s == 0 else None) for s in (0, 1)] for k in (0, 1)]
    for m in range(3):
        rows = slice(2 * m, 2 * m + 2)
        encoded = whole[0][1](whole[0][0](x["encoder"][rows]))
        output = whole[1][1](whole[1][0](x["decoder"][rows]), encoded)
        (square(output, target["decoder"][rows]) / 3).backward()
    for own in modules:
        for (name, s), module in own.items():
            if s == 0:
                assert near(module.get_parameter("shared").grad, alone.grad), name


@pytest.mark.parametrize("name", ["inference", "dualpipe"])
def test_evaluations_begin_with_the_weights_of_the_first(name: str) -> None:
    """Where nothing is trained, too: copies and holders that started elsewhere give what one
    model gives."""
    plan = compiled(name, ranks=2, microbatches=4)
    if name == "dualpipe":
        plan = replace(
            plan, programs={"eval": plan.programs["eval"]}, claims={"eval": plan.claims["eval"]}
        )
    modules = [tied_stages(plan, rank, one_object=False) for rank in (0, 1)]
    for module in modules[1].values():
        with torch.no_grad():
            for parameter in module.parameters():
                if name == "dualpipe" or parameter.shape[0] == 11:
                    parameter.add_(1)
    x, target = tokens(spec_of(plan))

    def rank(transport: Local) -> Any:
        own = modules[transport.rank]
        executor = Executor(plan, own, token_loss, transport=transport, timeout=20.0)
        return executor.eval(x, target=target)

    outputs = [output for output in run_local(plan, rank) if output is not None]
    alone = OneProcess(spec_of(plan))
    expected = alone.stages[1](alone.stages[0](x))
    found = torch.cat(outputs) if name == "dualpipe" else outputs[0]
    assert found.shape == expected.shape
    assert torch.allclose(found.flatten(1).sum(1).sort()[0], expected.flatten(1).sum(1).sort()[0])


# Processes --------------------------------------------------------------------------------------


def steps(rank: int, plan: Plan) -> Any:
    modules = tied_stages(plan, rank)
    executor = Executor(plan, modules, token_loss, timeout=30)
    optimizer = torch.optim.AdamW(executor.parameters(), lr=0.01)
    x, target = tokens(spec_of(plan))
    for step in range(2):
        if step:
            optimizer.step()
            optimizer.zero_grad()
        executor.step(x, target=target)
    executor.close()
    return [
        (holder.detach(), holder.grad)
        for module in modules.values()
        if isinstance(module, TiedStage)
        for holder in map(module.get_parameter, module.tied)
    ]


@pytest.mark.xdist_group("ranks")
def test_ranks_that_are_processes() -> None:
    plan = compiled("dualpipe", ranks=2, microbatches=4)
    found = [one for own in run(2, steps, plan).results for one in own]
    alone = OneProcess(spec_of(plan)).steps()
    for weight, gradient in found:
        assert torch.equal(weight, found[0][0]) and torch.equal(gradient, found[0][1])
        assert near(weight, alone.weight.detach()) and near(gradient, alone.weight.grad)
