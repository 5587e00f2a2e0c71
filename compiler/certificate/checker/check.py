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
`peaks` (per rank), `bound`. `evidence`: see `bound`. `stated` is what the plan says of its
bound, which may be more than the evidence proves, and is not checked. `plan` is the hash of the
plan that it was written with: `certify --plan` compares the two. `sizes_in` is the unit in which
sizes, then in bytes, are shown. `shape` has what may stand where.
Of stages that are cut into parts `parts_shape` describes the keys.
"""

from typing import Any

from stretto.compiler.certificate.checker.bound import BoundCheck
from stretto.compiler.certificate.checker.instance import (
    ENDS,
    STARTS,
    Instance,
    Op,
    Refuted,
    demand,
    op,
)
from stretto.compiler.certificate.checker.parts_bound import PartsBoundCheck
from stretto.compiler.certificate.checker.parts_instance import ChainInstance
from stretto.compiler.certificate.checker.parts_schedule import PartsSchedule
from stretto.compiler.certificate.checker.parts_shape import PARTS_FORMAT, read_parts
from stretto.compiler.certificate.checker.shape import parsed, read


def certify(text: str | bytes) -> dict[str, Any]:
    """The claims, each of them checked, with `minimize` and whether the schedule is `optimal`.
    Raises `Refuted`."""
    found = parsed(text)
    if type(found) is dict and found.get("format") == PARTS_FORMAT:
        return _certified_parts(read_parts(found))
    certificate = read(found)
    try:
        instance = Instance(certificate["instance"])
        makespan, span, peaks = schedule(instance, certificate["schedule"])
        bound = BoundCheck(instance, certificate["evidence"]).value()
    except LookupError:
        unknown = "it names an operation, stage or share that its instance does not have"
        raise Refuted(f"this is not a certificate: {unknown}") from None
    return _confirmed(certificate, makespan, span, peaks, bound)


def _certified_parts(certificate: dict[str, Any]) -> dict[str, Any]:
    """The same of stages that are cut into parts."""
    instance = ChainInstance(certificate["instance"])
    plan = PartsSchedule(instance, certificate["schedule"])
    bound = PartsBoundCheck(instance).value(certificate["evidence"])
    return _confirmed(certificate, plan.makespan(), plan.span(), plan.peaks(), bound)


def _confirmed(
    certificate: dict[str, Any], makespan: int, span: int, peaks: list[int], bound: int
) -> dict[str, Any]:
    """The claims, compared with what was found."""
    claims, minimize = dict(certificate["claims"]), certificate["instance"]["minimize"]
    for what, value in (("makespan", makespan), ("span", span), ("peaks", peaks)):
        claimed = f"the schedule's {what} is {value}, and the certificate claims {claims[what]}"
        demand(claims[what] == value, claimed.replace("peaks is", "peaks are"))
    claimed = (
        f"the evidence proves a bound of {bound}, and the certificate claims {claims['bound']}"
    )
    demand(claims["bound"] == bound, claimed)
    reached = makespan if minimize == "makespan" else span
    above = f"the bound of {bound} is above the schedule's {minimize} of {reached}"
    demand(bound <= reached, above)  # then one of the two is wrong
    stated = certificate.get("stated", claims)["bound"]
    beyond = f"the plan is said to state a bound of {stated}, above the schedule's {reached}"
    demand(stated <= reached, beyond)
    return {**claims, "minimize": minimize, "optimal": bound == reached}


def schedule(instance: Instance, rows: list[Any]) -> tuple[int, int, list[int]]:
    """Makespan and span in ticks, and the peak of memory per rank in grains. Raises `Refuted` where
    the start times are no schedule of the instance."""
    lists = f"the schedule has {len(rows)} lists of units, for {instance.ranks} ranks"
    demand(len(rows) == instance.ranks, lists)
    start: dict[Op, int] = {}
    end: dict[Op, int] = {}
    spans, peaks = [0], []
    for rank, units in enumerate(rows):
        clock = held = peak = 0
        for begin, finish, listed in units:
            ops = [op(o) for o in listed]
            demand(begin >= clock, f"rank {rank} starts a unit at {begin}, and is busy to {clock}")
            ticks = instance.unit(ops)
            takes = f"the unit {ops} takes {ticks} ticks, and runs from {begin} to {finish}"
            demand(finish == begin + ticks, takes)
            clock = finish
            for o in ops:
                demand(o not in start, f"the schedule runs {o} twice")
                home = instance.stage(o)["rank"]
                demand(home == rank, f"the schedule runs {o} on rank {rank}; it is on rank {home}")
                start[o], end[o] = begin, finish
                if o[0] == "F":
                    held += instance.stage(o)["activation"]
                    peak = max(peak, held)
            held -= sum(_freed(instance, o) for o in ops)
        limit = instance.limits[rank]
        demand(limit is None or peak <= limit, f"rank {rank} holds {peak}, and may hold {limit}")
        peaks.append(peak)
        spans.append(clock - units[0][0] if units else 0)
    _everything_runs(instance, start)
    _nothing_is_early(instance, start, end)
    _fixed_units_run(instance, rows)
    return max(end.values(), default=0), max(spans), peaks


def _freed(instance: Instance, o: Op) -> int:
    """Grains that come back when o ends."""
    stage = instance.stage(o)
    if o[0] == "F":
        return int(stage["activation"]) if instance.pipelines[o[1]]["forward_only"] else 0
    size, kept = int(stage["activation"]), int(stage["kept"])
    return {"B": size, "I": size - kept, "W": kept}[o[0]]


def _everything_runs(instance: Instance, start: dict[Op, int]) -> None:
    """Each forward runs once, and its backward either whole or as two halves."""
    wanted: set[Op] = set()
    for p, line in enumerate(instance.pipelines):
        for place in instance.places(p):
            wanted.add(("F", p, *place))  # type: ignore[arg-type]
            if not line["forward_only"]:
                halves = ("I", p, *place) in start
                split = f"the schedule runs {('I', p, *place)}; the instance splits no backward"
                demand(instance.split or not halves, split)
                wanted |= {(kind, p, *place) for kind in ("IW" if halves else "B")}  # type: ignore[misc]
    missing, more = wanted - set(start), set(start) - wanted
    if missing:
        raise Refuted(f"the schedule does not run {min(missing)}")
    demand(not more, f"the schedule runs {min(more, default='')}, which is not to be done")


def _nothing_is_early(instance: Instance, start: dict[Op, int], end: dict[Op, int]) -> None:
    """Every operation starts when it has what it needs, and every rule is met."""
    for later in start:
        for earlier in instance.needs(later, lambda place: ("I", *place) in start):
            ready = end[earlier] + instance.lag(earlier, later)
            early = f"{later} starts at {start[later]}, and has the result of {earlier} at {ready}"
            demand(start[later] >= ready, early)
    for later, earlier in instance.rules:
        first = [start[o] for kind in STARTS[later[0]] if (o := (kind, *later[1:])) in start]
        last = [end[o] for kind in ENDS[earlier[0]] if (o := (kind, *earlier[1:])) in end]
        rule = f"a rule has {later} start after the end of {earlier}"
        demand(bool(first and last), f"{rule}, and one of them does not run")
        demand(first[0] >= last[0], f"{rule}, and it starts at {first[0]}, the end is {last[0]}")


def _fixed_units_run(instance: Instance, rows: list[Any]) -> None:
    """Every rank runs the units that were given, and in that sequence."""
    lists = (
        f"the instance has {len(instance.fixed)} lists of fixed units, for {instance.ranks} ranks"
    )
    demand(len(instance.fixed) in (0, instance.ranks), lists)
    for rank, units in enumerate(instance.fixed):
        runs = (sorted(op(o) for o in listed) for _, _, listed in rows[rank])
        for unit in units:  # `runs` goes on
            kept = f"rank {rank} does not run the fixed unit {unit} after those before it"
            demand(sorted(unit) in runs, kept)
