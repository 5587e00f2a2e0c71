"""A stage run part by part: each part's forward, input gradient and weight gradient is an action of
its own, and together they are what the stage's would be, bit for bit.

The graph is cut between parts. Of what a part hands on, every tensor that carries a gradient is
detached: the next part is given a leaf in its place, and where the tensor stands in the graph of
the part that made it is kept as a *root*. A part's backward starts at all of its roots in one run,
with the gradients of the leaves that stand for them, and ends at its own leaves. So a tensor that
skips parts is handed through by them, and its gradient comes back the same way: what later parts
add to it comes first, as in the graph that is not cut.

What is under way is kept by micro-batch, never on the module."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from stretto.runtime.batch import mapped
from stretto.runtime.errors import PipelineError
from stretto.runtime.stage import split_backward
from stretto.runtime.stage.cut_nodes import EdgeGradient
from stretto.runtime.stage.engine import Gradients, Root
from stretto.runtime.stage.hooks import hooks_made
from stretto.runtime.stage.part_rules import (
    OWNER,
    PartRules,
    PartUse,
    look_through,
)
from stretto.runtime.stage.part_sums import SharedSums
from stretto.runtime.stage.parts import StagePart
from stretto.runtime.stage.precision import outside_autocast
from stretto.runtime.stage.private import Versions, writable
from stretto.runtime.stage.split_backward import DeferredWeightGrad
from stretto.runtime.stage.stage_module import (
    ForwardInput,
    ForwardOutput,
    Outputs,
    Result,
    SavedForward,
    StageModule,
    of_roots,
)

PartOf = tuple[int, int]
"""A micro-batch, and the place of a part in the chain."""


class HandedTo(NamedTuple):
    """What a part is called with: `leaves` are those of its tensors whose gradients are wanted;
    `alias` are those that share their memory with others among them. `given` is the stage's."""

    given: ForwardInput
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    leaves: Outputs
    alias: Versions


class CutTensors(NamedTuple):
    """What a part returned, as the next one is given it; and by tensor that carries a gradient its
    root here, and the leaf that stands for it there."""

    value: Any
    roots: tuple[GradientEdge, ...]
    leaves: Outputs
    alias: Versions


class PartChain:
    """The parts of `stage`, on its rank; `show(kind, microbatch, part)` is the notation of an
    operation. Micro-batches may be under way side by side, each at a part of its own."""

    def __init__(
        self,
        stage: StageModule,
        parts: Sequence[StagePart],
        rules: PartRules,
        show: Callable[[str, int, int], str],
    ):
        self.stage, self.parts, self.rules, self.show = stage, parts, rules, show
        self.handed: dict[int, HandedTo] = {}  # by micro-batch, to the part that is next
        self.saved: dict[PartOf, SavedForward] = {}
        self.above: dict[int, Gradients] = {}  # by micro-batch, for the part whose turn is next
        self.deferred: dict[PartOf, DeferredWeightGrad] = {}
        self.sums = SharedSums()

    def begin(self, given: ForwardInput) -> None:
        """The stage is given a micro-batch: its first part may run. Raises `PipelineError` where
        it is to learn and torch records nothing."""
        if given.learn and torch.is_inference_mode_enabled():
            raise PipelineError("nothing can be learned under torch.inference_mode()")
        leaves = tuple(tensor for tensor in given.given if tensor.requires_grad)
        with torch.set_grad_enabled(given.learn):
            args, kwargs = given.arguments()
        _own(leaves, given.microbatch, 0)
        self.handed[given.microbatch] = HandedTo(given, args, kwargs, leaves, Versions(()))

    def forward(self, microbatch: int, part: int) -> ForwardOutput | None:
        """F of a part. The last one returns what the stage gives. Raises `PipelineError` where the
        part does what parts must not do, and whatever it raises."""
        handed, own = self.handed.pop(microbatch), self.parts[part]
        given, last = handed.given, part == len(self.parts) - 1
        use = PartUse(f"`{self.show('F', microbatch, part)}`", own.stream)
        hooks = hooks_made()
        with torch.set_grad_enabled(given.learn), self.rules.watching(use):
            made = own.call(*handed.args, **handed.kwargs)
            if handed.alias.changed():
                raise PipelineError(
                    f"{use.part} writes in place on a tensor of which it was given another view: "
                    "the other does not change with it, as it would in the whole stage. Let it "
                    "write on a copy, or hand on one of the two"
                )
            if last:
                return self._ended(handed, made, use, hooks)
        with torch.set_grad_enabled(given.learn):
            cut = cut_between(made, given.learn)
        following = self.parts[part + 1].arguments(cut.value)
        self.handed[microbatch] = HandedTo(given, *following, cut.leaves, cut.alias)
        if given.learn:
            self._look(cut.roots, microbatch, part, use)
            _own(cut.leaves, microbatch, part + 1)
            self.saved[microbatch, part] = SavedForward(
                handed.leaves, cut.roots, hooks_before=hooks
            )
        return None

    def _ended(
        self, handed: HandedTo, output: Any, use: PartUse, hooks_before: int | None
    ) -> ForwardOutput:
        """The last part has run: the loss where there is one, and what goes to other stages."""
        stage, part = self.stage, len(self.parts) - 1
        given = handed.given._replace(given=handed.leaves)
        loss, criterion = None, stage.criterion(given)
        if criterion is not None:
            loss = criterion(output, given.target)
        made = stage.save(given, output, loss, criterion and criterion.metrics, hooks_before)
        if given.learn:
            saved = self.saved[given.microbatch, part] = stage.saved.pop(given.microbatch)
            self._look(split_backward.edges_of(saved.roots), given.microbatch, part, use)
        return made

    def _look(
        self, roots: Sequence[GradientEdge], microbatch: int, part: int, use: PartUse
    ) -> None:
        reached = look_through(roots, (microbatch, part), use, self.rules.parameters)
        self.sums.note(microbatch, part, reached)

    @outside_autocast
    def backward(self, microbatch: int, part: int, gradients: Result) -> Result | None:
        """B of a part, or an I that leaves nothing: `gradients` are those of the stage's outputs,
        for the last part. The first one returns those of what the stage was given."""
        saved = self.saved.pop((microbatch, part))
        roots, above = of_roots(saved, self._above(microbatch, part, gradients))
        with self.sums.aside(microbatch, part, last=True) as (edges, sums):
            found = whole((*edges, *roots), (*sums, *above), saved.inputs)
        return self._below(microbatch, part, found)

    @outside_autocast
    def input_gradient(self, microbatch: int, part: int, gradients: Result) -> Result | None:
        """I of a part: as `backward`, but leaves the parameters to `weight_gradient`."""
        saved = self.saved.pop((microbatch, part))
        start = of_roots(saved, self._above(microbatch, part, gradients))
        with self.sums.aside(microbatch, part, last=False) as seeds:
            found, deferred = split_backward.input_gradient(
                *start, saved.inputs, saved.hooks_before
            )
            whole(*seeds, ())
        self.deferred[microbatch, part] = deferred
        return self._below(microbatch, part, found)

    @outside_autocast
    def weight_gradient(self, microbatch: int, part: int) -> None:
        """W of a part: adds to the parameters' `.grad` what its I has left."""
        deferred = self.deferred.pop((microbatch, part))
        with self.sums.aside(microbatch, part, last=True) as seeds:
            deferred = split_backward.seeded(deferred, map(EdgeGradient, *seeds))
            split_backward.weight_gradient(deferred)

    def _above(self, microbatch: int, part: int, gradients: Result) -> Gradients:
        return gradients if part == len(self.parts) - 1 else self.above.pop(microbatch)

    def _below(self, microbatch: int, part: int, found: Gradients) -> Result | None:
        if part == 0:
            return found
        self.above[microbatch] = found
        return None

    def forget(self) -> None:
        """Drops what a step that failed has left."""
        for kept in (self.handed, self.saved, self.above, self.deferred, self.sums):
            kept.clear()


def whole(roots: Sequence[Root], gradients: Gradients, leaves: Outputs) -> Gradients:
    """B of a part: adds to the parameters' `.grad`, and returns the gradient of each leaf with the
    strides in which it comes, as in the uncut graph. (In the leaf's own `.grad` it would have the
    leaf's strides, and what sums over it next would do so in another order.)"""
    found: list[Tensor | None] = [None] * len(leaves)

    def catch(place: int, gradients: Gradients) -> None:
        (found[place],) = gradients

    hooks = [
        edge.node.register_prehook(partial(catch, place))
        for place, edge in enumerate(split_backward.edges_of(leaves))
    ]
    try:
        split_backward.whole(roots, gradients, leaves)
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(found)


def cut_between(made: Any, learn: bool) -> CutTensors:
    """Cuts the graph at what a part has `made`; to be called with gradients enabled where a
    backward follows. A tensor that stands there twice is one leaf."""
    roots: list[GradientEdge] = []
    leaves: list[Tensor] = []
    handed: dict[int, Tensor] = {}
    memory: dict[int, list[Tensor]] = {}
    alive: list[Tensor] = []

    def hand(tensor: Tensor) -> Tensor:
        if id(tensor) in handed:
            return handed[id(tensor)]
        alive.append(tensor)  # so that no other is given its `id`
        leaf = tensor.detach()
        if learn and tensor.requires_grad:
            roots.append(get_gradient_edge(tensor))
            leaves.append(leaf.requires_grad_())
        given = handed[id(tensor)] = writable(leaf)
        if tensor.layout == torch.strided:
            memory.setdefault(tensor.untyped_storage()._cdata, []).append(given)
        return given

    value = mapped(hand, made)
    alias = [tensor for alike in memory.values() if len(alike) > 1 for tensor in alike]
    return CutTensors(value, tuple(roots), tuple(leaves), Versions(alias))


def _own(leaves: Outputs, microbatch: int, part: int) -> None:
    for leaf in leaves:
        setattr(leaf, OWNER, (microbatch, part))
