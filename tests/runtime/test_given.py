"""What a step is given and gives back, against one process that runs the same micro-batches."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.pipelining.microbatch import TensorChunkSpec, _Replicate

from stretto.runtime import Arguments, Executor, MicrobatchList, PipelineError, run_local
from stretto.runtime.containers import tensors
from stretto.runtime.topology import StageId
from stretto.runtime.train.verify import verify
from stretto.runtime.transport.local import Local
from tests.support.specs import linear, one_f_one_b, ordered, zb_h1
from tests.support.steps import double, executors
from tests.support.training import (
    WIDTH,
    batch,
    built,
    compiled,
    plan_of,
    spec_of,
    there,
)

PLAN = plan_of(ordered(linear(3, 4), zb_h1))
BOTH_WAYS = compiled("dualpipe", ranks=4, microbatches=8)
DRAW = torch.Generator().manual_seed(0)


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=DRAW, dtype=torch.float64)


class Stage(nn.Module):
    """Adds what it is given by name, each with a weight of its own."""

    def __init__(self, seed: int):
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH, dtype=torch.float64)
        draw = torch.Generator().manual_seed(seed)  # ranks are threads, and share the other one
        for parameter in self.layer.parameters():
            nn.init.normal_(parameter, std=0.5, generator=draw)
        self.seen: list[Any] = []

    def forward(
        self, x: Tensor, bias: Tensor | None = None, *, mask: Tensor | None = None, gain: Any = 1
    ) -> Tensor:
        self.seen.append((bias, mask, gain))
        y = torch.tanh(self.layer(x)) * gain
        y = y if bias is None else y + 2 * bias
        return y if mask is None else y * mask


class First(Stage):
    """A first stage takes more."""

    def forward(self, x: Any, *others: Any, scale: Any = 1, **kwargs: Any) -> Tensor:
        for k, other in enumerate(others, 2):
            x = x + k * other
        return super().forward(x * scale, **kwargs)


def make(seed: int) -> nn.Module:
    return First(seed) if seed % 100 == 0 else Stage(seed)


def loss(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().mean()


def gradients(found: list[Any], stages: int) -> list[list[Tensor]]:
    """By stage, of the first rank that has it."""
    by_stage: dict[int, list[Tensor]] = {}
    for modules in found:
        for (_, stage), module in modules.items():
            by_stage.setdefault(stage, [there(p.grad) for p in module.parameters()])
    return [by_stage[stage] for stage in range(stages)]


def stepped(plan: Any, take: Callable[[Executor], Any], **options: Any) -> tuple[list[Any], Any]:
    """`take(executor)` on each rank; the modules by rank, and what it gave."""

    def body(executor: Executor) -> Any:
        given = take(executor)
        return {tuple(at): stage.module for at, stage in executor.stages.items()}, given

    found = executors(plan, body, make=make, **{"loss_fn": loss, **options})
    return [modules for modules, _ in found], [given for _, given in found]


def one_process(
    stages: int,
    microbatches: list[tuple[Any, dict[str, Any], Any]],
    further: Callable[[int, int], dict[str, Any]] = lambda stage, m: {},
    judge: Callable[[Any, Any, int], Tensor] = lambda output, target, m: loss(output, target),
) -> tuple[list[list[Tensor]], Tensor]:
    """Gradients of `judge`, added over `(args, kwargs, target)` of micro-batches; the outputs."""
    modules = [make(seed) for seed in range(stages)]
    outputs = []
    for m, (args, kwargs, target) in enumerate(microbatches):
        x = modules[0](*args, **kwargs)
        for s, module in enumerate(modules[1:], 1):
            x = module(x, **further(s, m))
        outputs.append(x.detach())
        judge(x, target, m).backward()
    return [[there(p.grad) for p in module.parameters()] for module in modules], torch.cat(outputs)


def close(ours: list[list[Tensor]], theirs: list[list[Tensor]]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        for p, q in zip(a, b, strict=True):
            assert (p - q).abs().max() <= 1e-13 * q.abs().max()


def mean(count: int) -> Callable[[Any, Any, int], Tensor]:
    return lambda output, target, m: loss(output, target) / count


# Arguments ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("plan", [PLAN, BOTH_WAYS], ids=["zb_h1", "dualpipe"])
def test_arguments_and_keywords_go_to_the_first_stage_and_by_name_to_others(plan: Any) -> None:
    """The call is the same on every rank, as with torch's schedules; `scale` is the first stage's
    alone, `mask` every stage's."""
    count, stages = (4, 3) if plan is PLAN else (8, 4)
    a, b, target = (drawn(2 * count, WIDTH) for _ in range(3))
    scale, mask = drawn(2 * count, 1), drawn(2 * count, 1) > 0

    def take(executor: Executor) -> Any:
        return executor.step(a, b, target=target, scale=scale, mask=mask, gain=3)

    modules, outputs = stepped(plan, take)
    cut = zip(*(t.chunk(count) for t in (a, b, scale, mask, target)), strict=True)
    parts: list[Any] = [((x, y), {"scale": s, "mask": m, "gain": 3}, z) for x, y, s, m, z in cut]
    masks = mask.chunk(count)
    expected, output = one_process(
        stages, parts, lambda s, m: {"mask": masks[m], "gain": 3}, mean(count)
    )
    close(gradients(modules, stages), expected)
    if plan is PLAN:
        assert torch.allclose(outputs[2], output)
    else:
        assert torch.allclose(torch.cat([outputs[3], outputs[0]]), output)


def test_arguments_as_one_value_are_arguments_and_keywords() -> None:
    """What a function of data may return: the keywords reach later stages too."""
    a, b, mask, target = drawn(8, WIDTH), drawn(8, WIDTH), drawn(8, 1), drawn(8, WIDTH)
    told = []
    for args, kwargs in (((Arguments((a, b), {"mask": mask}),), {}), ((a, b), {"mask": mask})):

        def take(executor: Executor, args: Any = args, kwargs: Any = kwargs) -> Any:
            return executor.step(*args, target=target, **kwargs)

        told.append(stepped(PLAN, take)[1][2])
    assert torch.equal(told[0], told[1])
    with pytest.raises(PipelineError, match="mask stands in x and among the keywords too"):
        stepped(PLAN, lambda e: e.step(Arguments((a,), {"mask": mask}), target=target, mask=mask))


def test_each_rank_may_be_given_its_own_keywords_as_torch_has_it() -> None:
    x, target, bias = drawn(8, WIDTH), drawn(8, WIDTH), drawn(8, WIDTH)

    def take(executor: Executor) -> Any:
        if executor.rank == 0:
            return executor.step(x)
        if executor.rank == 1:
            return executor.step(bias=bias, gain=2)
        return executor.step(target=target)

    modules, outputs = stepped(PLAN, take)
    biases = bias.chunk(4)
    parts: list[Any] = [((x,), {}, y) for x, y in zip(x.chunk(4), target.chunk(4), strict=True)]
    more = lambda s, m: {"bias": biases[m], "gain": 2} if s == 1 else {}  # noqa: E731
    expected, output = one_process(3, parts, more, mean(4))
    close(gradients(modules, 3), expected)
    assert torch.allclose(outputs[2], output)


def test_keywords_of_one_stage_are_given_by_its_number_or_pipeline() -> None:
    """With pipelines in both directions each takes its own micro-batches of them."""
    x, target, bias = (drawn(16, WIDTH) for _ in range(3))
    given: dict[Any, dict[str, Any]] = {
        2: {"bias": bias},
        ("down", 3): {"gain": 2},
        ("up", 3): {"gain": 2},
        0: {"scale": 3},
    }

    def take(executor: Executor) -> Any:
        return executor.step(x, target=target, stage_kwargs=given)

    modules, _ = stepped(BOTH_WAYS, take)
    biases = bias.chunk(8)

    def further(stage: int, m: int) -> dict[str, Any]:
        given: dict[int, dict[str, Any]] = {2: {"bias": biases[m]}, 3: {"gain": 2}}
        return given.get(stage, {})

    parts = [((x,), {"scale": 3}, y) for x, y in zip(x.chunk(8), target.chunk(8), strict=True)]
    expected, _ = one_process(4, parts, further, mean(8))
    close(gradients(modules, 4), expected)


def test_a_tensor_of_the_stage_before_goes_before_a_keyword_of_its_name() -> None:
    """The first stage takes `bias` by name and hands it on: the next has it from there."""

    class Hands(First):
        def forward(self, x: Tensor, bias: Tensor) -> Any:  # type: ignore[override]
            return super().forward(x), bias + 1

    x, target, bias = drawn(8, WIDTH), drawn(8, WIDTH), drawn(8, WIDTH)
    plan = plan_of(ordered(linear(2, 4), one_f_one_b))

    def build(seed: int) -> nn.Module:
        return Hands(seed) if seed == 0 else Stage(seed)

    def body(executor: Executor) -> Any:
        return executor.step(x, target=target, bias=bias)

    first, last = build(0), build(1)
    expected = last(*first(x, bias))
    output = executors(plan, body, make=build, loss_fn=loss)[1]
    assert torch.allclose(output, expected)


def test_what_a_single_argument_means() -> None:
    """A tuple is arguments, a mapping keywords, `Arguments` both; in a tuple, either is one."""
    a, b, target = drawn(8, WIDTH), drawn(8, WIDTH), drawn(8, WIDTH)

    class Last(nn.Module):
        def __init__(self, seed: int):
            super().__init__()
            self.layer = nn.Linear(WIDTH, WIDTH, dtype=torch.float64)

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            self.called = (args, kwargs)
            return self.layer(a[:2])

    plan = plan_of(ordered(linear(1, 4), one_f_one_b))

    def called(*args: Any, **kwargs: Any) -> Any:
        def body(executor: Executor) -> Any:
            executor.step(*args, target=target, **kwargs)
            (stage,) = executor.stages.values()
            return stage.module.called

        ((args, kwargs),) = executors(plan, body, make=Last, loss_fn=loss)
        return args, kwargs

    args, kwargs = called((a, b))
    assert len(args) == 2 and torch.equal(args[1], b[6:]) and not kwargs
    args, kwargs = called(OrderedDict(a=a, b=b), c=a)
    assert not args and torch.equal(kwargs["b"], b[6:]) and torch.equal(kwargs["c"], a[6:])
    args, kwargs = called(Arguments((a,), {"b": b}))
    assert torch.equal(args[0], a[6:]) and torch.equal(kwargs["b"], b[6:])
    args, kwargs = called(({"a": a},))
    assert torch.equal(args[0]["a"], a[6:]) and not kwargs
    args, kwargs = called((a, b), [a], c=a)
    assert type(args[0]) is tuple and type(args[1]) is list and set(kwargs) == {"c"}
    args, kwargs = called(MicrobatchList([(a[:2], {"b": b})] * 4))
    assert torch.equal(args[0], a[:2]) and torch.equal(args[1]["b"], b)
    args, kwargs = called(c=a)
    assert not args and torch.equal(kwargs["c"], a[6:])


@pytest.mark.parametrize("plan", [PLAN, BOTH_WAYS], ids=["zb_h1", "dualpipe"])
def test_verify_takes_all_that_a_step_takes(plan: Any) -> None:
    count = 4 if plan is PLAN else 8
    a, b, target, mask = (drawn(2 * count, WIDTH) for _ in range(4))
    more = {"stage_kwargs": {1: {"bias": mask}}, "gain": 2, "mask": mask}

    def build(stage: StageId) -> nn.Module:
        return make(stage.stage)

    def take(executor: Executor) -> Any:
        whole = plan if executor.rank == 0 else None
        return verify(executor, whole, build, loss, Arguments((a, b)), target, {}, **more)

    _, (verdict, *_) = stepped(plan, take)
    assert verdict.equal, str(verdict)

    def wrong(executor: Executor) -> Any:
        here = more | ({"gain": 3} if executor.rank == 1 else {})
        whole = plan if executor.rank == 0 else None
        return verify(executor, whole, build, loss, Arguments((a, b)), target, {}, **here)

    _, (verdict, *_) = stepped(plan, wrong)
    assert not verdict.equal


def test_chunk_specs_of_torch() -> None:
    """Sequence first, one tensor for all, and a target along another dimension."""
    x, table, target = drawn(3, 8, WIDTH), drawn(3, 1, WIDTH), drawn(3, 8, WIDTH)
    bias = drawn(8, 1)

    def take(executor: Executor) -> Any:
        return executor.step(x, table, target=target, stage_kwargs={1: {"bias": bias}}, gain=table)

    modules, outputs = stepped(
        PLAN,
        take,
        args_chunk_spec=(*TensorChunkSpec.from_tuple((1,)), _Replicate()),
        kwargs_chunk_spec={"gain": _Replicate},
        target_chunk_spec=TensorChunkSpec(1),
        stage_kwargs_chunk_spec={1: {"bias": TensorChunkSpec(0)}},
        output_merge_spec=TensorChunkSpec(1),
    )
    biases = bias.chunk(4)
    parts = [
        ((x, table), {"gain": table}, y)
        for x, y in zip(x.chunk(4, 1), target.chunk(4, 1), strict=True)
    ]
    more = lambda s, m: {"gain": table} | ({"bias": biases[m]} if s == 1 else {})  # noqa: E731
    expected, _ = one_process(3, parts, more, mean(4))
    close(gradients(modules, 3), expected)
    assert outputs[2].shape == (3, 8, WIDTH)


def test_specs_and_lists_of_several_models_are_given_by_pipeline() -> None:
    plan = compiled("two_models", ranks=2, microbatches=4)
    x, target = batch(spec_of(plan), torch.float64)
    first, second = x

    def outputs(x: Any, **options: Any) -> list[Any]:
        def body(executor: Executor) -> Any:
            return executor.step(x, target=target)

        return executors(plan, body, make=double, **options)

    expected = outputs(x)
    turned = outputs(
        {first: MicrobatchList(x[first].chunk(4)), second: Arguments((x[second],))},
        args_chunk_spec={second: (TensorChunkSpec(0),)},
        output_merge_spec={first: TensorChunkSpec(0)},
    )
    for ours, theirs in zip(turned, expected, strict=True):
        pairs = zip(tensors(ours), tensors(theirs), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    with pytest.raises(PipelineError, match="x has third, and this plan has"):
        outputs({first: x[first], "third": x[second]})
    with pytest.raises(PipelineError, match="args_chunk_spec as a dict by pipeline"):
        outputs(x, args_chunk_spec=(TensorChunkSpec(0),))


def test_an_input_that_wants_a_gradient_gets_it() -> None:
    x = drawn(8, WIDTH).requires_grad_()
    target = drawn(8, WIDTH)
    stepped(PLAN, lambda executor: executor.step(x, target=target))
    found, x.grad = there(x.grad), None
    modules = [make(seed) for seed in range(3)]
    loss(nn.Sequential(*modules)(x), target).backward()
    assert torch.allclose(found, there(x.grad), rtol=1e-11)


X, Y = drawn(8, WIDTH), drawn(8, WIDTH)
WRONG: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"target": Y[:4]}, {}, "x has 8 rows and target 4: all need the same length"),
    ({"target": Y, "mask": Y[:4]}, {}, "x has 8 rows and `mask` 4"),
    ({"target": Y, "stage_kwargs": {1: {"bias": Y[:4]}}}, {}, "`bias` of `main[1]` 4"),
    ({"target": Y, "stage_kwargs": {7: {}}}, {}, "there is no stage 7: the plan's pipelines have"),
    ({"target": Y, "stage_kwargs": {1: Y}}, {}, "stage_kwargs has a Tensor for 1: give a dict"),
    ({"target": Y, "losses": ()}, {}, "losses is a tuple: give a list or a dict to be filled"),
    ({"target": Y, "metrics": 3}, {}, "metrics is a int: give a list or a dict to be filled"),
    ({"target": "words"}, {}, "target holds no tensor that can be cut"),
    ({"target": MicrobatchList([Y] * 3)}, {}, "target is a list of 3 micro-batches, and the plan"),
    ({"target": Y}, {"args_chunk_spec": (TensorChunkSpec(2),)}, "asks for dimension 2"),
    ({"target": Y}, {"args_chunk_spec": (None, None)}, "args_chunk_spec has 2 entries, and x is"),
    ({"target": Y}, {"args_chunk_spec": 3}, "args_chunk_spec is a int: give a tuple"),
    ({"target": Y, "gain": 2}, {"kwargs_chunk_spec": {"mask": None}}, "they need the same names"),
    ({"target": Y}, {"target_chunk_spec": (None,)}, "the chunk spec of target is a tuple"),
    ({"target": Y, "weight_total": 0}, {}, "weight_total is 0, and micro-batches have weights"),
    ({"target": Y, "weight_total": 2}, {"scale_loss": False}, "weight_total scales the loss"),
    ({"target": Y}, {"scale_loss": lambda t: -1}, "the weight of micro-batch 0 is -1.0"),
    ({"target": Y}, {"scale_loss": lambda t: t}, "is a tensor of shape (2, 6): give a number"),
    ({"target": Y}, {"scale_loss": lambda t: t.sum() / 0}, "a weight is a finite number"),
]


@pytest.mark.parametrize(("given", "options", "words"), WRONG, ids=[w for _, _, w in WRONG])
def test_what_does_not_fit_is_refused_before_anything_is_sent(
    given: dict[str, Any], options: dict[str, Any], words: str
) -> None:
    ran = []

    def take(executor: Executor) -> Any:
        try:
            executor.step(X, **given)
        except PipelineError as error:
            ran.append(any(stage.module.seen for stage in executor.stages.values()))
            return str(error)
        raise AssertionError("it was not refused")

    _, told = stepped(PLAN, take, **options)
    assert any(words in message for message in told), told
    assert not any(ran)


def test_a_rank_in_the_middle_may_be_given_nothing_or_all_of_it() -> None:
    """In turns: the gradients of four steps are those of four that every rank was given."""
    plan = compiled("one_f_one_b", ranks=3, microbatches=4)
    spec = spec_of(plan)
    batches = [batch(spec, seed=seed) for seed in range(4)]
    found: dict[bool, list[list[torch.Tensor | None]]] = {}
    for everywhere in (True, False):
        modules = [built(spec, rank) for rank in range(3)]

        def rank(transport: Local, modules: Any = modules, all_of_it: bool = everywhere) -> None:
            own = transport.rank
            executor = Executor(plan, modules[own], loss, transport=transport, timeout=20)
            for number, (x, target) in enumerate(batches):
                given = (x,) if all_of_it or own == 0 or number == 2 else ()
                executor.step(*given, target=target if all_of_it or own == 2 else None)
            executor.close()

        run_local(plan, rank)
        found[everywhere] = [
            [p.grad for p in module.parameters()] for own in modules for module in own.values()
        ]
    for ours, theirs in zip(found[False], found[True], strict=True):
        assert all(there(a).equal(there(b)) for a, b in zip(ours, theirs, strict=True))
