"""Kinds of parameters and of gradients that stand in several places, against one process."""

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stretto.compiler.plan.plan import Plan
from stretto.compiler.problem.spec import Spec
from stretto.runtime import Executor, run_local
from stretto.runtime.transport.local import Local
from tests.support.specs import both_ways, random_model, random_order
from tests.support.steps import check, double
from tests.support.tied import OneProcess, near, tied_run, tied_stages, tokens
from tests.support.training import (
    Modules,
    Trained,
    batch,
    built,
    compiled,
    loss,
    one_process,
    plan_of,
    seed_of,
    spec_of,
)

WIDTH = 4


class Use(nn.Module):
    """A stage that uses its parameter as `how` says."""

    def __init__(self, weight: nn.Parameter, how: Callable[[Tensor, Tensor], Tensor]):
        super().__init__()
        self.weight, self.how = weight, how
        self.scale = nn.Parameter(torch.ones((), dtype=weight.dtype))
        self.tied = {"weight": "weight"}

    def forward(self, x: Tensor) -> Tensor:
        return self.how(x, self.weight) * self.scale


How = Callable[[Tensor, Tensor], Tensor]


def product(x: Tensor, weight: Tensor) -> Tensor:
    return x @ weight


def frozen(x: Tensor, weight: Tensor) -> Tensor:
    return x @ weight.detach()


def unused(x: Tensor, weight: Tensor) -> Tensor:
    return x * 2


def sometimes(x: Tensor, weight: Tensor) -> Tensor:
    """In some micro-batches without it."""
    return x @ weight if x.detach().real.sum() > 0 else x * 2


def first_weight(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(1), dtype=dtype)


def square(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).abs().square().mean()


def uses(plan: Plan, hows: tuple[How, How], dtype: torch.dtype) -> list[Modules]:
    """The first stage's and the last's, on every rank that has them; each a parameter of its own
    that starts elsewhere than the first."""
    return [
        {
            (p.name, s): Use(nn.Parameter(first_weight(dtype) + 3 * s), hows[s])
            for p in spec_of(plan).pipelines
            for s, stage in enumerate(p.stages)
            if stage.rank == rank
        }
        for rank in range(spec_of(plan).ranks)
    ]


Doing = Callable[[Any, Callable[[], None]], None]
"""What is done with the parameters (given by `named_parameters`) and a step."""


def compare(
    plan: Plan, hows: tuple[How, How], doing: Doing, dtype: torch.dtype = torch.float64
) -> tuple[list[nn.Parameter], nn.Parameter]:
    """Does the same on all ranks and in one process; returns all holders and the one parameter."""
    spec = spec_of(plan)
    many = sum(p.microbatches for p in spec.pipelines)
    draw = torch.Generator().manual_seed(2)
    x = torch.randn(2 * many, WIDTH, generator=draw, dtype=dtype)
    target = torch.randn(2 * many, WIDTH, generator=draw, dtype=dtype)
    modules = uses(plan, hows, dtype)

    def rank(transport: Local) -> None:
        own = modules[transport.rank]
        executor = Executor(plan, own, square, transport=transport, timeout=20.0)
        doing(list(executor.parameters()), lambda: executor.step(x, target=target))
        executor.close()

    run_local(plan, rank)
    alone = nn.Parameter(first_weight(dtype))
    stages = [Use(alone, how) for how in hows]

    def step() -> None:
        for own, wanted in zip(x.chunk(many), target.chunk(many), strict=True):
            (square(stages[1](stages[0](own)), wanted) / many).backward()

    doing([alone, *(stage.scale for stage in stages)], step)
    found: list[Any] = [module for own in modules for module in own.values()]
    return [module.weight for module in found], alone


def once(_: Any, step: Callable[[], None]) -> None:
    step()


def agree(holders: list[nn.Parameter], alone: nn.Parameter) -> None:
    for holder in holders:
        assert near(holder.grad, alone.grad)
        assert near(holder.detach(), alone.detach())
        if holder.grad is not None and holders[0].grad is not None:
            assert torch.equal(holder.grad, holders[0].grad) and torch.equal(holder, holders[0])


PLANS: list[Any] = [
    ("one_f_one_b", {"ranks": 2, "microbatches": 4}),
    ("zb_h1", {"ranks": 2, "microbatches": 4}),
    ("dualpipe", {"ranks": 2, "microbatches": 4}),
]


@pytest.mark.parametrize(("name", "sizes"), PLANS, ids=[name for name, _ in PLANS])
@pytest.mark.parametrize(
    "hows",
    [(product, product), (frozen, product), (product, frozen), (product, unused),
     (sometimes, product), (product, sometimes), (unused, unused), (frozen, unused)],
    ids=lambda hows: "-".join(how.__name__ for how in hows),
)  # fmt: skip
def test_uses_without_a_gradient(name: str, sizes: dict[str, int], hows: Any) -> None:
    """None stays None, unless some use has one; then all holders have it."""
    holders, alone = compare(compiled(name, **sizes), hows, once)
    agree(holders, alone)


def accumulated(parameters: Any, step: Callable[[], None]) -> None:
    for _ in range(3):
        step()


def cleared(parameters: Any, step: Callable[[], None]) -> None:
    """To zeros, which stay there."""
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    for _ in range(3):
        step()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
    step()


def several(parameters: Any, step: Callable[[], None]) -> None:
    """Two steps of an optimizer, each of two steps."""
    optimizer = torch.optim.AdamW(parameters, lr=0.01)
    for _ in range(2):
        step()
        step()
        optimizer.step()
        optimizer.zero_grad()
    step()


@pytest.mark.parametrize(("name", "sizes"), PLANS, ids=[name for name, _ in PLANS])
@pytest.mark.parametrize("doing", [accumulated, cleared, several])
@pytest.mark.parametrize("last", [product, frozen])
def test_several_steps(name: str, sizes: dict[str, int], doing: Doing, last: How) -> None:
    agree(*compare(compiled(name, **sizes), (product, last), doing))


def test_a_gradient_of_zeros_that_nobody_adds_to_stays() -> None:
    holders, alone = compare(compiled("dualpipe", ranks=2, microbatches=4), (unused, unused), zeros)
    agree(holders, alone)
    assert alone.grad is not None


def zeros(parameters: Any, step: Callable[[], None]) -> None:
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    step()


@pytest.mark.parametrize("name", ["one_f_one_b", "dualpipe"])
@pytest.mark.parametrize("dtype", [torch.complex128, torch.bfloat16])
def test_other_numbers(name: str, dtype: torch.dtype) -> None:
    plan = compiled(name, ranks=2, microbatches=4)
    holders, alone = compare(plan, (product, product), once, dtype)
    first = holders[0].grad
    assert first is not None and first.dtype == dtype and alone.grad is not None
    assert all(torch.equal(first, holder.grad) for holder in holders)  # type: ignore[arg-type]
    rough = 1e-12 if dtype.is_complex else 0.05
    assert (first - alone.grad).abs().max() <= rough * alone.grad.abs().max()


def test_conjugates_that_are_yet_to_be_taken() -> None:
    """Their memory has the other numbers."""

    def conjugate(x: Tensor, weight: Tensor) -> Tensor:
        return x @ weight.conj().T

    plan = compiled("dualpipe", ranks=2, microbatches=4)
    agree(*compare(plan, (conjugate, product), once, torch.complex128))


def test_two_parameters_over_one_memory_move_once() -> None:
    plan = compiled("interleaved_1f1b", ranks=2, microbatches=4)
    modules = [tied_stages(plan, rank) for rank in (0, 1)]
    last: Any = modules[1]["main", 3]
    again: Any = modules[1]["main", 1]
    again.twin = nn.Parameter(last.head.weight.detach())
    again.tied = {"twin": "embedding"}
    run = tied_run(plan, modules, steps=3)
    alone = OneProcess(spec_of(plan)).steps(3)
    for holder in (last.head.weight, again.twin, *run.holders()):
        assert near(holder.detach(), alone.weight.detach()) and near(holder.grad, alone.weight.grad)


def test_a_parameter_twice_in_a_stage() -> None:
    """One object under two names, of which the declared one may be either."""
    plan = compiled("one_f_one_b", ranks=2, microbatches=4)
    modules = [tied_stages(plan, rank, more=(1,)) for rank in (0, 1)]
    tied_run(plan, modules)
    alone = OneProcess(spec_of(plan), (1,)).steps()
    for own in modules:
        for holder in own.values():
            for name in getattr(holder, "tied", {}):
                assert near(holder.get_parameter(name).grad, alone.weight.grad)


def test_a_sparse_embedding_and_a_dense_head() -> None:
    plan = compiled("one_f_one_b", ranks=2, microbatches=4)
    modules = [tied_stages(plan, rank) for rank in (0, 1)]
    first: Any = modules[0]["main", 0]
    first.embedding.sparse = True

    def body(executor: Executor, _: Any) -> None:
        x, target = tokens(spec_of(plan))
        executor.step(x, target=target)
        executor.step(x, target=target)

    tied_run(plan, modules, body=body)
    alone = OneProcess(spec_of(plan))
    alone.backward()
    alone.backward()
    last: Any = modules[1]["main", 1]
    assert near(first.embedding.weight.grad, alone.weight.grad)
    assert torch.equal(first.embedding.weight.grad, last.head.weight.grad)


@pytest.mark.parametrize("both", [True, False], ids=["shared", "own"])
def test_copies_of_a_rank_may_share_their_parameters(both: bool) -> None:
    """In the middle of an odd number of ranks both copies of a stage are on one."""
    spec = random_order(both_ways(3, 6), Random(0))
    plan = plan_of(spec)
    modules = [built(spec, rank, double) for rank in range(3)]
    if both:
        modules[1]["up", 1] = share(modules[1]["down", 1], modules[1]["up", 1])
    x, target = batch(spec, torch.float64)

    def rank(transport: Local) -> Any:
        own = modules[transport.rank]
        executor = Executor(plan, own, loss, transport=transport, timeout=20.0)
        losses: dict[str, list[Tensor]] = {}
        output = executor.step(x, target=target, losses=losses)
        executor.close()
        assert len(list(executor.parameters())) == (6 if both and executor.rank == 1 else 12)
        return output, losses, len(executor.owned_parameters())

    results = run_local(plan, rank)
    assert sum(found[2] for found in results) == 3 * 6, "each of the model once"
    check(spec, Trained(modules, [r[0] for r in results], [r[1] for r in results]), x, target)


def share(module: nn.Module, other: nn.Module) -> nn.Module:
    """The other one, with the parameters of the first."""
    for name, parameter in module.named_parameters():
        path, _, leaf = name.rpartition(".")
        setattr(other.get_submodule(path), leaf, parameter)
    return other


# Random models ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(24))
def test_random_ties_of_random_models(seed: int) -> None:
    """Several pipelines, copies, feeds, frozen models; ties of any stages, of one model or of
    several; on a rank one object or some."""
    random = Random(1000 + seed)
    spec = random_model(random)
    while spec.slices or len(originals(spec)) < 3:
        spec = random_model(random)
    spec = random_order(spec, random, pairs=0.3)
    plan = plan_of(spec)
    left = random.sample(originals(spec), len(originals(spec)))
    groups = [left[:2], left[2 : 2 + random.randint(0, 3)]]
    class_of = {seed_of(spec, *stage): k for k, group in enumerate(groups) for stage in group}
    ties = {
        f"tie {k}": [(spec.pipelines[p].name, s, "up.weight") for p, s in group]
        for k, group in enumerate(groups)
        if len(group) > 1
    }

    def maker(chance: float) -> Callable[[int], nn.Module]:
        """One object for each class, or with a chance another."""
        kept: dict[int, nn.Parameter] = {}

        def make(number: int) -> nn.Module:
            made: Any = double(number)
            k = class_of.get(number)
            if k is not None and len(groups[k]) > 1:
                values = double(-1 - k).get_parameter("up.weight").detach()
                if k not in kept or random.random() < chance:
                    kept[k] = nn.Parameter(values.clone())
                made.up.weight = kept[k]
            return made

        return make

    modules = [built(spec, rank, maker(0.5)) for rank in range(spec.ranks)]
    x, target = batch(spec, torch.float64, seed)

    def rank(transport: Local) -> int:
        own = modules[transport.rank]
        executor = Executor(plan, own, loss, transport=transport, timeout=20.0, ties=ties)
        executor.step(x, target=target)
        executor.step(x, target=target)
        executor.close()
        return len(executor.owned_parameters())

    owned = sum(run_local(plan, rank))
    assert owned == 6 * len(originals(spec)) - sum(len(group) - 1 for group in groups if group)
    expected = one_process(spec, x, target, maker(0.0)).gradients
    for own in modules:
        for (name, s), module in own.items():
            p = next(k for k, line in enumerate(spec.pipelines) if line.name == name)
            for (what, q), wanted in zip(module.named_parameters(), expected[p, s], strict=True):
                assert (q.grad is None) == (wanted is None), (name, s, what)
                if q.grad is not None and wanted is not None:
                    assert torch.allclose(q.grad, 2 * wanted, rtol=1e-10, atol=1e-13), (s, what)


def originals(spec: Spec) -> list[tuple[int, int]]:
    """The stages that copy no other."""
    return [
        (p, s)
        for p, line in enumerate(spec.pipelines)
        if line.replicates < 0
        for s in range(len(line.stages))
    ]
