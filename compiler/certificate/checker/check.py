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
from typing import Any

from stretto.compiler.certificate.checker.instance import (
    ENDS,
    STARTS,
    Instance,
    Op,
    Refuted,
    demand,
    op,
)


def certify(text: str) -> dict[str, Any]:
    """The claims, each of them checked. Raises `Refuted`."""
    from stretto.compiler.certificate.checker.bound import Bound  # the other parts of this checker

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
