"""A certificate → what it proves, or `Refuted`: start times of every operation, and a lower bound
with evidence, checked from the instance's figures alone. Made to be read in ten minutes: nothing of
ours is imported but the checker's other parts, and whatever could be wrong is compared with what
is computed here.

A certificate is one JSON object. `instance`: `ranks`, `minimize`, `split`, `slices` (0: none),
`pipelines` (each `name`, `microbatches`, `forward_only`, `feeds`: [[pipeline, stage]], `stages`:
each `rank`, `F`, `B`, `I`, `W` in ticks, `activation`, `kept` in grains), `transfers`: [[rank,
rank, ticks]], `limits` (grains or null, per rank), `pairs`: [[[pipeline, stage], kind, [pipeline,
stage], ticks]], `exceptions`: [[operation, ticks]], `exceptional_pairs`: [[operation, operation,
ticks]], `rules`: [[later, earlier]], `fixed`: per rank the units, [operation, …], that are given in
this sequence. An operation is [kind, pipeline, stage, micro-batch, slice]
(slice -1: none). `schedule`: per rank [[start, end, [operation, …]]]. `claims`: `makespan`, `span`,
`peaks` (per rank), `bound`. `evidence`: see `certify_bound`. `stated` is what the plan says of its
bound, which may be more than the evidence proves, and is not checked.
"""

import json
from collections.abc import Iterator
from itertools import product
from typing import Any

Op = tuple[str, int, int, int, int]
# A rule on one kind speaks of the operations that may stand for it.
STARTS = {"F": "F", "B": "BI", "I": "IB", "W": "WB"}
ENDS = {"F": "F", "B": "BW", "I": "IB", "W": "WB"}
SIZES = ("activation", "kept")


class Refuted(Exception):
    """The certificate does not prove what it claims."""


def demand(holds: bool, words: str) -> None:
    if not holds:
        raise Refuted(words)


def certify(text: str) -> dict[str, Any]:
    """The claims, each of them checked. Raises `Refuted`."""
    from stretto.compiler.certify_bound import Bound  # the other parts of this checker

    try:
        certificate = json.loads(text)
        claims = {key: certificate["claims"][key] for key in ("makespan", "span", "peaks", "bound")}
        instance = Instance(certificate["instance"])
        makespan, span, peaks = schedule(instance, certificate["schedule"])
        bound = Bound(instance, certificate["evidence"]).value()
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise Refuted(f"not a certificate: {error!r}") from None
    demand(claims["makespan"] == makespan, f"the makespan is {makespan}")
    demand(claims["span"] == span, f"the span is {span}")
    demand(claims["peaks"] == peaks, f"the peaks are {peaks}")
    demand(claims["bound"] == bound, f"the evidence proves a bound of {bound}")
    reached = makespan if instance.minimize == "makespan" else span
    demand(bound <= reached, "the bound is above the schedule")  # then one of the two is wrong
    return {**claims, "minimize": instance.minimize, "optimal": bound == reached}


# ---------------------------------------------------------------------------- the instance


class Instance:
    """What is to be done: durations, what waits for what, memory."""

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
        self.rules = [(op(later), op(earlier)) for later, earlier in data["rules"]]
        self.fixed = [[[op(o) for o in unit] for unit in units] for units in data["fixed"]]
        demand(self.minimize in ("makespan", "span"), "minimize makespan or span")
        yes = [self.split, *(line["forward_only"] for line in self.pipelines)]
        demand(all(type(one) is bool for one in yes), "split and forward_only are yes or no")
        demand(all(s["rank"] in range(self.ranks) for s in self.stages()), "every stage has a rank")
        demand(len(self.limits) == self.ranks, "one limit for each rank, or null")
        figures = [data["slices"], *(line["microbatches"] for line in self.pipelines)]
        figures += [limit for limit in self.limits if limit is not None]
        figures += [s[k] for s in self.stages() for k in (*"FBIW", *SIZES)]
        figures += [*self.transfers.values(), *self.exceptions.values(), *self.pairs.values()]
        figures += self.rare.values()
        demand(all(type(n) is int and n >= 0 for n in figures), "figures are whole numbers")

    def stages(self) -> list[dict[str, Any]]:
        return [stage for line in self.pipelines for stage in line["stages"]]

    def stage(self, o: Op | tuple[str, int, int, int]) -> dict[str, Any]:
        found: dict[str, Any] = self.pipelines[o[1]]["stages"][o[2]]
        return found

    def ticks(self, o: Op) -> int:
        return int(self.exceptions.get(o, self.stage(o)[o[0]]))

    def unit(self, ops: list[Op]) -> int:
        """Ticks of one operation, or of an F and the B or I that it overlaps."""
        if len(ops) == 1:
            return self.ticks(ops[0])
        f, b = ops
        demand(f[0] == "F" and b[0] in "BI", "a unit is an F and a B or I")
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

    def needs(self, o: Op, halves: Any) -> list[Op]:
        """What o waits for. `halves(place)`: whether that backward runs as I and W."""
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


def op(o: list[Any]) -> Op:
    kind, p, s, m, k = o
    demand(kind in ("F", "B", "I", "W") and all(type(n) is int for n in (p, s, m, k)), f"{o}")
    demand(p >= 0 and s >= 0 and m >= 0 and k >= -1, f"{o}")
    return kind, p, s, m, k


# ---------------------------------------------------------------------------- the schedule


def schedule(instance: Instance, rows: list[Any]) -> tuple[int, int, list[int]]:
    """Makespan, span, and peak of memory per rank, if the start times are a schedule at all."""
    demand(len(rows) == instance.ranks, "one list for each rank")
    start: dict[Op, int] = {}
    end: dict[Op, int] = {}
    spans, peaks = [0], []
    for rank, units in enumerate(rows):
        clock = held = peak = 0
        for begin, finish, listed in units:
            ops = [op(o) for o in listed]
            demand(begin >= clock, f"rank {rank} does two things at {begin}")
            demand(finish == begin + instance.unit(ops), f"{listed} ends at another time")
            clock = finish
            for o in ops:
                demand(o not in start, f"{o} runs twice")
                demand(instance.stage(o)["rank"] == rank, f"{o} is on another rank")
                start[o], end[o] = begin, finish
                if o[0] == "F":
                    held += instance.stage(o)["activation"]
                    peak = max(peak, held)
            held -= sum(given(instance, o) for o in ops)
        limit = instance.limits[rank]
        demand(limit is None or peak <= limit, f"rank {rank} holds {peak}, the limit is {limit}")
        peaks.append(peak)
        spans.append(clock - units[0][0] if units else 0)
    everything(instance, start)
    for later in start:
        for earlier in instance.needs(later, lambda place: ("I", *place) in start):
            ready = end[earlier] + instance.lag(earlier, later)
            demand(start[later] >= ready, f"{later} starts before {earlier} is there")
    for later, earlier in instance.rules:
        first = [start[o] for kind in STARTS[later[0]] if (o := (kind, *later[1:])) in start]
        last = [end[o] for kind in ENDS[earlier[0]] if (o := (kind, *earlier[1:])) in end]
        demand(bool(first and last), f"{later} or {earlier} does not run")
        demand(first[0] >= last[0], f"the rule for {later} is broken")
    kept(instance, rows)
    return max(end.values(), default=0), max(spans), peaks


def kept(instance: Instance, rows: list[Any]) -> None:
    """Every rank runs the units that were given, and in that sequence."""
    demand(len(instance.fixed) in (0, instance.ranks), "one list for each rank")
    for rank, units in enumerate(instance.fixed):
        runs = (sorted(op(o) for o in listed) for _, _, listed in rows[rank])
        for unit in units:
            demand(sorted(unit) in runs, f"rank {rank} does not keep to {unit}")  # runs goes on


def given(instance: Instance, o: Op) -> int:
    """Grains that come back when o ends."""
    stage = instance.stage(o)
    if o[0] == "F":
        return int(stage["activation"]) if instance.pipelines[o[1]]["forward_only"] else 0
    size, kept = int(stage["activation"]), int(stage["kept"])
    return {"B": size, "I": size - kept, "W": kept}[o[0]]


def everything(instance: Instance, start: dict[Op, int]) -> None:
    """Each forward runs once, and its backward either whole or as two halves."""
    wanted: set[Op] = set()
    for p, line in enumerate(instance.pipelines):
        for place in instance.places(p):
            wanted.add(("F", p, *place))  # type: ignore[arg-type]
            if not line["forward_only"]:
                halves = ("I", p, *place) in start
                demand(instance.split or not halves, f"backwards are not split: {place}")
                wanted |= {(kind, p, *place) for kind in ("IW" if halves else "B")}  # type: ignore[misc]
    demand(set(start) == wanted, "operations are missing, or too many")
