"""What a theorem is asked about, and what it answers: `BoundContext` and `Subject` in, `Finding`
out."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from msgspec import Struct

from stretto.compiler.bounds.longest_paths import PrecedenceGraph
from stretto.compiler.bounds.microbatch_order import Chains, chains
from stretto.compiler.bounds.overlap import OverlapPair
from stretto.compiler.bounds.relaxation import OpKey, Relaxation, TickTable
from stretto.compiler.problem.figures import time_figure

EFFORT = 4_000_000
"""How much may be walked for the heads and tails of single ranks, in operations."""


@dataclass(frozen=True)
class BoundContext:
    """What all theorems stand on. `fifo`: for which pipelines B0 holds. `overlaps`: the units that
    save time. `graph`: the Relaxation with the edges of B2 and B3. `shares`: for each choice of
    shares (see `overlap`) the ticks of the op classes where they are not `Relaxation.work`."""

    relaxed: Relaxation
    fifo: list[bool]
    overlaps: list[OverlapPair]
    graph: PrecedenceGraph
    shares: list[dict[int, list[int]]]

    @cached_property
    def overlaps_of(self) -> dict[int, list[OverlapPair]]:
        """`overlaps` by the op class of their forward."""
        found: dict[int, list[OverlapPair]] = {}
        for pair in self.overlaps:
            found.setdefault(pair.forward, []).append(pair)
        return found

    @property
    def of_makespan(self) -> bool:
        """Whether the bound is of the makespan; else of the span."""
        return self.relaxed.spec.minimize == "makespan"

    def busy(self, share: int) -> TickTable:
        """How long operations keep others off their rank, by a choice of shares."""
        return self._busy[share]

    @cached_property
    def _busy(self) -> list[TickTable]:
        work = self.relaxed.work
        return [[less.get(c, own) for c, own in enumerate(work)] for less in self.shares]

    @cached_property
    def chains(self) -> Chains:
        """The chains within a micro-batch."""
        return chains(self.relaxed, self.graph.path)

    def beside(self, reduces: bool) -> dict[tuple[int, int], int]:
        """By stage the ticks of averaging its gradients, or of gathering its weights."""
        return self._beside[reduces]

    @cached_property
    def _beside(self) -> list[dict[tuple[int, int], int]]:
        spec = self.relaxed.spec
        both = (spec.unshard_weights, spec.reduce_gradients)
        return [{(p, s): ticks for p, s, ticks in each} for each in both]

    def units(self, ticks: int) -> str:
        """Ticks in the units of the file, as people read them."""
        return time_figure(self.relaxed.spec, ticks)


class Subject(Struct, frozen=True):
    """One question. `head` and `tail`: heads and tails of all operations, for the makespan or for
    the span of `rank`; then `first` is the operation taken for the first of the rank, if it
    matters which. `on`: the rank whose operations are counted; for a makespan it is `rank`.
    `share`: the choice of shares."""

    context: BoundContext
    head: TickTable
    tail: TickTable
    rank: int
    on: int
    first: OpKey | None = None
    share: int = 0

    @property
    def own(self) -> list[int]:
        """The op classes with operations on the rank `on`."""
        relaxed = self.context.relaxed
        return [c for c in relaxed.on(self.on) if relaxed.classes[c].size]

    @property
    def before(self) -> int:
        """The least head of an operation on the rank `on`."""
        return min(min(self.head[c]) for c in self.own)

    @property
    def after(self) -> int:
        """The least tail of an operation on the rank `on`."""
        return min(min(self.tail[c]) for c in self.own)


class Finding(NamedTuple):
    """A proven bound in ticks, and the function that says why, in the units of the file. `whole`:
    it counts all that a rank has to do."""

    ticks: int
    subject: Subject
    reason: Callable[[Subject], str]
    whole: bool = False
