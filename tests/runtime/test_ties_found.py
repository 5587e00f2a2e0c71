"""How ties are found: declared, told, shared in memory; and what only looks like one."""

import warnings
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stretto.compiler.plan.plan import Plan
from stretto.runtime import Executor, PipelineError, run_local
from stretto.runtime.transport.local import Local
from tests.support.tied import TiedStage, fresh, tied_stages, token_loss, tokens
from tests.support.training import Layer, Modules, compiled, spec_of

TWO = {"ranks": 2, "microbatches": 2}


def names_of_ties(plan: Plan, modules: list[Modules], **options: Any) -> list[list[list[str]]]:
    """The ties that the ranks find, which must be the same: by tie and holder the places."""

    def rank(transport: Local) -> Any:
        own = modules[transport.rank]
        executor = Executor(plan, own, token_loss, transport=transport, timeout=20.0, **options)
        executor.close()
        return executor.plan.spec.ties, executor.plan.hash

    first, *others = run_local(plan, rank)
    assert all(other == first for other in others)
    assert (first[1] == plan.hash) == (not first[0])
    pipelines = spec_of(plan).pipelines
    return [
        [[f"{pipelines[p].name}[{s}].{name}" for p, s, name in holder] for holder in tie.holders]
        for tie in first[0]
    ]


def stages(plan: Plan, **options: Any) -> list[Modules]:
    return [tied_stages(plan, rank, **options) for rank in range(spec_of(plan).ranks)]


def undeclared(plan: Plan, **options: Any) -> list[Modules]:
    found = stages(plan, **options)
    for own in found:
        for module in own.values():
            assert isinstance(module, TiedStage)
            module.tied = {}
    return found


def test_declared_by_modules() -> None:
    plan = compiled("one_f_one_b", **TWO)
    tie = [["main[0].embedding.weight"], ["main[1].head.weight"]]
    assert names_of_ties(plan, stages(plan)) == [tie]


def test_told_to_the_executor() -> None:
    plan = compiled("one_f_one_b", **TWO)
    tie = [["main[0].embedding.weight"], ["main[1].head.weight"]]
    for first, last in ((0, -1), (-2, 1)):
        told = {"any": [(first, "embedding.weight"), (last, "head.weight")]}
        assert names_of_ties(plan, undeclared(plan), ties=told) == [tie]
    with_pipeline = {"any": [("main", 0, "embedding.weight"), ("main", 1, "head.weight")]}
    assert names_of_ties(plan, undeclared(plan), ties=with_pipeline) == [tie]


def test_one_object_on_a_rank_ties_its_copies_on_others() -> None:
    """Rank 0 has them as one object; rank 1, with the same stages, as two."""
    plan = compiled("dualpipe", ranks=2, microbatches=4)
    modules = undeclared(plan)
    modules[1] = undeclared(plan, one_object=False)[1]
    assert names_of_ties(plan, modules) == [
        [
            ["down[0].embedding.weight", "up[1].head.weight"],
            ["up[0].embedding.weight"],
            ["down[1].head.weight"],
        ]
    ]


class Wrapper(nn.Module):
    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x)


def test_declared_within_a_wrapper() -> None:
    plan = compiled("one_f_one_b", **TWO)
    modules = [{key: Wrapper(m) for key, m in own.items()} for own in stages(plan)]
    wrapped: list[Modules] = [dict(own) for own in modules]
    (tie,) = names_of_ties(plan, wrapped)
    assert tie == [["main[0].module.embedding.weight"], ["main[1].module.head.weight"]]
    told = {"any": [(0, "embedding.weight"), (1, "head.weight")]}
    for own in modules:
        for wrapper in own.values():
            assert isinstance(wrapper.module, TiedStage)
            wrapper.module.tied = {}
    assert names_of_ties(plan, wrapped, ties=told) == [tie]


# Refused ----------------------------------------------------------------------------------------


def refused(plan: Plan, modules: list[Modules], **options: Any) -> str:
    with pytest.raises(PipelineError) as error:
        names_of_ties(plan, modules, **options)
    return str(error.value)


def module(own: Modules) -> TiedStage:
    (found,) = own.values()
    assert isinstance(found, TiedStage)
    return found


def test_what_is_declared_must_be_there() -> None:
    plan = compiled("one_f_one_b", **TWO)
    modules = stages(plan)
    module(modules[1]).tied = {"haed.weight": "embedding"}
    assert "`main[1]` has no parameter `haed.weight`" in (text := refused(plan, modules))
    assert "did you mean `head.weight`?" in text
    module(modules[1]).tied = {"mask": "embedding"}
    module(modules[1]).register_buffer("mask", torch.ones(2))
    assert "it is a buffer" in refused(plan, modules)
    wrong: list[Mapping[str, Any]] = [
        {"a": [(0, "embedding.weight"), (7, "head.weight")]},
        {"a": [("other", 0, "embedding.weight")]},
        {"a": [3]},
    ]
    modules = undeclared(plan)
    for told, words in zip(wrong, ("0 to 1, not 7", "is no place", "is no place"), strict=True):
        assert words in refused(plan, modules, ties=told)


def test_a_tie_of_one_place_is_none() -> None:
    plan = compiled("one_f_one_b", **TWO)
    modules = stages(plan)
    module(modules[1]).tied = {"head.weight": "another"}
    assert "and nothing else is" in refused(plan, modules)


def test_what_is_tied_is_alike() -> None:
    plan = compiled("one_f_one_b", **TWO)
    modules = stages(plan)
    module(modules[1]).head.weight.requires_grad_(False)
    assert "torch.float64 and frozen" in refused(plan, modules)
    module(modules[1]).head.weight = nn.Parameter(torch.ones(12, 8))
    assert "(11, 8) torch.float64, and `main[1].head.weight` is (12, 8)" in refused(plan, modules)


def test_ranks_are_told_the_same() -> None:
    plan = compiled("one_f_one_b", **TWO)
    modules = undeclared(plan)

    def rank(transport: Local) -> None:
        told = {"a": [(0, "embedding.weight"), (1, "head.weight")]} if transport.rank else None
        own = modules[transport.rank]
        Executor(plan, own, token_loss, transport=transport, timeout=20.0, ties=told)

    with pytest.raises(PipelineError, match="rank 1 was given other `ties` than rank 0"):
        run_local(plan, rank)


def test_overlapping_parameters_are_refused_and_neighbours_are_not() -> None:
    class Views(nn.Module):
        def __init__(self, a: Tensor, b: Tensor):
            super().__init__()
            self.a, self.b = nn.Parameter(a), nn.Parameter(b)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.a.sum() + self.b.sum()

    plan = compiled("gpipe", ranks=1, microbatches=2)

    def views(a: Tensor, b: Tensor) -> list[Modules]:
        return [{("main", 0): Views(a, b)}]

    whole = torch.randn(6, 4)
    assert names_of_ties(plan, views(whole[:3], whole[3:])) == []
    assert names_of_ties(plan, views(whole[:, :2], whole[:, 2:])) == []
    tie = [[["main[0].a"], ["main[0].b"]]]
    assert names_of_ties(plan, views(whole[1:4], whole[1:4])) == tie
    for a, b in (
        (whole[:3], whole[2:]),
        (whole[:, :3], whole[:, 2:]),
        (whole, whole.view(4, 6)),
        (whole, whole.view(torch.int32).view(torch.float32)[:2]),
    ):
        assert "`main[0].a` and `main[0].b` overlap" in refused(plan, views(a, b))


def test_ranks_in_one_process_share_nothing() -> None:
    plan = compiled("one_f_one_b", **TWO)
    weight = fresh()
    modules: list[Modules] = [{("main", s): TiedStage(s, 2, (), weight)} for s in (0, 1)]
    text = refused(plan, modules)
    assert "`main[0].embedding.weight` on rank 0 and `main[1].head.weight` on rank 1" in text
    assert "deepcopy" in text


def test_what_was_one_parameter_must_stay_one() -> None:
    plan = compiled("interleaved_1f1b", ranks=1, microbatches=2)
    modules = stages(plan)

    def rank(transport: Local) -> None:
        (own,) = modules
        executor = Executor(plan, own, token_loss, transport=transport, timeout=20.0)
        x, target = tokens(spec_of(plan))
        executor.step(x, target=target)
        first = own["main", 0]
        assert isinstance(first, TiedStage)
        first.embedding.weight = nn.Parameter(first.embedding.weight.detach().clone())
        executor.step(x, target=target)

    with pytest.raises(PipelineError, match="were one Parameter when the executor was made"):
        run_local(plan, rank)


# What looks like a tie --------------------------------------------------------------------------


class Head(TiedStage):
    """As a language model of transformers is, which knows that its head is tied."""

    _tied_weights_keys = ("head.weight",)
    config = SimpleNamespace(tie_word_embeddings=True, vocab_size=11)


def test_a_model_that_says_it_is_tied_is_refused_where_nothing_ties_it() -> None:
    plan = compiled("one_f_one_b", **TWO)
    modules = undeclared(plan)
    head = Head(1, 2, (), fresh()).double()
    head.tied = {}
    modules[1] = {("main", 1): head}
    text = refused(plan, modules)
    assert "`main[1].head.weight` should be tied, for its Head names it in `_tied_weights" in text
    assert "`ties={}` if they are not one" in text
    assert names_of_ties(plan, modules, ties={}) == []
    head.config = SimpleNamespace(tie_word_embeddings=False)
    with pytest.warns(UserWarning, match="start with the same values"):
        assert names_of_ties(plan, modules) == []


def configure(found: Any) -> None:
    found.config = Head.config


def test_a_configuration_that_says_so_is_refused_where_two_stages_have_its_table() -> None:
    plan = compiled("one_f_one_b", **TWO)
    modules = undeclared(plan)
    for own in modules:
        configure(module(own).block)  # as blocks of transformers are
    assert names_of_ties(plan, modules, ties={}) == []
    for own in modules:
        configure(module(own))
    text = refused(plan, modules)
    assert "`main[0].embedding.weight` and `main[1].head.weight` should be tied" in text


def test_equal_values_are_warned_of_unless_they_are_tied_or_the_user_says_no() -> None:
    plan = compiled("one_f_one_b", **TWO)
    with pytest.warns(UserWarning, match=r"`main\[0\].embedding.weight` and `main\[1\].head.we"):
        names_of_ties(plan, undeclared(plan))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        names_of_ties(plan, undeclared(plan), ties={})
        names_of_ties(plan, stages(plan))


def test_a_model_of_one_module_is_asked() -> None:
    """It is cut out of one module: what is one object there is tied across ranks."""
    plan = compiled("one_f_one_b", **TWO)
    weight = fresh()
    whole = {s: TiedStage(s, 2, (), weight).double() for s in (0, 1)}
    built: list[int] = []

    def build(pipeline: str, stage: int) -> nn.Module:
        assert pipeline == "main"
        built.append(stage)
        return whole[stage]

    tie = [["main[0].embedding.weight"], ["main[1].head.weight"]]
    assert names_of_ties(plan, undeclared(plan), build_stage=build) == [tie]
    assert sorted(built) == [0, 1]


def test_stages_of_one_seed_are_no_tie() -> None:
    plan = compiled("gpipe", **TWO)
    modules: list[Modules] = [{("main", s): Layer(3)} for s in (0, 1)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert names_of_ties(plan, modules, build_stage=lambda *_: Layer(3)) == []
    with pytest.warns(UserWarning, match="start with the same values"):
        names_of_ties(plan, modules)
