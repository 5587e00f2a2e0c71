"""List schedules by many priority rules, of which the best is kept. No rule wins everywhere."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice, product

from stretto.compiler.order.kernels.arrays import Arrays
from stretto.compiler.order.kernels.bundle import Ints
from stretto.compiler.order.kernels.instance import SearchInstance
from stretto.compiler.order.kernels.jit import fast, ints
from stretto.compiler.order.kernels.list_scheduler import (
    FOREVER,
    Policy,
    list_schedule,
    list_state,
)
from stretto.compiler.order.kernels.op_classes import (
    BACK,
    F,
    W,
    forward_of,
    forwards,
    kind_of,
    stage_of,
    weights,
)
from stretto.compiler.order.search_state import SearchState

NAME = "list"
NEVER = 1 << 40  # larger than any number of operations, grains or ticks
FEW_RULES = 32  # for problems so large that a list takes long
LARGE = 100_000  # operations
MOST_STEPS = 500_000_000  # of all lists together, where no clock ends them


def run(state: SearchState, share: float) -> None:
    """Submit list schedules by many rules, whatever the share; fewer where each takes long."""
    budget, timed = state.budget, state.budget.effort is None
    scheduler = ListScheduler(state.t, state.stop, FOREVER if timed else MOST_STEPS)
    many = FEW_RULES if state.instance.size > LARGE else None
    if timed and state.instance.size > LARGE // 10 and not fast():
        many = FEW_RULES // 3
    began = budget.clock()
    for rule in islice(rules(state.instance), many):
        sequence = scheduler.run(rule)
        if sequence is not None:
            state.submit(sequence, NAME)
        # A search limited by time must leave some for what finds more.
        late = budget.clock() - began > budget.seconds / 4
        if (timed and state.incumbents and late) or (not timed and scheduler.steps > MOST_STEPS):
            break


class ListScheduler:
    """Runs rules, in memory that is made once, and for so many steps together."""

    def __init__(self, t: Arrays, stop: Ints | None = None, steps: int = FOREVER):
        self._t = t
        self._state = list_state(t, stop, steps)

    @property
    def steps(self) -> int:
        """Classes that were looked at so far, for one operation to start."""
        return int(self._state.totals[3])

    def run(self, rule: Policy) -> Ints | None:
        """The flat sequence that the rule, of lists, makes; None where it got stuck."""
        arrays = replace(
            rule,
            key=ints(rule.key),
            period=ints(rule.period),
            max_pending_w=ints(rule.max_pending_w),
            in_flight_cap=ints(rule.in_flight_cap),
        )
        value = list_schedule(self._t, arrays, self._state)
        return None if value < 0 else self._state.sequence.copy()


def rules(instance: SearchInstance) -> Iterator[Policy]:
    """Rules to try, the more promising first."""
    plain = _plain(instance)
    yield from islice(plain, 24)
    yield from _steady(instance)
    yield from plain


def _plain(instance: SearchInstance) -> Iterator[Policy]:
    """Gradients first; forwards of late stages before or after those of early ones, or by
    micro-batch; weight gradients when more than so many wait, or only when nothing else can run;
    how long to wait for a gradient that is known to come."""
    classes, ranks = len(instance.rank), instance.ranks
    place = [0] * ranks  # of each rank along its first pipeline
    for g in reversed(range(len(instance.stages))):
        place[instance.rank[forward_of(g)]] = instance.stages[g][1]
    depth = max(place) + 1
    several = len(instance.stages) > ranks
    pendings = [
        [0] * ranks,
        [NEVER] * ranks,
        place,
        [2 * at for at in place],
        [1] * ranks,
        [2] * ranks,
        [depth - 1 - at for at in place],
        [depth // 2] * ranks,
    ]
    caps = [instance.limit, *_early(instance, place, depth)]
    flavours = ((1, 0), (-1, 0), (0, 1)) if several else ((1, 0),)
    for pairing in (True, False) if instance.pairs else (False,):
        for reserve in (True, False) if several else (True,):
            for cap, pending, look in product(caps, pendings, (64, 0, 32)):
                for sign, period in flavours:
                    keys = [_key(instance, x, sign) for x in range(classes)]
                    periods = [period * 8 if kind_of(x) != W else 0 for x in range(classes)]
                    yield Policy(keys, periods, pending, cap, look, reserve, pairing)


def _key(instance: SearchInstance, x: int, sign: int) -> int:
    stage = instance.stages[stage_of(x)][1]
    if kind_of(x) == F:
        return 100_000 - sign * stage
    return 10 if kind_of(x) == BACK else 1_000_000


def _early(instance: SearchInstance, place: list[int], depth: int) -> list[list[int]]:
    """Caps (grains) on what each rank has in flight, for one stage per rank: what is admitted early
    is in the way later. 1F1B's and the eager one's; and where the limit allows some more than the
    number of ranks, a number that falls towards the end of the chain by one or two from rank to
    rank (less would make the ranks wait for each other), the twos all at the end, all at the
    beginning, or spread."""
    size = max((instance.alloc[instance.base[x]] for x in forwards(len(instance.rank))), default=0)
    if not size or len(instance.stages) != instance.ranks:
        return []
    last = depth - 1
    found = [[size * (ahead * (last - at) + 1) for at in place] for ahead in (1, 2)]
    most = min(instance.limit) // size
    if depth < most < 2 * depth:
        found.append([size * (1 + (most - 1) * (last - at) // last) for at in place])
        found.append([size * min(most - at, 2 * (last - at) + 1) for at in place])
        found.append([size * max(depth - at, most - 2 * at) for at in place])
        found.append([size * (1 - -(most - 1) * (last - at) // last) for at in place])
    caps = [[min(a, b) for a, b in zip(cap, instance.limit, strict=True)] for cap in found]
    return [cap for cap in caps if cap != instance.limit]


def _steady(instance: SearchInstance) -> Iterator[Policy]:
    """What comes next in a steady state where every operation runs as soon as its data is there:
    good where the limit is below the number of ranks; or, with weight gradients very late and
    younger micro-batches hardly behind older ones, where it is far above."""
    never = [NEVER] * instance.ranks
    depth = max(s for _, s in instance.stages) + 1
    first = list(product((64, 0), (6, 0), (2, 3)))
    later = product((32, 16, 64, 0), (4 * depth, 8 * depth, 2 * depth, 6), (1, 2))
    for look, late, halves in chain(first, later):
        keys = unhindered(instance, late)
        period = [ticks * halves // 2 for ticks in periods(instance)]
        yield Policy(keys, period, never, instance.limit, look, True, bool(instance.pairs))


def unhindered(
    instance: SearchInstance, late: int = 4, waits: Sequence[int] = (0,) * 6
) -> list[int]:
    """The earliest start (ticks) of operation 0 of every class by the data alone; weight gradients
    `late` times their own duration after it. `waits` (ticks) come on top of transfers: for
    forwards to an earlier rank, the same, a later one; then likewise for backwards."""
    key = [0] * len(instance.rank)
    for _ in range(2 * len(instance.stages)):
        for x, needs in enumerate(instance.needs):
            if not instance.count[x]:
                continue
            first = 1 if kind_of(x) == F else 4
            before = [
                (y, lag + waits[first + _sign(instance.rank[x] - instance.rank[y])])
                for y, lag in needs
                if instance.count[y]
            ]
            if kind_of(x) != F:
                before.append((x - 1, 0))
            starts = [key[y] + instance.duration[instance.base[y]] + lag for y, lag in before]
            key[x] = max([key[x], *starts])
    for x in weights(len(key)):
        if instance.count[x]:
            key[x] += late * instance.duration[instance.base[x]]
    return key


def _sign(number: int) -> int:
    return (number > 0) - (number < 0)


def periods(instance: SearchInstance) -> list[int]:
    """By class the time (ticks) between its operations, if the busiest rank never idles."""
    work = [0] * instance.ranks
    for x, r in enumerate(instance.rank):
        work[r] += sum(instance.duration[instance.base[x] : instance.base[x] + instance.count[x]])
    most = max(work, default=0)
    many = [instance.count[forward_of(stage_of(x))] for x in range(len(instance.rank))]
    return [max(1, most // max(1, one)) for one in many]
