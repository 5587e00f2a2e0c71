"""Whether a step did what one process would have done. One rank runs the same step alone
(`reference`), adding each stage's gradients in the order of the plan, those of every copy by
themselves and then the copies in the order of the reduction; losses and gradients must then be
equal bit for bit.

What this assumes of the user's modules: the same input and the same weights give the same output,
whenever it is. Dropout does not.
"""

from collections.abc import Callable, Iterator, Sequence
from math import isnan
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from stretto.compiler.plan.plan import Plan
from stretto.runtime.errors import PipelineError
from stretto.runtime.executor import Executor
from stretto.runtime.given import step_arguments
from stretto.runtime.stage.from_user import Loss, loss_of
from stretto.runtime.ties import doubt_of
from stretto.runtime.topology import StageGraph, StageId
from stretto.runtime.train.gather import Gathered, gather
from stretto.runtime.train.reference import Batch, Losses, Reference
from stretto.runtime.train.separate import separate
from stretto.runtime.train.tied_reference import GradientList, add, rank_orders

ROUNDING = 1e-3  # of gradients: a greater difference does not come from the order of sums
LAYOUT = """\
  so little is rounding: do outputs of stages have strides of their own (transposed, permuted,
  expanded)? A tensor that travels arrives contiguous, and sums over it may go another way; let the
  stage end in .contiguous(). Dropout, and other numbers of threads, do it too"""


class StageDifference(NamedTuple):
    """One stage: `greatest`, the greatest absolute difference of its gradients from those of one
    process that adds in the plan's order, and `parameter`, where that is; `plain`, that of these
    from those of one that adds in the order of the micro-batches; `equal` bit for bit."""

    stage: str
    equal: bool
    greatest: float
    parameter: str
    plain: float


class Verdict(NamedTuple):
    """`losses` and `unequal_losses` count; `weights` names copies that did not start equal;
    `causes` says why there may be a difference, `notes` what is equal and still not as in one
    process that takes the whole batch at once; `untied` what starts with the same values, and is
    compared as parameters of their own. As text, what `--verify` prints."""

    stages: tuple[StageDifference, ...]
    losses: int
    unequal_losses: int
    weights: tuple[str, ...]
    causes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    untied: str = ""

    @property
    def equal(self) -> bool:
        """Whether the step was that of one process."""
        return (
            all(stage.equal for stage in self.stages)
            and not self.unequal_losses
            and not self.weights
        )

    def __str__(self) -> str:
        lines = ["verify: the same step in one process, gradients added in the plan's order"]
        for stage in self.stages:
            told = "equal" if stage.equal else f"differ {_by(stage)} in {stage.parameter}"
            lines.append(
                f"  {stage.stage}: gradients {told}; from plain micro-batch order {stage.plain:.3g}"
            )
        lines += [f"  {difference}" for difference in self.weights]
        if self.untied:
            lines.append(f"  not tied: {self.untied}")
        if self.unequal_losses:
            lines.append(f"  {self.unequal_losses} of {self.losses} losses differ")
        if self.equal:
            lines.append(
                f"  {self.losses} losses and all gradients are equal, bit for bit{_as_here(self)}"
            )
        else:
            lines.append("  this is not what one process computes")
            lines += [f"  likely cause: {cause}" for cause in self.causes]
            if (
                not self.causes
                and 0 < max((s.greatest for s in self.stages), default=0.0) < ROUNDING
            ):
                lines.append(LAYOUT)
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)


def _as_here(verdict: Verdict) -> str:
    """Equal to what, where a model that ties them would have other gradients."""
    return ", to those of a model in which these are not tied" if verdict.untied else ""


def _by(stage: StageDifference) -> str:
    """How much; no difference in numbers is one between zeros and no gradient at all."""
    return f"by {stage.greatest:.3g}" if stage.greatest else "(zeros here, none there)"


def verify(
    executor: Executor,
    plan: Plan | None,
    build: Callable[[StageId], nn.Module],
    loss_fn: Loss,
    x: Any,
    target: Any,
    losses: dict[str, list[Tensor]],
    **step: Any,
) -> Verdict | None:
    """Takes one step on every rank, gradients cleared before; on rank 0 takes it alone as well,
    with modules that `build` makes for each stage, and returns what it found (elsewhere None).

    `plan` is needed on rank 0 alone, x and target there and wherever a step needs them (x may be
    `Arguments`); `losses` is filled as by the step, and `step` has further keywords for it, given
    on rank 0 also where they are for stages of others. Raises `PipelineError`, and `MissingKeys`
    where a rank does not come.
    """
    graph = executor.plan.graph
    if executor.context.groups:
        raise PipelineError(
            "verify runs the model in one process, where the other processes of `collectives` are "
            "not: verify a model that holds all of its experts, without `collectives`"
        )
    before = gather(executor, {stage: _weights(executor, stage) for stage in executor.stages})
    for stage in executor.stages.values():
        stage.module.zero_grad(set_to_none=True)
    executor.step(x, target=target, losses=losses, return_outputs=False, **step)
    after = gather(executor, {stage: _found(executor, stage) for stage in executor.stages})
    for name, found in losses.items():
        executor.peers.store.post(f"verify/{name}", [loss.double().item() for loss in found])
    executor.peers.store.post(f"verify/threads/{executor.rank}", torch.get_num_threads())
    for cut in executor.context.chains:
        executor.peers.store.post(f"verify/parts/{cut}", _part_users(executor, cut))
    if executor.rank:
        return None
    assert plan is not None
    theirs: Losses = {
        p: executor.peers.wait([f"verify/{graph.spec.pipelines[p].name}"])[0]
        for p in graph.judged()
    }
    modules = separate(executor, build)
    for own, module in modules.items():
        _load(module, before[own])
    batch = Batch(step_arguments(x, target, step), loss_fn, executor.batching, _scale(executor))
    reference = Reference(graph, modules, batch)
    cuts = graph.stages if graph.spec.parts else ()
    users = {cut: executor.peers.wait([f"verify/parts/{cut}"])[0] for cut in cuts}
    ours = reference.step(rank_orders(plan), users)
    verdict = Verdict(
        tuple(_compare(plan, reference, after, stage) for stage in _originals(graph)),
        sum(len(found) for found in theirs.values()),
        sum(
            a != b and not (isnan(a) and isnan(b))
            for p in theirs
            for a, b in zip(theirs[p], ours[p], strict=True)
        ),
        tuple(_unequal_copies(graph, plan, before)),
    )
    judges = {p: loss_of(graph, p, loss_fn) for p in graph.originals()}
    several = step.get("weight_total") is not None
    notes = tuple(reference.observed.notes(reference.microbatches, judges, several))
    causes = () if verdict.equal else tuple(_causes(executor, reference, verdict.stages))
    return verdict._replace(causes=causes, notes=notes, untied=doubt_of(executor.peers))


def _causes(
    executor: Executor, reference: Reference, stages: Sequence[StageDifference]
) -> Iterator[str]:
    """What may have made the difference: what was seen of the modules, and what the ranks say of
    themselves."""
    yield from reference.observed.causes()
    keys = [f"verify/threads/{rank}" for rank in range(executor.world)]
    threads = executor.peers.wait(keys)
    others = [rank for rank, many in enumerate(threads) if many != threads[0]]
    if others:
        yield (
            f"rank {others[0]} computes with {threads[others[0]]} threads, and rank 0, which is "
            f"the one process too, with {threads[0]}: sums are cut by threads. Set "
            "OMP_NUM_THREADS alike"
        )
    differing = {stage.parameter for stage in stages if not stage.equal}
    graph = executor.plan.graph
    for tie in executor.plan.spec.ties:
        places = [f"`{name}` of `{graph.label(StageId(p, s))}`" for p, s, name in tie.places]
        if differing & {place.replace("`", "") for place in places}:
            yield (
                f"{', '.join(places)} are one parameter: what its places add, and in which order, "
                "the plan and one process must say alike"
            )


def _scale(executor: Executor) -> float:
    """By which a scaler multiplies the losses."""
    return 1.0 if executor.scaler is None else executor.scaler.get_scale()


# What the plan says -----------------------------------------------------------------------------


def _originals(graph: StageGraph) -> Iterator[StageId]:
    """The stages that copy no other, of models that learn."""
    learning = {graph.original(p) for p, q in enumerate(graph.spec.pipelines) if not q.forward_only}
    for stage in graph.in_order():
        if graph.original(stage.pipeline) == stage.pipeline and stage.pipeline in learning:
            yield stage


def _copies(plan: Plan, stage: StageId) -> list[StageId]:
    """The copies of the stage in the order of the reduction; itself alone where there is none."""
    for reduction in plan.programs["train"].reductions:
        found = [StageId(copy.pipeline, copy.stage) for copy in reduction.copies]
        if stage in found:
            return found
    return [stage]


# What the ranks have ----------------------------------------------------------------------------


def _weights(executor: Executor, stage: StageId) -> list[Tensor | None]:
    module = executor.stages[stage].module
    return [tensor.detach().clone() for tensor in [*module.parameters(), *module.buffers()]]


def _part_users(executor: Executor, stage: StageId) -> list[list[int]]:
    """For each parameter of the stage the parts that use it."""
    users = executor.context.chains[stage].sums.users
    parameters = executor.stages[stage].module.parameters()
    return [sorted(users.get(id(parameter), ())) for parameter in parameters]


def _found(executor: Executor, stage: StageId) -> list[Tensor | None]:
    gradients = [parameter.grad for parameter in executor.stages[stage].module.parameters()]
    return [None if g is None else _dense(g) for g in gradients]


def _load(module: nn.Module, weights: Sequence[Tensor | None]) -> None:
    tensors = [*module.parameters(), *module.buffers()]
    if [t.shape for t in tensors] != [None if w is None else w.shape for w in weights]:
        raise PipelineError(
            "verify: the model builds another module for rank 0 than for the others"
        )
    with torch.no_grad():
        for tensor, contents in zip(tensors, weights, strict=True):
            assert contents is not None
            tensor.copy_(contents)


# Comparing --------------------------------------------------------------------------------------


def _compare(plan: Plan, reference: Reference, after: Gathered, stage: StageId) -> StageDifference:
    graph, copies = reference.graph, _copies(plan, stage)
    names = [name for name, _ in reference.modules[stage].named_parameters()]
    total: GradientList = [None] * len(names)
    for copy in copies:
        add(total, reference.copies.get(copy, total))
    plain = list(reference.plain.get(stage, [None] * len(names)))
    reference.tied.put(stage, total, plain)
    worst, where, equal = -1.0, "", True
    for copy in copies:
        for name, ours, theirs in zip(names, total, after[copy], strict=True):
            if not _same(ours, theirs):
                equal = False
                gap = _gap(ours, theirs)
                if not gap <= worst:
                    worst, where = gap, f"{name} of {graph.label(copy)}"
    away = max((_gap(a, b) for a, b in zip(total, plain, strict=True)), default=0.0)
    return StageDifference(graph.label(stage), equal, max(worst, 0.0), where, away)


def _unequal_copies(graph: StageGraph, plan: Plan, before: Gathered) -> Iterator[str]:
    for reduction in plan.programs["train"].reductions:
        first, *others = [StageId(copy.pipeline, copy.stage) for copy in reduction.copies]
        for copy in others:
            if not all(map(_same, before[first], before[copy])):
                a, b = graph.label(first), graph.label(copy)
                yield f"{b} did not start with the weights of {a}"


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    """Whether they are equal bit for bit; NaN, of training that diverged, equals NaN."""
    if a is None or b is None:
        return a is b
    a, b = _dense(a).cpu(), _dense(b).cpu()
    return a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())


def _gap(a: Tensor | None, b: Tensor | None) -> float:
    """The greatest absolute difference; no gradient counts as zeros."""
    if a is None and b is None:
        return 0.0
    a = torch.zeros_like(b) if a is None and b is not None else a
    b = torch.zeros_like(a) if b is None and a is not None else b
    assert a is not None and b is not None
    a, b = _dense(a), _dense(b)
    return (a.cpu().double() - b.cpu().double()).abs().max().item() if a.numel() else 0.0


def _dense(gradient: Tensor) -> Tensor:
    """An embedding's, with `sparse=True`, as an ordinary tensor."""
    return gradient.to_dense() if gradient.is_sparse else gradient
