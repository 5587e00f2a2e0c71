"""A cell of the table: a model with a feature, trained by a plan on ranks of its own, against one
process. What is found is one of four: equal (bit for bit), rounding (within a millionth of a
tensor's largest entry), refused (by a sentence of ours), wrong."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from stretto.compiler.driver import compile_file
from stretto.compiler.plan.plan import Plan
from stretto.compiler.problem.spec import Spec
from stretto.runtime import Executor, MicrobatchList, PipelineError, run_local
from stretto.runtime.transport.local import Local
from tests.models import oracle
from tests.models.zoo import Batch, Entry

Verdict = Literal["equal", "rounding", "refused", "wrong"]
ROWS = 2  # of a micro-batch
RANKS = 2


class Found(NamedTuple):
    """What came of a cell; `why` is the refusal's sentence, or what differs."""

    verdict: Verdict
    why: str = ""


class Tensors(NamedTuple):
    """What is compared, by a name that says what it is; None where there is no gradient."""

    by_name: dict[str, Tensor | None]


@dataclass(frozen=True)
class Feature:
    """What is done with a model beside plain steps. `change(stage)` is what both sides do to their
    stages, `ranks_only(stage)` what the ranks do to theirs alone. `alone` and `ranked` train and
    return what is to be compared. `expected`: what should be found; where it is "equal", rounding
    is taken too. `suits(entry)`: which models have it. `options(entry)`: keywords of the executor.
    `rebatch(batch, microbatches)`: another batch. `rounding`: how much of a tensor's largest entry
    a difference may be and still come from rounding."""

    name: str
    expected: Verdict
    alone: Callable[["Alone"], dict[str, Tensor | None]]
    ranked: Callable[["Ranked"], dict[str, Tensor | None]]
    change: Callable[[nn.Module], nn.Module] = lambda stage: stage
    ranks_only: Callable[[nn.Module], nn.Module] = lambda stage: stage
    options: Callable[[Entry], dict[str, Any]] = lambda _: {}
    suits: Callable[[Entry], bool] = lambda _: True
    rebatch: Callable[[Batch, int], Batch] = lambda batch, _: batch
    rounding: float = 1e-6


class Alone(NamedTuple):
    """One process: all stages, and in which order the plan adds."""

    entry: Entry
    stages: list[nn.Module]
    order: oracle.Orders
    batch: Batch

    def step(self, **more: Any) -> oracle.Alone:
        """One step's gradients."""
        return oracle.step(self.stages, self.entry, self.batch, self.order, **more)

    def named(self, gradients: oracle.Gradients) -> dict[str, Tensor | None]:
        """Gradients as they are compared."""
        return {f"{s}.{n}": g for s, stage in enumerate(gradients) for n, g in stage.items()}

    def put(self, gradients: oracle.Gradients) -> None:
        """Gives every parameter its gradient, added to what is there."""
        for stage, found in zip(self.stages, gradients, strict=True):
            for name, parameter in stage.named_parameters():
                parameter.grad = found[name]

    def parameters(self) -> list[nn.Parameter]:
        """Every parameter once."""
        return list({id(p): p for stage in self.stages for p in stage.parameters()}.values())

    def weights(self) -> dict[str, Tensor | None]:
        """Those of all stages, by name."""
        return {
            f"{s}.{n}": p.detach().clone()
            for s, stage in enumerate(self.stages)
            for n, p in stage.named_parameters()
        }


class Ranked(NamedTuple):
    """One rank: its executor and the modules by (pipeline, stage)."""

    entry: Entry
    executor: Executor
    modules: dict[tuple[str, int], nn.Module]
    batch: Batch

    def step(self, **more: Any) -> Any:
        """One step on the batch."""
        if self.batch.every_stage:
            more["stage_kwargs"] = self._every_stage()
        x, target = _given(self.batch.x), _given(self.batch.target)
        return self.executor.step(x, target=target, **more)

    def _every_stage(self) -> dict[Any, Any]:
        spec = self.executor.plan.spec
        stages = [(p.name, s) for p in spec.pipelines for s in range(len(p.stages))]
        every = {name: _given(value) for name, value in self.batch.every_stage.items()}
        return dict.fromkeys(stages, every)

    def evaluate(self) -> Any:
        """The forwards alone."""
        more: dict[str, Any] = {}
        if self.batch.every_stage:
            more["stage_kwargs"] = self._every_stage()
        x, target = _given(self.batch.x), _given(self.batch.target)
        return self.executor.eval(x, target=target, **more)

    def gradients(self) -> dict[str, Tensor | None]:
        """Those of this rank; of a stage that it has twice the copies' are told apart."""
        return {
            f"{s}.{n} {pipeline}": p.grad
            for (pipeline, s), module in self.modules.items()
            for n, p in module.named_parameters()
        }

    def parameters(self) -> list[nn.Parameter]:
        """Every parameter once."""
        return list({id(p): p for m in self.modules.values() for p in m.parameters()}.values())

    def weights(self) -> dict[str, Tensor | None]:
        """Those of this rank, as `gradients`."""
        return {
            f"{s}.{n} {pipeline}": p.detach()
            for (pipeline, s), module in self.modules.items()
            for n, p in module.named_parameters()
        }


def _given(value: Any) -> Any:
    """A list is one of micro-batches."""
    return MicrobatchList(value) if isinstance(value, list) else value


@cache
def plan_of(schedule: str) -> Plan:
    """The plan of a schedule of the library, at the table's size."""
    return compile_file(schedule, ranks=RANKS, microbatches=4)


def spec_of(plan: Plan) -> Spec:
    """What the plan is of."""
    return next(iter(plan.programs.values())).spec


def run(schedule: str, entry: Entry, feature: Feature) -> Found:
    """Runs one cell."""
    plan = plan_of(schedule)
    spec, order = spec_of(plan), oracle.orders(plan)
    batch = feature.rebatch(entry.batch(ROWS * order.microbatches), order.microbatches)
    stages = [feature.change(stage) for stage in entry.build(order.stages)]
    expected = feature.alone(Alone(entry, stages, order, batch))
    built = [_modules(spec, rank, entry, feature, order.stages) for rank in range(spec.ranks)]

    def rank(transport: Local) -> dict[str, Tensor | None]:
        mine = built[transport.rank]
        options: Any = {"timeout": 30.0, **feature.options(entry)}
        executor = Executor(plan, mine, entry.loss, transport=transport, **options)
        found = feature.ranked(Ranked(entry, executor, mine, batch))
        executor.close()
        return found

    try:
        results = run_local(plan, rank)
    except PipelineError as error:
        return Found("refused", str(error))
    except Exception as error:
        return Found("wrong", f"{type(error).__name__}: {error}")
    return compare(expected, results, feature.rounding)


def _modules(
    spec: Spec, rank: int, entry: Entry, feature: Feature, stages: int
) -> dict[tuple[str, int], nn.Module]:
    """A rank's stages: of the stages of one model on it those that share a parameter share it."""
    found = {}
    for pipeline in spec.pipelines:
        own = entry.build(stages)
        for s, stage in enumerate(pipeline.stages):
            if stage.rank == rank:
                found[pipeline.name, s] = feature.ranks_only(feature.change(own[s]))
    return found


def compare(
    expected: dict[str, Tensor | None],
    found: Sequence[dict[str, Tensor | None]],
    rounding: float,
) -> Found:
    """The worst of all comparisons; a rank's names may end in a blank and its copy's name."""
    worst = Found("equal")
    seen = set()
    for rank, tensors in enumerate(found):
        for name, ours in tensors.items():
            plain = name.removeprefix("_orig_mod.").partition(" ")[0]
            seen.add(plain)
            verdict = _one(expected[plain], ours, rounding)
            if verdict.verdict == "wrong":
                return Found("wrong", f"{name} on rank {rank} {verdict.why}")
            if verdict.verdict == "rounding":
                worst = verdict
    missing = expected.keys() - seen
    return Found("wrong", f"no rank has {min(missing)}") if missing else worst


def _one(theirs: Tensor | None, ours: Tensor | None, rounding: float) -> Found:
    if theirs is None or ours is None:
        same = theirs is None and ours is None
        return Found("equal") if same else Found("wrong", "is there where the other is not")
    if torch.equal(theirs, ours):
        return Found("equal")
    if theirs.shape != ours.shape or theirs.dtype != ours.dtype:
        return Found("wrong", f"is {ours.dtype} {tuple(ours.shape)}")
    gap = (theirs.double() - ours.double()).abs().max().item()
    scale = theirs.double().abs().max().item()
    verdict: Verdict = "rounding" if gap <= rounding * scale else "wrong"
    return Found(verdict, f"differs by {gap:.2g} of {scale:.2g}")
