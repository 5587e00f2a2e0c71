"""Order → Program. Adds to the sequences of computations what moves data between them: receives,
sends, waits, frees, and the sums over replicated stages. `docs/instructions.md` says where each
stands and why. Promised: the Program can finish, even where a send waits for its receive; and by
the clock its units start when those of the Order can start at the earliest, unless receives are
held back for want of slots.

Why it can finish: all units of all ranks stand in one sequence, by start, in which each comes
after what it needs. Before a unit stand only posts, waits for messages made by units earlier in
the sequence, and waits for sends whose receive is posted right after one that is earlier.
"""

from stretto.compiler.diagnostics.diagnostic import Rejected
from stretto.compiler.order import Order, RankOrder
from stretto.compiler.order.earliest_start import Earliest, earliest
from stretto.compiler.order.unenforced_rules import unenforced
from stretto.compiler.problem.kinds import KINDS
from stretto.compiler.problem.problem import Problem
from stretto.compiler.problem.spec import NONE, Spec
from stretto.compiler.problem.topology import Topology
from stretto.compiler.program.collectives import with_collectives, with_gathers
from stretto.compiler.program.inserted import inserted
from stretto.compiler.program.messages import DataEdge, Message, Output, channels, flow, outputs
from stretto.compiler.program.program import (
    Channel,
    Compute,
    Copy,
    Free,
    Instruction,
    Program,
    Receive,
    Reduce,
    Reduction,
    Send,
    Wait,
)
from stretto.compiler.program.slots import assign


def communicate(order: Order, slots: int | None = None) -> Program:
    """The `train` Program of the order. With `slots` (1 or more) a rank has no more than so many
    receive slots live at a time, or than its order needs if that is more; that can make it slower.
    Raises `Rejected`: `rule-between-ranks`."""
    order = inserted(order)
    spec, times = order.problem.spec, earliest(order)
    if wrong := unenforced(order, times):
        raise Rejected(wrong)
    edges, sums = flow(order.problem), _reductions(spec)
    table = channels(order.problem, edges)
    ranks = []
    for rank, instructions in enumerate(_lists(order, times, edges, table, slots)):
        for number, reduction in enumerate(sums):
            if any(copy.rank == rank for copy in reduction.copies):
                instructions.append(Reduce(number))
        ranks.append(with_collectives(spec, sums, rank, instructions))
    return Program(spec, "train", table, sums, tuple(ranks))


def forwards(order: Order, slots: int | None = None) -> Program:
    """The `eval` Program: what an evaluation runs of the order, its forwards, each by itself, over
    the same channels."""
    order = inserted(order)
    evaluates = [KINDS[operation.kind].evaluates for operation in order.problem.operations]
    lanes = []
    for lane in order.lanes:
        units = tuple([(i,) for unit in lane.units for i in unit if evaluates[i]])
        lanes.append(RankOrder(lane.rank, lane.stream, units))
    edges = flow(order.problem)
    table = channels(order.problem, edges)
    alone = Order(order.problem, tuple(lanes), order.engine)
    lists = _lists(alone, earliest(alone), edges, table, slots)
    spec = order.problem.spec
    return Program(spec, "eval", table, (), tuple([with_gathers(spec, row) for row in lists]))


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


class _ListLayout:
    """What is to stand where in one rank's list."""

    def __init__(self, lane: RankOrder):
        many = len(lane.units) + 1  # the last is for what stands behind all of them
        self.units = lane.units
        self.posts: list[list[Message]] = [[] for _ in range(many)]  # before the unit
        self.send_waits: list[list[Output]] = [
            [] for _ in range(many)
        ]  # waited for before the unit
        self.released: list[list[Output]] = [[] for _ in range(many)]  # last used in the unit
        self.received: dict[int, Message] = {}  # these three by the operation that made it
        self.made: dict[int, Output] = {}
        self.slot: dict[int, int] = {}


def _lists(
    order: Order,
    times: Earliest,
    edges: list[DataEdge],
    table: tuple[Channel, ...],
    slots: int | None,
) -> list[list[Instruction]]:
    """The instructions of every rank."""
    problem = order.problem
    for rank, lane in enumerate(order.lanes):
        assert (lane.rank, lane.stream) == (rank, 0), "one lane for every rank"
    number = {channel: k for k, channel in enumerate(table)}
    lanes = [_ListLayout(lane) for lane in order.lanes]
    for own, row in zip(lanes, outputs(order, times, edges, number, slots), strict=True):
        for output in row:
            own.made[output.result] = output
            if output.messages:
                own.send_waits[output.send_wait].append(output)
            if output.last >= max(output.send_wait, 0):
                own.released[output.last].append(output)
            for message in output.messages:
                lanes[message.target].posts[message.posted].append(message)
                lanes[message.target].received[message.result] = message
    reads = _reads(problem, edges)
    lists = []
    for own in lanes:
        for posts in own.posts:
            posts.sort(key=lambda message: (message.made, message.channel))  # keeps each channel's
        _number(own)
        lists.append(_list(problem, own, reads))
    return lists


def _reads(problem: Problem, edges: list[DataEdge]) -> list[tuple[int, ...]]:
    """For every operation those whose results it uses: its own pipeline's first, then the others
    by their place in the file."""
    found: list[list[int]] = [[] for _ in problem.operations]
    for a, b, _, _ in edges:
        found[b].append(a)
    own = [operation.pipeline for operation in problem.operations]
    for b, uses in enumerate(found):
        if len(uses) > 1:
            uses.sort(key=lambda a: (own[a] != own[b], own[a], problem.operations[a].stage))
    return [tuple(uses) for uses in found]


def _number(own: _ListLayout) -> None:
    """Give every result a slot: first those received, then those made here. Within a unit, in
    time: 0 posts, 1 waits and frees before it, 2 and 3 its operations, 4 frees after it."""
    results, lifetimes = [], []
    for posts in own.posts:
        for message in posts:
            results.append(message.result)
            lifetimes.append((5 * message.posted, 5 * message.last + 4))
    numbers = assign(lifetimes)
    own.slot.update(zip(results, numbers, strict=True))
    many = max(numbers, default=NONE) + 1
    results, lifetimes = [], []
    for output in own.made.values():
        results.append(output.result)
        born = 5 * output.made + 2 + own.units[output.made].index(output.result)
        lifetimes.append((born, max(5 * output.send_wait + 1, 5 * output.last + 4)))
    numbers = assign(lifetimes)
    own.slot.update((i, many + n) for i, n in zip(results, numbers, strict=True))


def _list(problem: Problem, own: _ListLayout, reads: list[tuple[int, ...]]) -> list[Instruction]:
    """One rank's instructions, without the sums at its end."""
    operations, slot, made, received = problem.operations, own.slot, own.made, own.received
    found: list[Instruction] = []
    for k in range(len(own.units) + 1):
        for message in own.posts[k]:
            result = message.result
            found.append(Receive(slot[result], message.channel, operations[result]))
        for output in own.send_waits[k]:
            found.append(Wait(slot[output.result]))
            if output.last < k:
                found.append(Free(slot[output.result]))
        if k == len(own.units):
            break
        unit = own.units[k]
        arriving = [j for i in unit for j in reads[i] if j in received]
        found.extend([Wait(slot[j]) for j in arriving if received[j].first == k])
        for i in unit:
            writes = slot[i] if i in made else NONE
            uses = tuple([slot[j] for j in reads[i]]) if reads[i] else ()
            pair = k if len(unit) > 1 else NONE
            found.append(Compute(operations[i], uses, writes, pair, 0, problem.at[i]))
            if i in made:
                found.extend([Send(writes, message.channel) for message in made[i].messages])
        found.extend([Free(slot[j]) for j in arriving if received[j].last == k])
        found.extend([Free(slot[output.result]) for output in own.released[k]])
    return found
