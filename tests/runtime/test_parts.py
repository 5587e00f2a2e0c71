"""A stage that is cut into parts, against the same stage in one graph: bit for bit."""

from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from stretto.runtime import PipelineError
from stretto.runtime.collectives import as_stream_group
from stretto.runtime.stage.own_weight_gradients import OwnWeightGradients
from stretto.runtime.stage.part_chain import PartChain
from stretto.runtime.stage.part_rules import PartRules
from stretto.runtime.stage.parts import ChainLink, PartName, declared_parts, stage_parts, uncut
from stretto.runtime.stage.stage_module import ForwardInput, StageModule
from stretto.runtime.topology import StageId
from tests.support.part_stages import MOE, WIDTH, Chained, Experts
from tests.support.ranks import run


def chain_of(module: nn.Module, streams: Callable[[str], str] = lambda _: "compute") -> PartChain:
    """The chain of a last stage with a loss."""
    links = [ChainLink(part, streams(part.name)) for part in declared_parts(module, "main[0]")]
    stage = StageModule(
        stage=StageId(0, 0),
        name="main[0]",
        module=module,
        sources=(StageId(0, 9),),
        gradient_senders=(),
        returns=True,
        sends=False,
        learns=True,
        loss=lambda output, target: (output - target).square().mean(),
        overlapped=None,
        own=OwnWeightGradients(),
    )
    return PartChain(
        stage,
        stage_parts(module, links, "main[0]"),
        PartRules({"main[0]": module}),
        lambda kind, m, part: f"{kind}.{links[part].part} main[0, {m}]",
    )


class Work:
    """The operations of some micro-batches of a chain, run in any order that their needs allow."""

    def __init__(self, chain: PartChain, x: Sequence[Tensor], target: Tensor, split: bool):
        self.chain, self.last = chain, len(chain.parts) - 1
        self.given = [
            ForwardInput(m, None, (t.detach().requires_grad_(),), target, True)
            for m, t in enumerate(x)
        ]
        self.split, self.found = split, dict[int, Any]()
        self.at: dict[int, tuple[str, int]] = dict.fromkeys(range(len(x)), ("F", 0))
        self.waiting: list[tuple[int, int]] = []  # W's
        self.order: list[int] = []  # of parameters' gradients

    def ready(self) -> list[tuple[str, int, int]]:
        return [(kind, m, part) for m, (kind, part) in self.at.items()] + [
            ("W", m, part) for m, part in self.waiting
        ]

    def run(self, kind: str, m: int, part: int) -> None:
        chain = self.chain
        if kind == "W":
            self.waiting.remove((m, part))
            chain.weight_gradient(m, part)
        elif kind == "F":
            if part == 0:
                chain.begin(self.given[m])
            made = chain.forward(m, part)
            assert (made is not None) == (part == self.last)
            self.at[m] = ("F", part + 1) if part < self.last else ("B", part)
        else:
            backward = chain.input_gradient if self.split else chain.backward
            found = backward(m, part, ())
            if self.split:
                self.waiting.append((m, part))
            if part:
                self.at[m] = ("B", part - 1)
            else:
                assert found is not None
                self.found[m] = found[0]
                del self.at[m]

    def run_all(self, draw: Random, mirrored: bool = False) -> None:
        """Gradients of parameters are added micro-batch after micro-batch; `mirrored`: those of one
        from the last part to the first."""
        while ready := self.ready():
            kind, m, part = draw.choice(ready)
            if kind != "F" and any(m > other for _, other, _ in ready):
                continue
            if mirrored and kind == "W" and (m, part) != self.waiting[0]:
                continue
            self.run(kind, m, part)


def whole(module: nn.Module, x: Sequence[Tensor], target: Tensor) -> list[Tensor | None]:
    """The gradients of inputs, by torch alone; those of parameters in `.grad`."""
    found = []
    for own in x:
        leaf = own.detach().requires_grad_()
        (uncut(module)(leaf) - target).square().mean().backward()
        found.append(leaf.grad)
    return found


def same(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return torch.equal(one, other)


@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize("seed", range(40))
def test_random_chains_are_the_uncut_graph(seed: int, split: bool) -> None:
    """Several micro-batches under way at once, all parts of both in a random order."""
    draw = Random(seed)
    many = draw.randint(1, 6)
    torch.manual_seed(seed)
    x = [torch.randn(4, WIDTH) for _ in range(3)]
    target = torch.randn(4, WIDTH)
    cut, plain = Chained(seed, many), Chained(seed, many)
    work = Work(chain_of(cut), x, target, split)
    work.run_all(draw)
    expected = whole(plain, x, target)
    for m, gradient in enumerate(expected):
        assert same(work.found[m], gradient), m
    for (name, one), other in zip(cut.named_parameters(), plain.parameters(), strict=True):
        assert same(one.grad, other.grad), name
    chain = work.chain
    assert not any((chain.handed, chain.saved, chain.above, chain.deferred))


@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize("seed", range(20))
def test_layers_that_several_parts_use(seed: int, split: bool) -> None:
    """What a micro-batch adds to them is one sum, in the order of the uncut graph."""
    x = [torch.randn(4, WIDTH) for _ in range(3)]
    target = torch.randn(4, WIDTH)
    cut, plain = (Chained(seed, 5, shared=True) for _ in range(2))
    work = Work(chain_of(cut), x, target, split)
    work.run_all(Random(seed), mirrored=True)
    expected = whole(plain, x, target)
    assert all(same(work.found[m], gradient) for m, gradient in enumerate(expected))
    for (name, one), other in zip(cut.named_parameters(), plain.parameters(), strict=True):
        assert same(one.grad, other.grad), name


def moe(rank: int, split: bool) -> list[bool]:
    """On one of two ranks that share experts: three micro-batches, parts in an order that is random
    and the same on both; and the whole layers, with the same tokens."""
    torch.manual_seed(rank)
    x = [torch.randn(9 + m, WIDTH) for m in range(3)]
    target = torch.zeros(())
    cut, plain = Experts(7 + rank, layers=2), Experts(7 + rank, layers=2)
    chain = chain_of(cut, lambda name: "comm" if name in ("dispatch", "combine") else "compute")
    with as_stream_group(dist.group.WORLD):
        work = Work(chain, x, target, split)
        work.run_all(Random(5))
        expected = whole(plain, x, target)
    pairs = [(work.found[m], gradient) for m, gradient in enumerate(expected)]
    pairs += [(p.grad, q.grad) for p, q in zip(cut.parameters(), plain.parameters(), strict=True)]
    return [same(one, other) and one is not None for one, other in pairs]


@pytest.mark.xdist_group("ranks")
@pytest.mark.parametrize("split", [True, False])
def test_experts_on_two_ranks_are_the_uncut_graph(split: bool) -> None:
    """Real all-to-alls, with as many tokens as come."""
    for found in run(2, moe, split).results:
        assert len(found) == 3 + 16 and all(found)


class Mistaken(nn.Module):
    """Two parts, and between them what `first` and `second` do."""

    parts = (("first", None), ("second", None))

    def __init__(self, first: Any, second: Any):
        super().__init__()
        self.one, self.two = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.does = {"first": first, "second": second}
        self.dice = torch.Generator()
        self.kept: Any = None

    def part(self, name: str, layer: None) -> Any:
        return partial(self.does[name], self)


def fails(first: Any, second: Any = lambda own, x: own.two(x)) -> str:
    chain = chain_of(Mistaken(first, second), lambda name: "compute" if name == "first" else "comm")
    with pytest.raises(PipelineError) as error:
        Work(chain, [torch.randn(3, WIDTH)], torch.zeros(()), split=True).run_all(Random(0))
    return str(error.value)


def keep(own: Any, x: Tensor) -> Tensor:
    own.kept = own.one(x)
    return x


def test_what_parts_must_not_do() -> None:
    found = fails(lambda own, x: own.one(x), lambda own, x: own.one(x))
    assert "`main[0].one.weight` is used by `F.first main[0, 0]` on stream `compute`" in found
    found = fails(lambda own, x: nn.functional.dropout(own.one(x)))
    assert "`F.first main[0, 0]` draws random numbers from the generator of the process" in found
    found = fails(keep, lambda own, x: own.two(x + own.kept))
    assert "`F.second main[0, 0]` uses a tensor that was not handed to it" in found
    found = fails(lambda own, x: (y := own.one(x), y[:2]), lambda own, y, z: own.two(y.mul_(2)))
    assert "writes in place on a tensor of which it was given another view" in found


def test_each_stream_may_have_a_generator() -> None:
    def draw(layer: str) -> Any:
        def part(own: Any, x: Tensor) -> Tensor:
            return getattr(own, layer)(x) * torch.rand(3, 1, generator=own.dice)

        return part

    found = fails(draw("one"), draw("two"))
    assert "draw from one generator" in found
    chain = chain_of(Mistaken(draw("one"), lambda own, x: own.two(x)))
    Work(chain, [torch.randn(3, WIDTH)], torch.zeros(()), split=True).run_all(Random(0))


def refused(module: Any, *chain: tuple[str, int | None]) -> str:
    links = [ChainLink(PartName(*one), "compute") for one in chain]
    with pytest.raises(PipelineError) as error:
        stage_parts(module, links, "main[2]")
    return str(error.value)


def test_a_chain_that_is_another_is_refused_with_the_first_difference() -> None:
    layers = Experts(0, layers=2)
    first = [(name, 0) for name in MOE]
    told = refused(layers, *first)
    assert "at place 4, behind `combine, layer 0`, the plan has no more" in told
    assert "`parts` of Experts has `attention, layer 1`" in told
    told = refused(layers, *first, *first)
    assert (
        "the plan has `attention, layer 0`, and `parts` of Experts has `attention, layer 1`" in told
    )
    told = refused(layers, ("embedding", None), *first)
    assert "at place 0, the plan has `embedding`" in told
    assert "does not say what they are" in refused(nn.Linear(2, 2), ("mlp", 0))
    wrong = nn.Linear(2, 2)
    wrong.parts, wrong.part = ["mlp", 3], print  # type: ignore[assignment]
    assert "has 3 at place 1" in refused(wrong, ("mlp", 0))


def test_tuples_are_arguments_where_so_many_are_taken() -> None:
    class Both(nn.Module):
        parts = (("pair", None), ("one", None), ("named", None))

        def part(self, name: str, layer: None) -> Any:
            return getattr(self, name)

        def pair(self, x: Tensor, y: Tensor) -> Any:
            return x, [y]

        def one(self, pair: Any) -> Any:
            x, (y,) = pair
            return {"y": y, "x": x}

        def named(self, *, x: Tensor, y: Tensor) -> Tensor:
            return x - y

    whole_stage = uncut(Both())
    assert torch.equal(whole_stage(torch.ones(2), torch.zeros(2)), torch.ones(2))
    assert uncut(nn.Linear(2, 2)).__class__ is nn.Linear
