"""What a slice of a micro-batch leaves for the next ones of its stage, as attention's keys and
values. In comes what a stage's forward returned beside its output; out come, for each later slice,
leaves with the same contents, and back from their backwards the gradients, which are added into
this slice's own backward in the order in which they come: the last slice's first.

A stage takes part by its forward: `forward(…, carried) -> (output, carry)`. `carried` is a tuple of
what the earlier slices of the micro-batch have left, the first one's first; `carry` may be a tensor
or nested containers of tensors."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from stretto.runtime.batch import mapped, tensors
from stretto.runtime.errors import PipelineError
from stretto.runtime.stage.keywords import keywords_of
from stretto.runtime.stage.private import Versions, writable

KEYWORD = "carried"


class SliceLeft(NamedTuple):
    """What one slice has left: `value`, without its graph; of each tensor in it the edge at which
    its gradient is taken (None: it has none), and the sum of the gradients that have come back."""

    value: Any
    edges: list[GradientEdge | None]
    gradients: list[Tensor | None]
    versions: Versions


class CarriedLeaf(NamedTuple):
    """A tensor as a later slice has used it: a leaf, and which of whose tensors it is."""

    leaf: Tensor
    left: SliceLeft
    place: int


class CarriedEdges(NamedTuple):
    """What the backward of a slice has to do besides its own: further roots with their gradients,
    and further leaves whose gradients go to earlier slices."""

    roots: tuple[GradientEdge, ...] = ()
    gradients: tuple[Tensor, ...] = ()
    used: tuple[CarriedLeaf, ...] = ()

    @property
    def leaves(self) -> tuple[Tensor, ...]:
        """The leaves alone."""
        return tuple(used.leaf for used in self.used)

    def give_back(self, found: tuple[Tensor | None, ...]) -> None:
        """Adds the leaves' gradients to those of the tensors that they stand for."""
        for (_, left, place), gradient in zip(self.used, found, strict=True):
            if gradient is not None:
                before = left.gradients[place]
                left.gradients[place] = gradient if before is None else before + gradient


@dataclass(slots=True)
class SliceMemory:
    """What the slices of a stage's micro-batches have left; `count` slices to each. Slices are
    numbered through: slice k of micro-batch m is `m * count + k`."""

    count: int
    name: str
    left: dict[int, list[SliceLeft]] = field(default_factory=dict)  # by micro-batch
    used: dict[int, list[CarriedLeaf]] = field(default_factory=dict)  # by slice

    def carried(self, number: int, learn: bool) -> tuple[Any, ...]:
        """What slice `number` is given of the earlier ones; call it with gradients enabled where a
        backward follows (`learn`). Raises `PipelineError` where a module has written on it."""
        found, used = [], self.used.setdefault(number, [])
        for k, left in enumerate(self.left.get(number // self.count, ())):
            if left.versions.changed():
                raise PipelineError(
                    f"what slice {k} of `{self.name}` left was changed in place by a later one: "
                    "let each slice return tensors of its own"
                )
            places = iter(range(len(left.edges)))

            def handed(tensor: Tensor, left: SliceLeft = left, places: Any = places) -> Tensor:
                at = next(places)
                leaf = tensor.detach()
                if learn and left.edges[at] is not None:
                    used.append(CarriedLeaf(leaf.requires_grad_(), left, at))
                return writable(leaf)

            found.append(mapped(handed, left.value))
        return tuple(found)

    def parted(self, number: int, made: Any, learn: bool) -> Any:
        """The output among what the module returned; keeps the rest for later slices. Raises
        `PipelineError` where it is not two things."""
        if not isinstance(made, tuple | list) or len(made) != 2:
            raise PipelineError(
                f"`{self.name}` was given a slice and returned a {type(made).__name__}: a forward "
                f"with `{KEYWORD}` returns (output, carry), `carry` being what the later slices "
                "need; () where they need nothing"
            )
        output, carry = made
        edges = [
            get_gradient_edge(tensor) if learn and tensor.requires_grad else None
            for tensor in tensors(carry)
        ]
        value = mapped(Tensor.detach, carry)
        own = SliceLeft(value, edges, [None] * len(edges), Versions(tensors(value)))
        before = self.left.setdefault(number // self.count, [])
        before.append(own)
        if (number + 1) % self.count == 0:  # no slice comes that would need the values
            self.left[number // self.count] = [left._replace(value=None) for left in before]
            if not learn:
                self._end(number)
        return output

    def edges(self, number: int) -> CarriedEdges:
        """For the backward of slice `number`; those of later slices are over."""
        own = self.left[number // self.count].pop()
        pairs = zip(own.edges, own.gradients, strict=True)
        there = [(e, g) for e, g in pairs if e is not None and g is not None]
        used = self.used.pop(number, [])
        if number % self.count == 0:
            self._end(number)
        return CarriedEdges(tuple(e for e, _ in there), tuple(g for _, g in there), tuple(used))

    def _end(self, number: int) -> None:
        first = number // self.count * self.count
        self.left.pop(number // self.count, None)
        for k in range(first, first + self.count):
            self.used.pop(k, None)

    def forget(self) -> None:
        """Drops what a step that failed has left."""
        self.left.clear()
        self.used.clear()


def slice_memory(module: nn.Module, name: str, slices: int) -> SliceMemory | None:
    """For a stage of a plan with so many slices; None where micro-batches are not cut. Raises
    `PipelineError` where the module cannot run slices."""
    if not slices:
        return None
    accepted = keywords_of(module)
    if KEYWORD not in (*accepted.ordered, *accepted.others):
        raise PipelineError(
            f"the plan cuts micro-batches into {slices} slices, and `{name}`, a "
            f"{type(module).__name__}, does not say what a slice leaves for the next: let its "
            f"forward take `{KEYWORD}`, a tuple of what the earlier slices of the micro-batch have "
            "left (empty for the first), and return (output, carry), for instance the keys and "
            "values of its attention; a stage that looks at each position alone returns "
            "(output, ())"
        )
    return SliceMemory(slices, name)
