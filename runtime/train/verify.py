"""Whether a step did what one process would have done. One rank runs the same step alone: the whole
model by plain autograd, micro-batch after micro-batch, with nothing overlapped and nothing split.
It adds each stage's gradients in the order of the plan, those of every copy by themselves and then
the copies in the order of the reduction; losses and gradients must then be equal bit for bit.

What this assumes of the user's modules: the same input and the same weights give the same output,
whenever it is. Dropout does not.
"""

from collections.abc import Callable, Sequence
from math import isnan
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from stretto.compiler.plan.plan import Plan
from stretto.compiler.program.program import Compute, Spec
from stretto.runtime.batch import arguments, pieces
from stretto.runtime.errors import Stopped
from stretto.runtime.executor import Executor
from stretto.runtime.microbatches import of_stream
from stretto.runtime.stage.from_user import Loss, loss_of
from stretto.runtime.tensor_spec import flat
from stretto.runtime.topology import (
    Place,
    downwards,
    ends_in_loss,
    original,
    place_in_words,
    sources,
    together,
)
from stretto.runtime.train.gather import Gathered, gather

Gradients = list[Tensor | None]
Losses = dict[int, list[float]]
ROUNDING = 1e-3  # of gradients: what is more is no matter of the order of sums
LAYOUT = """\
  so little is rounding: do outputs of stages have strides of their own (transposed, permuted,
  expanded)? A tensor that travels arrives contiguous, and sums over it may go another way; let the
  stage end in .contiguous(). Dropout, and other numbers of threads, do it too"""


class Difference(NamedTuple):
    """One stage: the greatest absolute difference of its gradients from those of one process that
    adds in the plan's order, and of these from those of one that adds in the order of the
    micro-batches; the parameter where the first is greatest; `equal` bit for bit."""

    stage: str
    equal: bool
    greatest: float
    parameter: str
    plain: float


class Verdict(NamedTuple):
    """`losses` and `unequal_losses` count; `weights` names copies that did not start equal."""

    stages: tuple[Difference, ...]
    losses: int
    unequal_losses: int
    weights: tuple[str, ...]

    @property
    def equal(self) -> bool:
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
        lines += [f"  {words}" for words in self.weights]
        if self.unequal_losses:
            lines.append(f"  {self.unequal_losses} of {self.losses} losses differ")
        if self.equal:
            lines.append(f"  {self.losses} losses and all gradients are equal, bit for bit")
        else:
            lines.append("  this is not what one process computes")
            if 0 < max((s.greatest for s in self.stages), default=0.0) < ROUNDING:
                lines.append(LAYOUT)
        return "\n".join(lines)


def _by(stage: Difference) -> str:
    """How much; no difference in numbers is one between zeros and no gradient at all."""
    return f"by {stage.greatest:.3g}" if stage.greatest else "(zeros here, none there)"


def verify(
    executor: Executor,
    plan: Plan | None,
    build: Callable[[Place], nn.Module],
    loss_fn: Loss,
    x: Any,
    target: Any,
    losses: dict[str, list[Tensor]],
) -> Verdict | None:
    """Takes one step on every rank, gradients cleared before; on rank 0 takes it alone as well,
    with modules that `build` makes for each place, and returns what it found (elsewhere None).
    `plan` is needed on rank 0 alone, x and target there and wherever a step needs them; `losses` is
    filled as by the step."""
    spec = executor.part.spec
    before = gather(executor, {place: _weights(executor, place) for place in executor.stages})
    for stage in executor.stages.values():
        stage.module.zero_grad(set_to_none=True)
    executor.step(x, target=target, losses=losses, return_outputs=False)
    after = gather(executor, {place: _found(executor, place) for place in executor.stages})
    for name, found in losses.items():
        executor.board.post(f"verify/{name}", [loss.double().item() for loss in found])
    if executor.rank:
        return None
    assert plan is not None
    theirs = {
        p: executor.board.wait([f"verify/{spec.pipelines[p].name}"], executor.timeout)[0]
        for p in range(len(spec.pipelines))
        if _ends_in_loss(spec, p)
    }
    modules = {place: _loaded(build(place), before[place]) for place in downwards(spec)}
    alone = Alone(spec, modules, loss_fn, x, target, executor.scale_loss)
    ours = alone.step(_orders(plan))
    return Verdict(
        tuple(_compare(spec, plan, alone, after, place) for place in _originals(spec)),
        sum(len(found) for found in theirs.values()),
        sum(
            a != b and not (isnan(a) and isnan(b))
            for p in theirs
            for a, b in zip(theirs[p], ours[p], strict=True)
        ),
        tuple(_unequal_copies(spec, plan, before)),
    )


# One process ------------------------------------------------------------------------------------


class Alone:
    """The step in one process. `copies` has each place's own gradients, added in the order of the
    plan, `plain` those of each original, over all its copies, by micro-batch."""

    def __init__(
        self,
        spec: Spec,
        modules: dict[Place, nn.Module],
        loss_fn: Loss,
        x: Any,
        target: Any,
        scale: bool,
    ):
        self.spec, self.modules, self.loss_fn, self.scale = spec, modules, loss_fn, scale
        self.x = {p: self._cut(x, p, "x") for p in range(len(spec.pipelines))}
        self.target = {p: self._cut(target, p, "target") for p in range(len(spec.pipelines))}
        self.copies: dict[Place, Gradients] = {}
        self.plain: dict[Place, Gradients] = {}

    def step(self, orders: dict[Place, list[int]]) -> Losses:
        """`orders` has by place the micro-batches in the order in which the plan adds their
        gradients. Returns the losses by pipeline."""
        waiting: dict[Place, dict[int, Gradients]] = {place: {} for place in self.modules}
        left = {place: orders.get(place, [])[::-1] for place in self.modules}
        losses: Losses = {}
        for group in _groups(self.spec):
            for m in range(max(self.spec.pipelines[p].microbatches for p in group)):
                for place, gradients in self._microbatch(group, m, losses).items():
                    own = Place(original(self.spec, place.pipeline), place.stage)
                    _add(self.plain.setdefault(own, [None] * len(gradients)), gradients)
                    waiting[place][m] = gradients
                    while left[place] and left[place][-1] in waiting[place]:
                        following = waiting[place].pop(left[place].pop())
                        _add(self.copies.setdefault(place, [None] * len(gradients)), following)
        return losses

    def _microbatch(self, group: Sequence[int], m: int, losses: Losses) -> dict[Place, Gradients]:
        outputs: dict[Place, Any] = {}
        roots = []
        members = [place for place in self.modules if place.pipeline in group]
        members = [p for p in members if m < self.spec.pipelines[p.pipeline].microbatches]
        for place in members:
            args, kwargs = self._arguments(place, m, outputs)
            with torch.set_grad_enabled(not self.spec.pipelines[place.pipeline].forward_only):
                outputs[place] = self.modules[place](*args, **kwargs)
            if ends_in_loss(self.spec, place):
                p = place.pipeline
                judge = loss_of(self.spec, p, self.loss_fn)
                assert judge is not None
                loss = judge(outputs[place], self.target[p][m])
                losses.setdefault(p, []).append(loss.detach().double().item())
                divisor = together(self.spec, p) if self.scale else 1
                if loss.requires_grad:
                    roots.append(loss / divisor if divisor > 1 else loss)
        learning = [p for p in members if not self.spec.pipelines[p.pipeline].forward_only]
        parameters = {place: list(self.modules[place].parameters()) for place in learning}
        wanted = [q for place in learning for q in parameters[place] if q.requires_grad]
        learns = bool(roots and wanted)  # not where all is frozen
        found = iter(torch.autograd.grad(roots, wanted, allow_unused=True) if learns else ())
        return {
            place: [next(found, None) if q.requires_grad else None for q in parameters[place]]
            for place in learning
        }

    def _arguments(
        self, place: Place, m: int, outputs: dict[Place, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        x = self.x[place.pipeline]
        args, kwargs = arguments(x[m]) if place.stage == 0 and x else ((), {})
        given = [
            tensor
            for source in sources(self.spec, place)
            for tensor in flat(outputs[source], place_in_words(self.spec, source))
        ]
        return (*args, *given), kwargs

    def _cut(self, whole: Any, pipeline: int, what: str) -> Sequence[Any]:
        given = of_stream(self.spec, whole, pipeline, what)
        if given is None:
            return ()
        own = self.spec.pipelines[pipeline]
        cut = pieces(given, together(self.spec, pipeline), what)
        return cut[own.first : own.first + own.microbatches]


def _groups(spec: Spec) -> list[list[int]]:
    """Pipelines that feed each other, together; in the order of their micro-batches."""
    group = {p: {p} for p in range(len(spec.pipelines))}
    for p, pipeline in enumerate(spec.pipelines):
        for q, _ in pipeline.feeds:
            merged = group[p] | group[q]
            group.update(dict.fromkeys(merged, merged))
    found = {tuple(sorted(members)) for members in group.values()}
    return sorted(map(list, found), key=lambda members: spec.pipelines[members[0]].first)


def _add(total: Gradients, more: Gradients) -> None:
    """As autograd accumulates."""
    for k, gradient in enumerate(more):
        if gradient is not None:
            before = total[k]
            total[k] = gradient.clone() if before is None else before.add_(gradient)


# The plan's side --------------------------------------------------------------------------------


def _orders(plan: Plan) -> dict[Place, list[int]]:
    """By place the micro-batches in the order in which their weight gradients are added."""
    found: dict[Place, list[int]] = {}
    for instructions in plan.programs["train"].ranks:
        for instruction in instructions:
            if isinstance(instruction, Compute) and instruction.operation.kind in "BW":
                _, p, s, m, *_ = instruction.operation
                found.setdefault(Place(p, s), []).append(m)
    return found


def _originals(spec: Spec) -> list[Place]:
    return [
        place
        for place in downwards(spec)
        if original(spec, place.pipeline) == place.pipeline
        and any(
            not pipeline.forward_only
            for p, pipeline in enumerate(spec.pipelines)
            if original(spec, p) == place.pipeline
        )
    ]


def _ends_in_loss(spec: Spec, pipeline: int) -> bool:
    return ends_in_loss(spec, Place(pipeline, len(spec.pipelines[pipeline].stages) - 1))


def _copies(spec: Spec, plan: Plan, place: Place) -> list[Place]:
    """The copies of the stage in the order of the reduction; alone where there is none."""
    for reduction in plan.programs["train"].reductions:
        found = [Place(copy.pipeline, copy.stage) for copy in reduction.copies]
        if place in found:
            return found
    return [place]


def _weights(executor: Executor, place: Place) -> list[Tensor | None]:
    module = executor.stages[place].module
    return [tensor.detach().clone() for tensor in [*module.parameters(), *module.buffers()]]


def _found(executor: Executor, place: Place) -> list[Tensor | None]:
    gradients = [parameter.grad for parameter in executor.stages[place].module.parameters()]
    return [None if g is None else _dense(g) for g in gradients]


def _loaded(module: nn.Module, weights: Sequence[Tensor | None]) -> nn.Module:
    tensors = [*module.parameters(), *module.buffers()]
    if [t.shape for t in tensors] != [None if w is None else w.shape for w in weights]:
        raise Stopped("verify: the model builds another module for rank 0 than for the others")
    with torch.no_grad():
        for tensor, contents in zip(tensors, weights, strict=True):
            assert contents is not None
            tensor.copy_(contents)
    return module


def _compare(spec: Spec, plan: Plan, alone: Alone, after: Gathered, place: Place) -> Difference:
    copies = _copies(spec, plan, place)
    names = [name for name, _ in alone.modules[place].named_parameters()]
    total: Gradients = [None] * len(names)
    for copy in copies:
        _add(total, alone.copies.get(copy, total))
    plain = alone.plain.get(place, [None] * len(names))
    worst, where, equal = -1.0, "", True
    for copy in copies:
        for name, ours, theirs in zip(names, total, after[copy], strict=True):
            if not _same(ours, theirs):
                equal = False
                gap = _gap(ours, theirs)
                if not gap <= worst:
                    worst, where = gap, f"{name} of {place_in_words(spec, copy)}"
    away = max((_gap(a, b) for a, b in zip(total, plain, strict=True)), default=0.0)
    return Difference(place_in_words(spec, place), equal, max(worst, 0.0), where, away)


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    """Two that are no number, of training that has come apart, are equal."""
    if a is None or b is None:
        return a is b
    a, b = _dense(a).cpu(), _dense(b).cpu()
    return a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())


def _dense(gradient: Tensor) -> Tensor:
    """An embedding's, with `sparse=True`, as an ordinary tensor."""
    return gradient.to_dense() if gradient.is_sparse else gradient


def _gap(a: Tensor | None, b: Tensor | None) -> float:
    if a is None and b is None:
        return 0.0
    a = torch.zeros_like(b) if a is None and b is not None else a
    b = torch.zeros_like(a) if b is None and a is not None else b
    assert a is not None and b is not None
    a, b = _dense(a), _dense(b)
    return (a.cpu().double() - b.cpu().double()).abs().max().item() if a.numel() else 0.0


def _unequal_copies(spec: Spec, plan: Plan, before: Gathered) -> list[str]:
    told = []
    for reduction in plan.programs["train"].reductions:
        first, *others = [Place(copy.pipeline, copy.stage) for copy in reduction.copies]
        for copy in others:
            if not all(map(_same, before[first], before[copy])):
                a, b = place_in_words(spec, first), place_in_words(spec, copy)
                told.append(f"{b} did not start with the weights of {a}")
    return told
