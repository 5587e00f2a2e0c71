"""The problem that a certificate is about, read from the certificate alone."""

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

Op = tuple[str, int, int, int, int]
"""Kind, pipeline, stage, micro-batch, slice (-1: none)."""

OpType = tuple[str, int, int, int]
"""Kind, pipeline, stage, slice: an operation without its micro-batch."""

# A rule on one kind speaks of the operations that may stand for it.
STARTS = {"F": "F", "B": "BI", "I": "IB", "W": "WB"}
ENDS = {"F": "F", "B": "BW", "I": "IB", "W": "WB"}

SIZES = ("activation", "kept")

MOST_TYPES = 4096  # of operations; what is worked out for each two of them must fit in memory
MOST_STEPS = 600_000_000  # some minutes


class Refuted(Exception):
    """The certificate does not prove what it claims; the text says where, in a sentence."""


def demand(holds: bool, otherwise: str) -> None:
    """Raises `Refuted` with the sentence `otherwise` unless something holds."""
    if not holds:
        raise Refuted(otherwise)


def op(o: list[Any]) -> Op:
    """An operation as the certificate writes it. Raises `Refuted` where it is none."""
    kind, p, s, m, k = o
    wrong = f"{o} is not an operation, which is [kind, pipeline, stage, micro-batch, slice]"
    demand(kind in ("F", "B", "I", "W") and all(type(n) is int for n in (p, s, m, k)), wrong)
    demand(p >= 0 and s >= 0 and m >= 0 and k >= -1, wrong)
    return kind, p, s, m, k


class Instance:
    """What is to be done: durations and transfers in ticks, what waits for what, memory in grains.
    The attributes are the keys of the certificate (`rare`: its `exceptional_pairs`)."""

    def __init__(self, data: dict[str, Any]):
        self.ranks: int = data["ranks"]
        self.minimize: str = data["minimize"]
        self.split: bool = data["split"]
        self.slices = range(data["slices"]) if data["slices"] else [-1]
        self.pipelines: list[dict[str, Any]] = data["pipelines"]
        self.limits: list[int | None] = data["limits"]
        self.transfers = {(a, b): ticks for a, b, ticks in data["transfers"]}
        self.exceptions = {op(o): ticks for o, ticks in data["exceptions"]}
        self.pairs = {(tuple(f), kind, tuple(b)): ticks for f, kind, b, ticks in data["pairs"]}
        self.rare = {(op(f), op(b)): ticks for f, b, ticks in data["exceptional_pairs"]}
        self.steps = 0
        for table, name in (
            (self.transfers, "transfers"),
            (self.exceptions, "exceptions"),
            (self.pairs, "pairs"),
            (self.rare, "exceptional_pairs"),
        ):
            demand(len(table) == len(data[name]), f"the instance's `{name}` say something twice")
        self.rules = [(op(later), op(earlier)) for later, earlier in data["rules"]]
        self.fixed = [[[op(o) for o in unit] for unit in units] for units in data["fixed"]]
        self._demand_choices()
        figures = [data["slices"], *(line["microbatches"] for line in self.pipelines)]
        figures += [limit for limit in self.limits if limit is not None]
        figures += [s[k] for s in self.stages() for k in (*"FBIW", *SIZES)]
        figures += [*self.transfers.values(), *self.exceptions.values(), *self.pairs.values()]
        figures += self.rare.values()
        for n in figures:
            right = type(n) is int and n >= 0
            demand(right, f"the instance says {n!r} where a whole number, 0 or more, should be")

    def _demand_choices(self) -> None:
        demand(
            self.minimize in ("makespan", "span"),
            f"the instance's `minimize` is {self.minimize!r}; it should be `makespan` or `span`",
        )
        for yes in (self.split, *(line["forward_only"] for line in self.pipelines)):
            demand(
                type(yes) is bool,
                f"the instance's `split` or a `forward_only` is {yes!r}, not true or false",
            )
        for stage in self.stages():
            demand(
                stage["rank"] in range(self.ranks),
                f"a stage of the instance is on rank {stage['rank']}, of {self.ranks} ranks",
            )
        types = len(self.slices) * sum(
            len(line["stages"]) * (1 if line["forward_only"] else 3 if self.split else 2)
            for line in self.pipelines
        )
        demand(
            types <= MOST_TYPES,
            f"the instance has {types} types of operations (kind, stage, slice), more than the "
            f"{MOST_TYPES} that this checker takes",
        )
        everywhere = all(
            0 <= q < len(self.pipelines) and 0 <= s < len(self.pipelines[q]["stages"])
            for line in self.pipelines
            for q, s in line["feeds"]
        )
        demand(everywhere, "a pipeline of the instance feeds a stage that there is not")
        demand(
            len(self.limits) == self.ranks,
            f"the instance has {len(self.limits)} limits; it should have one, or null, for each "
            f"of {self.ranks} ranks",
        )

    def spend(self, steps: int) -> None:
        """Note work to be done. Raises `Refuted` where all of it together is too much: a small file
        must not keep the checker busy for hours."""
        self.steps += steps
        demand(
            self.steps <= MOST_STEPS,
            f"to check this takes more than {MOST_STEPS} steps, which is more than this checker "
            "takes: nothing is said of it",
        )

    def stages(self) -> list[dict[str, Any]]:
        """The stages of all pipelines."""
        return [stage for line in self.pipelines for stage in line["stages"]]

    def stage(self, o: Op | OpType) -> dict[str, Any]:
        """The stage of an operation."""
        found: dict[str, Any] = self.pipelines[o[1]]["stages"][o[2]]
        return found

    def ticks(self, o: Op) -> int:
        """Ticks that an operation takes alone."""
        return int(self.exceptions.get(o, self.stage(o)[o[0]]))

    def unit(self, ops: list[Op]) -> int:
        """Ticks of one operation, or of an F and the B or I that it overlaps."""
        if len(ops) == 1:
            return self.ticks(ops[0])
        overlap = len(ops) == 2 and ops[0][0] == "F" and ops[1][0] in "BI"
        demand(overlap, f"{ops} are no unit, which is one operation, or an F and a B or I")
        f, b = ops
        together = self.pairs.get((f[1:3], b[0], b[1:3]), self.ticks(f) + self.ticks(b))
        return int(self.rare.get((f, b), together))

    def lag(self, earlier: Op, later: Op) -> int:
        """Ticks that a result is on its way."""
        way = self.stage(earlier)["rank"], self.stage(later)["rank"]
        return 0 if way[0] == way[1] else int(self.transfers.get(way, 0))

    def places(self, p: int) -> Iterator[tuple[int, ...]]:
        """Stage, micro-batch, slice of everything in a pipeline."""
        line = self.pipelines[p]
        return product(range(len(line["stages"])), range(line["microbatches"]), self.slices)

    def needs(self, o: Op, halves: Callable[[tuple[int, ...]], bool]) -> list[Op]:
        """What o waits for. `halves`: whether the backward of (pipeline, stage, micro-batch,
        slice) runs as I and W."""
        kind, p, s, m, k = o
        line, last = self.pipelines[p], len(self.pipelines[p]["stages"]) - 1

        def backward(*place: int) -> Op:
            return ("I" if halves(place) else "B", *place)  # type: ignore[return-value]

        if kind == "W":
            return [("I", p, s, m, k)]
        if kind == "F":
            found = [("F", p, s - 1, m, k)] if s else []
            found += [("F", p, s, m, k - 1)] if k > 0 else []
            for q, other in enumerate(self.pipelines):
                if [p, s] in other["feeds"]:
                    found.append(("F", q, len(other["stages"]) - 1, m, k))
            return found
        found = [("F", p, s, m, k)]
        if s < last:
            found.append(backward(p, s + 1, m, k))
        else:
            for q, t in line["feeds"]:
                if not self.pipelines[q]["forward_only"]:
                    found.append(backward(q, t, m, k))
        if 0 <= k < len(self.slices) - 1:
            found.append(backward(p, s, m, k + 1))
        return found
