"""Order → Program. Adds to the sequences of computations what moves data between them: receives,
sends, waits, frees, and the sums over replicated stages. `docs/instructions.md` says where each
stands and why. Promised: the Program can finish, even where a send waits for its receive; and by
the clock its units start when those of the Order can start at the earliest, unless receives are
held back for want of slots.

Why it can finish: all units of all ranks stand in one sequence, by start, in which each comes
after what it needs. Before a unit stand only posts, waits for messages made by units earlier in
the sequence, and waits for sends whose receive is posted right after one that is earlier.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from stretto.compiler.diagnostics.diagnostic import Diagnostic, Rejected
from stretto.compiler.order import Order, RankOrder
from stretto.compiler.order.earliest_start import Earliest, earliest
from stretto.compiler.order.unenforced_rules import unenforced
from stretto.compiler.problem.computations import has_collectives
from stretto.compiler.problem.kinds import KINDS
from stretto.compiler.problem.problem import EdgeKind
from stretto.compiler.problem.spec import NONE, Spec
from stretto.compiler.problem.topology import Topology
from stretto.compiler.program.collectives import with_collectives, with_gathers
from stretto.compiler.program.evaluation import evaluated
from stretto.compiler.program.inserted import inserted
from stretto.compiler.program.issue import Issue, issue
from stretto.compiler.program.limited import frees_before
from stretto.compiler.program.lists import ListInputs, RankList, lists
from stretto.compiler.program.messages import outputs
from stretto.compiler.program.program import (
    Channel,
    Copy,
    Instruction,
    Program,
    ProgramName,
    Reduce,
    Reduction,
)
from stretto.compiler.program.result_flow import ResultFlow, flow
from stretto.compiler.program.stream_sums import with_sums, with_weights
from stretto.compiler.program.timeline import time


class Communicated(NamedTuple):
    """A Program, and when its units start and end, where that was planned: without streams,
    `slots` and what runs beside the computations, where it is as the Order alone would have it.
    Else None: the clock (`timeline.time`) says."""

    program: Program
    planned: Earliest | None


class Communication(NamedTuple):
    """The Programs by name. `no_evaluation`: the rule that the forwards alone do not keep, though
    the step does; then there is no `eval`."""

    programs: dict[ProgramName, Communicated]
    no_evaluation: Diagnostic | None


def communicate(order: Order, slots: int | None = None) -> Program:
    """The `train` Program of the order. With `slots` (1 or more) a rank, or each of its streams,
    has no more than so many receive slots live at a time, or than its order needs if that is more;
    that can make it slower. Raises `Rejected`: `rule-between-ranks`."""
    return communicated(order, ("train",), slots).programs["train"].program


def forwards(order: Order, slots: int | None = None) -> Program:
    """The `eval` Program: what an evaluation runs of the order, its forwards, each by itself, over
    the same channels. Raises `Rejected`: `rule-between-ranks`."""
    return communicated(order, ("eval",), slots).programs["eval"].program


def communicated(
    order: Order, names: Sequence[ProgramName], slots: int | None = None
) -> Communication:
    """The Programs of these names, as `communicate` and `forwards` make them. Raises `Rejected`, as
    they do; but of a step whose forwards alone do not keep its rules there is no evaluation."""
    order = inserted(order)
    data = flow(order.problem)
    limited = bool(order.lists) and any(order.problem.spec.limits)
    step = None
    if "train" in names or limited:
        times = earliest(order)
        if "train" in names and (wrong := unenforced(order, times)):
            raise Rejected(wrong)
        step = _laid_out(order, times, data, "train", slots)
    found: dict[ProgramName, _LaidOut] = {}
    unkept = rules_that_forwards_break(order) if "eval" in names else []
    if unkept and "train" not in names:
        raise Rejected(unkept)
    for name in names:
        if name == "eval" and unkept:
            continue
        if name == "eval" or step is None:
            alone = _forwards(order)
            if limited and step is not None:
                alone = evaluated(alone, order.problem, step.issue)
            found[name] = _laid_out(alone, earliest(alone), data, "eval", slots)
        else:
            found[name] = step
    planned = slots is None and not order.lists and not has_collectives(order.problem.spec)
    programs: dict[ProgramName, Communicated] = {
        name: Communicated(one.program, one.issue.times if planned else None)
        for name, one in found.items()
    }
    return Communication(programs, unkept[0] if unkept else None)


def rules_that_forwards_break(order: Order) -> list[Diagnostic]:
    """The rules between ranks that hold in the step, perhaps, but not where its forwards run alone:
    there no gradient tells one rank how far another has come."""
    if not order.problem.spec.rules:
        return []
    alone = _forwards(order)
    return unenforced(alone, earliest(alone), evaluation=True)


def _forwards(order: Order) -> Order:
    """The Order without what an evaluation leaves out."""
    evaluates = [KINDS[operation.kind].evaluates for operation in order.problem.operations]
    lanes = []
    for lane in order.lanes:
        units = tuple([(i,) for unit in lane.units for i in unit if evaluates[i]])
        lanes.append(RankOrder(lane.rank, lane.stream, units))
    rows = tuple([tuple([i for i in row if evaluates[i]]) for row in order.lists])
    return Order(order.problem, tuple(lanes), order.engine, lists=rows)


class _LaidOut(NamedTuple):
    """A Program, and how it was issued."""

    program: Program
    issue: Issue


def _laid_out(
    order: Order, times: Earliest, data: ResultFlow, name: ProgramName, slots: int | None
) -> _LaidOut:
    """The Program of this name. Where its operations will start later than the order alone would
    let them (receives are held back, weights are gathered), the places in the lists of a rank with
    several streams are those of the clock."""
    spec = order.problem.spec
    made = outputs(order, times, data, slots)
    sums = _reductions(spec) if name == "train" else ()

    def program(issued: Issue) -> Program:
        inputs = ListInputs(order, issued, data.reads, _after(order, issued))
        return _program(spec, name, data.channels, sums, lists(inputs, made))

    issued = issue(order, times)
    found = program(issued)
    if order.lists and (slots is not None or spec.unshard_weights):
        issued = issue(order, _by_clock(order, times, found))
        found = program(issued)
    return _LaidOut(found, issued)


def _after(order: Order, issued: Issue) -> dict[int, list[int]]:
    """For every operation those of its rank, on other streams, that it comes after: what it needs,
    and what has to have freed memory where there is a limit."""
    if not order.lists:
        return {}
    problem, index = order.problem, issued.times.index
    rank, stream = problem.rank, problem.stream
    found: dict[int, list[int]] = {}
    for a, b, why in zip(problem.tail, problem.head, problem.why, strict=True):
        there = index[a] != NONE and index[b] != NONE and why < EdgeKind.ORDER
        if there and rank[a] == rank[b] and stream[a] != stream[b]:
            found.setdefault(b, []).append(a)
    for b, before in frees_before(problem, problem.holdings, issued).items():
        found.setdefault(b, []).extend(before)
    return found


def _by_clock(order: Order, times: Earliest, program: Program) -> Earliest:
    """The times at which the Program runs."""
    numbers = {one: i for i, one in enumerate(order.problem.operations)}
    start, end = [list(row) for row in times.start], [list(row) for row in times.end]
    for row in time(program).ranks:
        for timed in row:
            i = numbers[timed.operation]
            start[times.lane[i]][times.index[i]] = timed.start
            end[times.lane[i]][times.index[i]] = timed.end
    return replace(times, start=start, end=end)


def _program(
    spec: Spec,
    name: ProgramName,
    table: tuple[Channel, ...],
    sums: tuple[Reduction, ...],
    rows: Iterable[RankList],
) -> Program:
    """The lists, with what is done once for each stage."""
    ranks: list[tuple[Instruction, ...]] = []
    streams: list[tuple[int, ...]] = []
    for rank, row in enumerate(rows):
        if spec.streams:
            added = (
                with_sums(spec, sums, rank, row, _own(sums, rank))
                if name == "train"
                else with_weights(spec, row)
            )
            ranks.append(tuple(added.instructions))
            streams.append(tuple(added.streams))
        elif name == "eval":
            ranks.append(with_gathers(spec, row.instructions))
        else:
            own = [*row.instructions, *_own(sums, rank)]
            ranks.append(with_collectives(spec, sums, rank, own))
    return Program(spec, name, table, sums, tuple(ranks), tuple(streams))


def _own(sums: Sequence[Reduction], rank: int) -> list[Reduce]:
    """The sums that the rank takes part in."""
    return [
        Reduce(number)
        for number, reduction in enumerate(sums)
        if any(copy.rank == rank for copy in reduction.copies)
    ]


def _reductions(spec: Spec) -> tuple[Reduction, ...]:
    """One for each stage that has copies, where any of them is trained."""
    topology, found = Topology(spec), []
    for p, pipeline in enumerate(spec.pipelines):
        family = topology.copies(p)
        trained = not all(spec.pipelines[q].forward_only for q in family)
        if p != family[0] or len(family) == 1 or not trained:
            continue
        for s in range(len(pipeline.stages)):
            copies = [Copy(q, s, spec.pipelines[q].stages[s].rank) for q in family]
            copies.sort(key=lambda copy: (copy.rank, copy.pipeline))
            found.append(Reduction(tuple(copies)))
    return tuple(found)
