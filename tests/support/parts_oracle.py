"""Order blocks of stages that are cut into parts, interpreted a second time: slowly, from the
language's description alone. As `orders_oracle`, whose walk over the syntax it takes."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from stretto.compiler.language import syntax as s
from stretto.compiler.problem.strands import StrandLink
from tests.support.interleavings import the_sequence
from tests.support.orders_oracle import Pipe, Rank, Skip, Walk, Wrong, whole

MOST = 10_000  # sequences of a pair that are tried: seconds for one with many halves of weights

OwnPart = tuple[str, str, int, str]
"""Kind, name, layer (-1 outside of layers), stream."""


class Cut(NamedTuple):
    """How stages are cut: for each number of a stage its chain of (name, layer, stream); whether
    backwards are split; and what parts cost: (kind, pipeline, stage, micro-batch, name, layer)."""

    chains: list[list[tuple[str, int, str]]]
    split: bool
    costs: dict[tuple[str, str, int, int, str, int], int]

    @property
    def names(self) -> dict[str, str]:
        """The stream of each name."""
        return {name: stream for chain in self.chains for name, _, stream in chain}

    def parts(self, kind: str, stage: int) -> list[OwnPart]:
        """What a whole operation stands for, as it runs."""
        forth = self.chains[stage]
        back = forth[::-1]
        if kind == "F":
            return [("F", *part) for part in forth]
        if not self.split:
            return [("B", *part) for part in back]
        if kind == "W":
            return [("W", *part) for part in back if part[2] == "compute"]
        if kind == "I":
            return [("I", *part) for part in back]
        return [
            (letter, *part)
            for part in back
            for letter in ("I", "W")
            if letter == "I" or part[2] == "compute"
        ]


class PartRank(Rank):
    """What was given on one rank. `done` has (kind, pipe, stage, micro-batch, name, layer) in the
    sequence of the list; what of a pair is given and not yet in the list stands in `pending`."""

    def __init__(self, rank: int, pipes: list[Pipe], cut: Cut):
        super().__init__(rank, pipes, 0)
        self.cut = cut
        self.pending: list[tuple[Any, ...]] = []

    def has(self, *part: Any) -> bool:
        return part in self.done or part in self.pending

    def of(self, kind: str, p: Pipe, i: int, m: int) -> list[tuple[Any, ...]]:
        return [(k, p, i, m, name, layer) for k, name, layer, _ in self.cut.parts(kind, i)]

    def here(self) -> Iterator[tuple[Pipe, int]]:
        for p in self.pipes:
            yield from ((p, i) for i, rank in enumerate(p.ranks) if rank == self.rank)

    def asked_for(
        self, kind: str, name: str | None, layer: int | None, where: tuple[Any, Any, Any]
    ) -> list[tuple[Any, ...]]:
        """The parts that are meant. Raises `Skip`, `Wrong`."""
        pipe, stage, m = where
        if kind == "W" and m is None:
            return self.waiting_longest(name, layer, pipe, stage)
        places = self.candidates(kind, pipe, stage)
        if not places:
            raise Skip
        p, i = places[0]
        if kind != "F" and p.forward_only:
            raise Wrong
        if m is not None and not 0 <= m < p.microbatches:
            raise Wrong
        for mm in range(p.microbatches) if m is None else [m]:
            own = self.of(kind, p, i, mm)
            if name is None:
                if own and not any(self.has(*part) for part in own):
                    return own
                continue
            for part in own:
                if part[4] == name and layer in (None, part[5]) and not self.has(*part):
                    return [part]
        raise Skip

    def waiting_longest(
        self, name: str | None, layer: int | None, pipe: Any, stage: Any
    ) -> list[tuple[Any, ...]]:
        if stage is not None and not any(i == stage and pipe in (None, p) for p, i in self.here()):
            raise Wrong
        found = []
        for p, i in self.here():
            if pipe not in (None, p) or stage not in (None, i) or p.forward_only:
                continue
            for m in range(p.microbatches):
                weights = self.of("W", p, i, m)
                inputs = self.of("I", p, i, m)
                if name is None:
                    if (
                        weights
                        and all(part in self.done for part in inputs)
                        and not any(self.has(*part) for part in weights)
                    ):
                        found.append((max(map(self.done.index, inputs)), weights))
                    continue
                for part in weights:
                    own = ("I", *part[1:])
                    if (
                        part[4] == name
                        and layer in (None, part[5])
                        and own in self.done
                        and not self.has(*part)
                    ):
                        found.append((self.done.index(own), [part]))
        if not found:
            raise Skip
        return min(found, key=lambda one: one[0])[1]

    def give(self, asked: tuple[Any, ...]) -> list[tuple[Any, ...]] | None:
        kind, name, layer, *where, slice_, optional = asked
        if slice_ is not None:
            raise Wrong
        try:
            found = self.asked_for(kind, name, layer, (where[0], where[1], where[2]))
        except Skip:
            if optional:
                return None
            raise Wrong from None
        self.pending += found
        return found

    def put(self, parts: list[tuple[Any, ...]]) -> None:
        self.done += parts
        self.units += [(part,) for part in parts]
        self.pending.clear()

    def strand(self, parts: list[tuple[Any, ...]]) -> tuple[StrandLink, ...]:
        streams = sorted({"compute", *self.cut.names.values()}, key=lambda x: (x != "compute", x))
        return tuple(
            StrandLink(
                streams.index(self.cut.names[name]),
                self.cut.costs[kind, p.name, i, m, name, layer],
                kind == "W",
            )
            for kind, p, i, m, name, layer in parts
        )

    def complete(self) -> bool:
        return all(
            part in self.done
            for p, i in self.here()
            for m in range(p.microbatches)
            for kind in ("F" if p.forward_only else "FB")
            for part in self.of(kind, p, i, m)
        )


class PartWalk(Walk):
    """A block, with parts."""

    def __init__(self, rank: PartRank):
        super().__init__(rank)
        self.parts = rank

    def asked(self, m: s.Mention, env: dict[str, Any]) -> tuple[Any, ...]:
        pipe = None if m.pipeline is None else env[m.pipeline.text]
        stage, microbatch, slice_, layer = (
            whole(e, env) for e in (m.stage, m.microbatch, m.slice, m.layer)
        )
        name = m.part.text if m.part else None
        return (m.kind, name, layer, pipe, stage, microbatch, slice_, m.optional)

    def place(self, item: tuple[Any, ...]) -> None:
        if len(item) == 1:
            self.parts.put(self.parts.give(item[0]) or [])
            return
        if any(asked[1] is not None for asked in item):
            raise Wrong
        took = [self.parts.give(asked) for asked in item]
        assert took[0] and took[1]
        (_, p1, _, m1, *_), (_, p2, _, m2, *_) = took[0][0], took[1][0]
        if p1 is p2 and m1 == m2:
            raise Wrong
        if item[0][0] == "F" != item[1][0]:
            took.reverse()
        first, second = took[0] or [], took[1] or []
        sequence, _ = the_sequence((self.parts.strand(first), self.parts.strand(second)), MOST)
        self.parts.put([(first, second)[o][i] for o, i in sequence])


def mentions(node: Any) -> Iterator[s.Mention]:
    """Every mention in a piece of syntax."""
    if isinstance(node, s.Mention):
        yield node
    elif isinstance(node, tuple):
        for one in node:
            yield from mentions(one)
    elif hasattr(node, "__struct_fields__"):
        for name in node.__struct_fields__:
            yield from mentions(getattr(node, name))


def part_order(
    body: s.Block, rank: int, name: str, pipes: list[Pipe], cut: Cut
) -> list[str] | None:
    """The rank's list, each part as `F a 0 3 mlp 1`; None if the order is wrong."""
    forward_only = {p.name for p in pipes if p.forward_only}
    for m in mentions(body):
        if m.kind != "F" and m.pipeline and m.pipeline.text in forward_only:
            return None
        if m.kind in "IW" and not cut.split:
            return None
        if m.part and (
            m.part.text not in cut.names
            or (m.kind == "W" and cut.names[m.part.text] != "compute")
            or (m.kind == "B" and cut.split)
        ):
            return None
    made = PartRank(rank, pipes, cut)
    try:
        PartWalk(made).block(body, {name: rank, **{p.name: p for p in pipes}}, None)
    except Wrong:
        return None
    if not made.complete():
        return None
    return [f"{k} {p.name} {i} {m} {part} {layer}" for k, p, i, m, part, layer in made.done]
