"""The problem that a certificate of parts is about, read from the certificate alone: stages are
chains of parts, each part of an operation is one operation, on a stream of its rank."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from stretto.compiler.certificate.checker.instance import MOST_STEPS, MOST_TYPES, demand

PartOp = tuple[str, int, int, int, int]
"""Kind, pipeline, stage, micro-batch, part."""

PartType = tuple[str, int, int, int]
"""Kind, pipeline, stage, part: an operation without its micro-batch."""

PART_FIGURES = ("stream", "F", "B", "I", "W", "activation")
"""What a certificate lists of a part, in this sequence."""


class PartsHolding(NamedTuple):
    """Grains that are taken when `taken` starts, and free when all of `freed`, of the same
    micro-batch, have ended."""

    grains: int
    taken: PartType
    freed: tuple[PartType, ...]


def of_microbatch(one: PartType, m: int) -> PartOp:
    """The operation of this type for micro-batch m."""
    kind, p, s, part = one
    return kind, p, s, m, part


def type_of(o: PartOp) -> PartType:
    """The operation without its micro-batch."""
    kind, p, s, _, part = o
    return kind, p, s, part


class ChainInstance:
    """What is to be done: durations and transfers in ticks, what waits for what, memory in grains.
    The attributes are the keys of the certificate; `count` has every type of operation, with how
    many micro-batches run it. Raises `Refuted` where the figures describe no step."""

    def __init__(self, data: dict[str, Any]):
        self.ranks: int = data["ranks"]
        self.minimize: str = data["minimize"]
        self.split: bool = data["split"]
        self.streams: int = len(data["streams"])
        self.pipelines: list[dict[str, Any]] = data["pipelines"]
        self.limits: list[int | None] = data["limits"]
        self.transfers = {(a, b): ticks for a, b, ticks in data["transfers"]}
        self.steps = 0
        _demand_figures(self)
        self.feeders: dict[tuple[int, int], list[int]] = {}
        for p, line in enumerate(self.pipelines):
            for q, stage in line["feeds"]:
                self.feeders.setdefault((q, stage), []).append(p)
        self.count: dict[PartType, int] = {
            one: self.pipelines[one[1]]["microbatches"] for one in self._types()
        }
        types = f"the instance has {len(self.count)} types of operations (kind, stage, part), more"
        demand(len(self.count) <= MOST_TYPES, f"{types} than {MOST_TYPES}, the most that are taken")
        self.exceptions = {self.known(o): ticks for o, ticks in data["exceptions"]}
        for table, name in ((self.transfers, "transfers"), (self.exceptions, "exceptions")):
            demand(len(table) == len(data[name]), f"the instance's `{name}` say something twice")
        self.rules = [(self.known(later), self.known(earlier)) for later, earlier in data["rules"]]
        self.fixed = [[self.known(o) for o in row] for row in data["fixed"]]
        lists = f"the instance has {len(self.fixed)} lists of fixed operations, and {self.ranks}"
        demand(len(self.fixed) in (0, self.ranks), f"{lists} ranks")
        for rank, row in enumerate(self.fixed):
            here = all(self.lane(type_of(o))[0] == rank for o in row)
            demand(here, f"an operation is fixed on rank {rank}, and runs on another")

    def spend(self, steps: int) -> None:
        """Note work to be done. Raises `Refuted` where all of it together is too much."""
        self.steps += steps
        much = f"to check this takes more than {MOST_STEPS} steps, which is more than this checker"
        demand(self.steps <= MOST_STEPS, f"{much} takes: nothing is said of it")

    def _types(self) -> Iterator[PartType]:
        for p, line in enumerate(self.pipelines):
            for s, stage in enumerate(line["stages"]):
                for k, part in enumerate(stage["parts"]):
                    yield from ((kind, p, s, k) for kind in self._kinds(line, part[0]))

    def _kinds(self, line: dict[str, Any], stream: int) -> str:
        """Weight gradients run on stream 0 alone."""
        if line["forward_only"]:
            return "F"
        return "FB" if not self.split else "FI" if stream else "FIW"

    def known(self, o: list[Any]) -> PartOp:
        """An operation as the certificate writes it. Raises `Refuted` where it is none of the
        instance."""
        kind, p, s, m, part = o
        there = m < self.count.get((kind, p, s, part), 0)
        demand(there, f"{o} is no operation of the instance")
        return kind, p, s, m, part

    def stage(self, one: PartType) -> dict[str, Any]:
        """The stage of a type."""
        found: dict[str, Any] = self.pipelines[one[1]]["stages"][one[2]]
        return found

    def lane(self, one: PartType) -> tuple[int, int]:
        """The rank and stream that a type runs on."""
        stage = self.stage(one)
        return int(stage["rank"]), int(stage["parts"][one[3]][0])

    def ticks(self, o: PartOp) -> int:
        """Ticks that an operation takes."""
        return int(self.exceptions.get(o, self.usual(type_of(o))))

    def usual(self, one: PartType) -> int:
        """Ticks that an operation of this type takes unless it is an exception."""
        return int(self.stage(one)["parts"][one[3]][PART_FIGURES.index(one[0])])

    def needs(self, one: PartType) -> list[tuple[PartType, int]]:
        """What a type waits for within a micro-batch, with the ticks of the way."""
        kind, p, s, part = one
        size = len(self.stage(one)["parts"])
        if kind == "W":
            return [(("I", p, s, part), 0)]
        if kind == "F":
            if part:
                return [(("F", p, s, part - 1), 0)]
            return [(other, self._lag(other, one)) for other in self._before(p, s)]
        if part < size - 1:
            return [((kind, p, s, part + 1), 0)]
        found: list[tuple[PartType, int]] = [(("F", p, s, part), 0)]
        line = self.pipelines[p]
        behind = [[p, s + 1]] if s + 1 < len(line["stages"]) else line["feeds"]
        for q, t in behind:
            if not self.pipelines[q]["forward_only"]:
                found.append(((kind, q, t, 0), self._lag((kind, q, t, 0), one)))
        return found

    def _before(self, p: int, s: int) -> Iterator[PartType]:
        """The last forward parts whose results stage s of pipeline p reads."""
        stages = [(p, s - 1)] if s else []
        stages += [(q, len(self.pipelines[q]["stages"]) - 1) for q in self.feeders.get((p, s), [])]
        for q, t in stages:
            yield "F", q, t, len(self.pipelines[q]["stages"][t]["parts"]) - 1

    def _lag(self, earlier: PartType, later: PartType) -> int:
        way = self.stage(earlier)["rank"], self.stage(later)["rank"]
        return 0 if way[0] == way[1] else int(self.transfers.get(way, 0))

    def holdings(self) -> Iterator[PartsHolding]:
        """What a micro-batch of each stage holds: the stage's activation from its first forward
        part to its last I, what is kept to its last W; that of a part from its F to its W, or its
        I or B where it has none. Of forwards alone all is held to the last of them."""
        for p, line in enumerate(self.pipelines):
            for s, stage in enumerate(line["stages"]):
                found = self._trained(p, s)
                if line["forward_only"]:
                    last: PartType = ("F", p, s, len(stage["parts"]) - 1)
                    found = [one._replace(freed=(last,)) for one in found]
                yield from (one for one in found if one.grains)

    def _trained(self, p: int, s: int) -> list[PartsHolding]:
        stage, back = self.pipelines[p]["stages"][s], "I" if self.split else "B"
        size, kept = stage["activation"], stage["kept"] if self.split else 0
        first: PartType = ("F", p, s, 0)
        end: PartType = (back, p, s, 0)
        weights: list[PartType] = []
        own = []
        for k, part in enumerate(stage["parts"]):
            freer: PartType = (back, p, s, k)
            if self.split and not part[0]:
                freer = ("W", p, s, k)
                weights.append(freer)
            own.append(PartsHolding(part[5], ("F", p, s, k), (freer,)))
        rest = PartsHolding(kept, first, (end, *weights))
        return [PartsHolding(size - kept, first, (end,)), rest, *own]


def _demand_figures(of: ChainInstance) -> None:
    """Stages, parts, feeds and limits are of what there is."""
    streams = f"the instance has {of.streams} streams; it should have 1 or more"
    demand(of.streams > 0, streams)
    limits = f"the instance has {len(of.limits)} limits, and {of.ranks} ranks"
    demand(len(of.limits) == of.ranks, limits)
    for line in of.pipelines:
        for stage in line["stages"]:
            home = stage["rank"] < of.ranks
            demand(home, f"a stage is on rank {stage['rank']}, of {of.ranks} ranks")
            demand(bool(stage["parts"]), "a stage of the instance has no parts")
            kept = f"a stage keeps {stage['kept']} of an activation of {stage['activation']}"
            demand(stage["kept"] <= stage["activation"], kept)
            for part in stage["parts"]:
                on = f"a part is on stream {part[0]}, of {of.streams} streams"
                demand(part[0] < of.streams, on)
        for q, s in line["feeds"]:
            there = q < len(of.pipelines) and s < len(of.pipelines[q]["stages"])
            demand(there, "a pipeline of the instance feeds a stage that there is not")
            same = of.pipelines[q]["microbatches"] == line["microbatches"]
            demand(same, "a pipeline of the instance feeds one with other micro-batches")
            ends = bool(line["stages"])
            demand(ends, "a pipeline of the instance feeds another, and has no stages")
