"""What parts on several streams must not do, since it would make results depend on timing: share a
parameter, to whose gradient two streams would add at once; draw random numbers from the generator
of the process; use another part's tensors otherwise than by what that handed on. In comes what a
part does as it runs; out comes a `PipelineError` that names it."""

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node

from stretto.runtime.errors import PipelineError

OWNER = "_stretto_part"
"""An attribute of the leaves that a part is given: which part of which micro-batch that is."""


class PartUse(NamedTuple):
    """Who uses something, in words, and on which stream."""

    part: str
    stream: str

    def __str__(self) -> str:
        return f"{self.part} on stream `{self.stream}`"


class ParameterUse:
    """Which parameters the parts of one rank's stages use, over all steps; `names` has all of the
    rank, by their `id`."""

    def __init__(self, names: Mapping[int, str]):
        self.names = names
        self.parameters: dict[int, PartUse] = {}

    def note(self, tensor: Tensor, use: PartUse) -> bool:
        """Whether it is a parameter. Raises `PipelineError` where parts of another stream use it
        too."""
        name = self.names.get(id(tensor))
        other = self.parameters.setdefault(id(tensor), use) if name else use
        if other.stream != use.stream:
            raise PipelineError(
                f"`{name}` is used by {other} and by {use}: two streams would add to its gradient "
                "at once. A parameter belongs to parts of one stream: let another part of that "
                "stream do what needs it"
            )
        return name is not None


def look_through(
    roots: Sequence[GradientEdge], mine: object, use: PartUse, used: ParameterUse
) -> list[Tensor]:
    """Walks the graph that a part has made from its `roots`; returns the parameters that it uses.
    `mine` is what the leaves carry that the part was given. Raises `PipelineError` where it reaches
    a parameter of another stream, or what another part was given."""
    seen: set[Node] = set()
    found = []
    todo = [root.node for root in roots]
    while todo:
        node = todo.pop()
        if node in seen:
            continue
        seen.add(node)
        below = node.next_functions
        if not below:
            leaf: Tensor | None = getattr(node, "variable", None)
            owner = None if leaf is None else getattr(leaf, OWNER, None)
            if owner is not None and owner != mine:
                raise PipelineError(
                    f"{use.part} uses a tensor that was not handed to it, but to another part or "
                    "for another micro-batch: what a part needs of an earlier one must be in what "
                    "the parts between return, in a container of tensors; never on the module"
                )
            if leaf is not None and owner is None and used.note(leaf, use):
                found.append(leaf)
        todo += [child for child, _ in below if child is not None]
    return found


RUNNING: dict[int, PartUse] = {}
"""The parts that run in this process, by thread: its ranks may be threads too."""


class RandomNumbers:
    """Notices parts that use the generators of the process, from which other streams may draw at
    the same time. A generator among the attributes of `modules` belongs to parts of one stream."""

    def __init__(self, modules: Iterable[nn.Module] = ()):
        self.running = RUNNING
        self.own: dict[int, GeneratorUse] = {}
        for part in (part for module in modules for part in module.modules()):
            for value in vars(part).values():
                if isinstance(value, torch.Generator):
                    self.own.setdefault(id(value), GeneratorUse(value))

    @contextmanager
    def watching(self, use: PartUse) -> Iterator[None]:
        """Around a part's run. Raises `PipelineError` where random numbers were drawn in a way that
        depends on timing."""
        thread = threading.get_ident()
        self.running[thread] = use
        try:
            before = [generator.get_state() for generator in of_process()]
            own = {key: one.generator.get_state() for key, one in self.own.items()}
            yield
            if not all(map(torch.equal, before, (one.get_state() for one in of_process()))):
                self._refuse()
            for key, state in own.items():
                if not torch.equal(state, self.own[key].generator.get_state()):
                    self._note(self.own[key], use)
        finally:
            del self.running[thread]

    def _refuse(self) -> None:
        """Of those that run at once, nobody knows which it was."""
        suspects = " or ".join(dict.fromkeys(use.part for use in list(self.running.values())))
        raise PipelineError(
            f"{suspects} draws random numbers from the generator of the process, as other streams "
            "may at the same time: results would depend on timing. Let a part that draws bring a "
            "generator of its own, as in `x.bernoulli_(p, generator=mine)`; nothing else may draw "
            "while a step runs"
        )

    def _note(self, one: "GeneratorUse", use: PartUse) -> None:
        candidates = list(self.running.values())
        if len({other.stream for other in candidates}) == 1:
            one.use = one.use or use
        if one.use is not None and one.use.stream not in {other.stream for other in candidates}:
            raise PipelineError(
                f"{one.use} and {use} draw from one generator: which numbers each is given would "
                "depend on timing. Give the parts of each stream a generator of their own"
            )


@dataclass
class GeneratorUse:
    """A generator of the user's, and the first part that was seen to draw from it alone."""

    generator: torch.Generator
    use: PartUse | None = None


def of_process() -> list[torch.Generator]:
    """The generators that are used where none is given."""
    return [torch.default_generator, *torch.cuda.default_generators]


class PartRules:
    """What one rank sees of its parts; `modules` are its stages, by name. Where all parts run on
    one stream, `ordered`, nothing depends on timing and only the graph is looked at."""

    def __init__(self, modules: Mapping[str, nn.Module], ordered: bool = False):
        self.parameters = ParameterUse(
            {
                id(parameter): f"{stage}.{name}"
                for stage, module in modules.items()
                for name, parameter in module.named_parameters()
            }
        )
        self.random = None if ordered else RandomNumbers(modules.values())

    def watching(self, use: PartUse) -> AbstractContextManager[None]:
        """Around a part's run, as `RandomNumbers.watching`."""
        return nullcontext() if self.random is None else self.random.watching(use)
