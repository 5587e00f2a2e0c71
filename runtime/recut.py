"""Micro-batches of a step that is given what the step before was, but for the numbers in it. In
come its arguments; out come its micro-batches, of which the tensors alone are new. How they are
cut, what each pipeline and stage takes and how losses are judged is the same for all such steps,
and is found out once. Nothing of a batch is kept."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stretto.compiler.program.program import ProgramName
from stretto.runtime.batch import Arguments
from stretto.runtime.given import BatchOptions, StepArguments
from stretto.runtime.microbatches import PipelineMicrobatches
from stretto.runtime.topology import StageGraph

TensorKind = tuple[torch.Size, torch.dtype] | None
"""Shape and type of a tensor; None where none is given."""

Kinds = tuple[TensorKind, TensorKind] | tuple[()]
"""Those of x and of the target; empty where a step is given nothing."""


class _Known(NamedTuple):
    """A pipeline's micro-batches without x and target, and whether there were such."""

    rest: PipelineMicrobatches
    x: bool
    target: bool


class StepMicrobatches(NamedTuple):
    """Those of every pipeline; `alike`: they differ in their numbers alone from what the program
    was given last."""

    of: dict[int, PipelineMicrobatches]
    alike: bool


class Recut:
    """Of one rank's steps, by program."""

    def __init__(self, graph: StageGraph, options: BatchOptions):
        default = BatchOptions()._replace(
            ragged=options.ragged, output_merge_spec=options.output_merge_spec
        )
        self.graph = graph
        self.simple = (  # one tensor is one batch, and every micro-batch counts as it is long
            len(graph.originals()) == 1
            and not graph.spec.slices
            and options._replace(scale_loss=True) == default
            and isinstance(options.scale_loss, bool)
        )
        self.last: dict[ProgramName, tuple[Kinds, dict[int, _Known]]] = {}

    def again(self, name: ProgramName, given: StepArguments) -> StepMicrobatches | None:
        """Those of a step that is given what the last one of the program was; None of another."""
        known = self.last.get(name)
        if known is None or known[0] != self._kinds(given):
            return None
        kinds, last = known
        found = {p: own.rest for p, own in last.items()}
        if kinds:
            order = sorted(found, key=lambda p: self.graph.spec.pipelines[p].first)
            lengths = [length for p in order for length in found[p].lengths]
            x = _pieces(given.args[0] if kinds[0] else None, lengths)
            target, first = _pieces(given.target, lengths), 0
            for p in order:
                part = slice(first, first + len(found[p].lengths))
                first = part.stop
                found[p] = found[p]._replace(
                    x=[Arguments((piece,), {}) for piece in x[part]] if last[p].x else (),
                    target=target[part] if last[p].target else (),
                )
        return StepMicrobatches(found, True)

    def learn(
        self, name: ProgramName, given: StepArguments, found: dict[int, PipelineMicrobatches]
    ) -> StepMicrobatches:
        """Those of a step that was cut in another way."""
        kinds = self._kinds(given)
        self.last.pop(name, None)
        if kinds is not None:
            self.last[name] = (
                kinds,
                {
                    p: _Known(own._replace(x=(), target=()), bool(own.x), bool(own.target))
                    for p, own in found.items()
                },
            )
        return StepMicrobatches(found, False)

    def _kinds(self, given: StepArguments) -> Kinds | None:
        """None for what is not one tensor x and one tensor target, or one of them, or nothing."""
        if given.are_none:
            return ()
        args, kwargs, target, of_stages, of_loss, total = given
        if not self.simple or kwargs or of_stages or of_loss or total is not None or len(args) > 1:
            return None
        x = args[0] if args else None
        if not (_is_batch(x) and _is_batch(target)):
            return None
        return _kind(x), _kind(target)


def _is_batch(value: Any) -> bool:
    return value is None or (
        type(value) is Tensor
        and value.layout is torch.strided
        and not value.is_nested
        and value.dim() > 0
    )


def _kind(value: Tensor | None) -> TensorKind:
    return None if value is None else (value.shape, value.dtype)


def _pieces(value: Tensor | None, lengths: Sequence[int]) -> list[Tensor]:
    return [] if value is None else list(value.split(list(lengths)))
