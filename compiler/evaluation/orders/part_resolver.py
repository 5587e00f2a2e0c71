"""`PartResolver`: the order of one rank whose stages are cut into parts, while it is made, and the
pairs in it."""

from collections.abc import Iterable
from typing import NamedTuple

from stretto.compiler.evaluation.orders.part_cursor import PartCursor
from stretto.compiler.evaluation.orders.resolver import RankResolver, RankText
from stretto.compiler.problem.interleave import Interleaving
from stretto.compiler.problem.spec import NONE, Kind, Operation, Unit
from stretto.compiler.problem.strands import Strand
from stretto.compiler.problem.wholes import OwnParts


class Taken(NamedTuple):
    """Parts of one operation that a text has been given: all of `kind`, or one."""

    cursor: PartCursor
    kind: Kind
    microbatch: int
    parts: OwnParts


class WrittenPair(NamedTuple):
    """Two operations of an order, of whatever micro-batches: kind, pipeline and stage of each, the
    parts of each, how long those take (in ticks of `PairCosts`), and their sequence. The first of
    the two begins."""

    rank: int
    names: tuple[tuple[Kind, int, int], tuple[Kind, int, int]]
    parts: tuple[OwnParts, OwnParts]
    strands: tuple[Strand, Strand]
    interleaving: Interleaving


class PartResolver(RankResolver[PartCursor]):
    """A rank whose stages are cut into parts; each of its units is one part."""

    def __init__(self, rank: int, text: RankText, held: Iterable[tuple[int, int]], split: bool):
        super().__init__(rank, text, (PartCursor(text.pipelines[p], s, split) for p, s in held))
        self.pairs: dict[tuple[object, ...], WrittenPair] = {}

    def place(self, taken: Taken, own: tuple[Kind, int], at: int) -> None:
        """Puts a part at the end of the list."""
        (kind, part), (cursor, _, microbatch, _) = own, taken
        place = (cursor.pipeline.index, cursor.stage, microbatch, NONE, part)
        self.units.append(Unit((Operation(kind, *place),), at))
        if kind == "I":
            cursor.listed(part, microbatch, len(self.units))

    def whole_name(self, kind: Kind, cursor: PartCursor, microbatch: int) -> str:
        """`F main[0, 3]`."""
        return f"{kind} {cursor.pipeline.name}[{cursor.stage}, {microbatch}]"

    def part_name(self, kind: Kind, cursor: PartCursor, part: int, microbatch: int) -> str:
        """`F.mlp main[0, 3, layer 2]`."""
        name, layer, _ = cursor.chain[part]
        where = f", layer {layer}" if layer != NONE else ""
        return f"{kind}.{name} {cursor.pipeline.name}[{cursor.stage}, {microbatch}{where}]"
