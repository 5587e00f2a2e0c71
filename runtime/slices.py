"""Slices of micro-batches: pieces along the sequence, where a plan says so. In come a model's
micro-batches, as they are cut along their rows; out come the slices of all of them, one after
another, slice k of micro-batch m at place m * count + k. The way back joins what came of them."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stretto.compiler.program.program import Spec
from stretto.runtime.containers import MicrobatchList, items_of, mapped, rebuilt, tensors
from stretto.runtime.errors import PipelineError
from stretto.runtime.stage.judge import LossShare


def slicing_of(spec: Spec, dim: int, lengths: Sequence[int] | None) -> "Slicing | None":
    """How the plan's micro-batches are cut; None where they are not."""
    if not spec.slices:
        return None
    return Slicing(spec.slices, dim, None if lengths is None else tuple(lengths))


class Slicing(NamedTuple):
    """Into how many slices each micro-batch is cut, along which dimension, and their lengths (None:
    equal ones)."""

    number: int
    dim: int = 1
    lengths: tuple[int, ...] | None = None

    def starts(self, whole: int, label: str) -> list[tuple[int, int]]:
        """Start and length of each slice of a sequence. Raises `PipelineError`, naming it by
        `label`, where it does not divide."""
        if self.lengths is not None:
            if len(self.lengths) != self.number or sum(self.lengths) != whole:
                raise PipelineError(
                    f"slice_lengths has {len(self.lengths)} lengths with a sum of "
                    f"{sum(self.lengths)}, and {label} is cut into {self.number} slices of "
                    f"{whole} in all"
                )
            lengths = self.lengths
        elif whole % self.number or not whole:
            above = (whole // self.number + 1) * self.number
            raise PipelineError(
                f"{label} has a length of {whole} along dimension {self.dim}, which does not "
                f"divide into {self.number} slices: give it {above}, or make the executor with "
                f"slice_lengths=[…], {self.number} of them"
            )
        else:
            lengths = (whole // self.number,) * self.number
        return [(sum(lengths[:k]), length) for k, length in enumerate(lengths)]

    def cut(self, microbatches: Sequence[Any], label: str) -> list[Any]:
        """The slices of all micro-batches. Tensors without the dimension, or of length 1 there, and
        what is no tensor go to each slice. Raises `PipelineError` where lengths do not divide."""
        found: list[Any] = []
        for value in microbatches:
            length = self._length(value, label)
            places = self.starts(length, label) if length else []
            found += [
                mapped(partial(self._piece, places=places, k=k), value) for k in range(self.number)
            ]
        return found

    def check(self, needed: Sequence[tuple[str, Sequence[Sequence[Any]]]]) -> None:
        """Of each, a label and some things that hold a value for each micro-batch: whether one of
        these things is cut, and all that are have one length. Raises `PipelineError` where not."""
        lengths: dict[str, dict[int, int]] = {}
        for label, parts in needed:
            for part in parts:
                for m, value in enumerate(part):
                    length = self._length(value, label)
                    if lengths.setdefault(label, {}).setdefault(m, length) != length:
                        if lengths[label][m] and length:
                            raise self._unlike(label, {lengths[label][m], length})
                        lengths[label][m] = length or lengths[label][m]
            if any(parts) and not all(lengths.get(label, {0: 0}).values()):
                raise PipelineError(
                    f"{label} has no tensor with a dimension {self.dim}, along which this plan "
                    "cuts it into slices; slice_dim= of the executor says another"
                )
        for m in range(max((len(own) for own in lengths.values()), default=0)):
            if len({own[m] for own in lengths.values()}) > 1:
                raise self._unlike(" and ".join(lengths), {own[m] for own in lengths.values()})

    def parted(self, found: Sequence[LossShare]) -> list[LossShare]:
        """The share of each slice, of those of the micro-batches: by its length, so that the sum of
        the slices' losses is the micro-batch's mean."""
        own = self.lengths or ()
        weights = own if len(set(own)) > 1 else (1,) * self.number
        whole = sum(weights)
        return [LossShare(s.weight * w, s.total * whole) for s in found for w in weights]

    def _length(self, value: Any, label: str) -> int:
        """That of the sequence; 0 where nothing is cut."""
        lengths = {t.shape[self.dim] for t in tensors(value) if self._has(t)}
        if len(lengths) > 1:
            raise self._unlike(label, lengths)
        return lengths.pop() if lengths else 0

    def _unlike(self, label: str, lengths: set[int]) -> PipelineError:
        some = " and ".join(map(str, sorted(lengths)))
        return PipelineError(
            f"{label} has tensors of lengths {some} along dimension {self.dim}, along which this "
            "plan cuts it into slices: all need the same (those of length 1, or without that "
            "dimension, go to every slice whole); slice_dim= of the executor says another dimension"
        )

    def _has(self, tensor: Tensor) -> bool:
        return tensor.dim() > self.dim and tensor.shape[self.dim] != 1

    def _piece(self, tensor: Tensor, *, places: list[tuple[int, int]], k: int) -> Tensor:
        return tensor.narrow(self.dim, *places[k]) if places and self._has(tensor) else tensor

    # The way back -------------------------------------------------------------------------------

    def outputs(self, found: Mapping[int, Any]) -> dict[int, Any]:
        """The output of each micro-batch, of those of the slices: concatenated along the dimension;
        what has no such dimension is a list, unless all slices agree."""
        return {m: self._joined([found[k] for k in own]) for m, own in self._of(found)}

    def losses(self, found: Mapping[int, Tensor], shares: Sequence[LossShare]) -> dict[int, Tensor]:
        """The loss of each micro-batch: the mean of its slices', as they are weighted."""
        return {
            m: _mean([found[k] for k in own], [shares[k].weight for k in own])
            for m, own in self._of(found)
        }

    def shares(self, found: Sequence[LossShare]) -> list[LossShare]:
        """The share of each micro-batch: the sum of its slices'."""
        return [
            LossShare(sum(found[k].weight for k in own), found[own[0]].total)
            for _, own in self._of(dict(enumerate(found)))
        ]

    def _of(self, found: Mapping[int, Any]) -> list[tuple[int, range]]:
        first = sorted({number // self.number for number in found})
        return [(m, range(m * self.number, (m + 1) * self.number)) for m in first]

    def _joined(self, parts: list[Any]) -> Any:
        if all(isinstance(part, Tensor) and part.dim() > self.dim for part in parts):
            return torch.cat(parts, self.dim)
        held = [items_of(part) for part in parts]
        if all(items is not None and len(items) == len(held[0] or ()) for items in held):
            columns = zip(*([item for _, item in items or ()] for items in held), strict=True)
            return rebuilt(parts[0], [self._joined(list(column)) for column in columns])
        if not isinstance(parts[0], Tensor) and all(part == parts[0] for part in parts):
            return parts[0]
        return MicrobatchList(parts)


def _mean(losses: list[Tensor], weights: list[float]) -> Tensor:
    total = sum(weights)
    if not total:
        return torch.stack(losses).mean()
    there = [(loss, weight) for loss, weight in zip(losses, weights, strict=True) if weight]
    return torch.stack([loss * (weight / total) for loss, weight in there]).sum()
