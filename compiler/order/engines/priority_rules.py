"""List schedules by many rules, of which the best is kept. No rule wins everywhere."""

from collections.abc import Iterator, Sequence
from itertools import chain, islice, product
from typing import NamedTuple

from stretto.compiler.order.kernels.arrays import Ints, Tables
from stretto.compiler.order.kernels.instance import BACK, F, Model
from stretto.compiler.order.kernels.jit import ints
from stretto.compiler.order.kernels.list_scheduler import decode
from stretto.compiler.order.kernels.replay import NOTHING

NEVER = 1 << 40


class Rule(NamedTuple):
    """How to choose: `keys` and `periods` by letter, `eager` and `cap` by rank, `look` in 64ths,
    as in `decode`."""

    keys: list[int]
    periods: list[int]
    eager: list[int]
    cap: list[int]
    look: int
    reserve: bool
    pairing: bool


class Lists:
    """Runs rules, with the memory that takes made once. `word` and `value` are of the last run."""

    def __init__(self, model: Model, t: Tables):
        self.model, self.t = model, t
        self._word = ints([NOTHING] * model.size)
        self._size = ints([0] * model.ranks)
        self._begin = ints([0] * model.ranks)
        self._free = ints([0] * model.ranks)
        self._end = ints([0] * model.size)

    def run(self, rule: Rule) -> Ints | None:
        """The flat word that the rule makes; None where it got stuck."""
        self._word[:] = ints([NOTHING] * self.model.size)
        value = decode(
            self.t,
            ints(rule.keys),
            ints(rule.periods),
            ints(rule.eager),
            ints(rule.cap),
            rule.look,
            rule.reserve,
            rule.pairing,
            self._word,
            self._size,
            self._begin,
            self._free,
            self._end,
        )
        return None if value < 0 else self._word.copy()


def rules(model: Model) -> Iterator[Rule]:
    """Rules to try, the more promising first."""
    plain = _plain(model)
    yield from islice(plain, 24)
    yield from _steady(model)
    yield from plain


def _plain(model: Model) -> Iterator[Rule]:
    """Gradients first; forwards of late stages before or
    after those of early ones, or by micro-batch; weight gradients when more than so many wait, or
    only when nothing else can run; how long to wait for a gradient that is known to come."""
    letters, ranks = len(model.rank), model.ranks
    place = [0] * ranks  # of each rank along its first pipeline
    for g in reversed(range(len(model.stages))):
        place[model.rank[3 * g]] = model.stages[g][1]
    depth = max(place) + 1
    several = len(model.stages) > ranks
    eagers = [
        [0] * ranks,
        [NEVER] * ranks,
        place,
        [2 * at for at in place],
        [1] * ranks,
        [2] * ranks,
        [depth - 1 - at for at in place],
        [depth // 2] * ranks,
    ]
    caps = [model.limit, *_early(model, place, depth)]
    flavours = ((1, 0), (-1, 0), (0, 1)) if several else ((1, 0),)
    for pairing in (True, False) if model.pairs else (False,):
        for reserve in (True, False) if several else (True,):
            for cap, eager, look in product(caps, eagers, (64, 0, 32)):
                for sign, period in flavours:
                    keys = [_key(model, x, sign) for x in range(letters)]
                    periods = [period * 8 if x % 3 != 2 else 0 for x in range(letters)]
                    yield Rule(keys, periods, eager, cap, look, reserve, pairing)


def _key(model: Model, x: int, sign: int) -> int:
    stage = model.stages[x // 3][1]
    if x % 3 == F:
        return 100_000 - sign * stage
    return 10 if x % 3 == BACK else 1_000_000


def _early(model: Model, place: list[int], depth: int) -> list[list[int]]:
    """How much may be on its way to each rank's backwards, for one stage per rank: what is
    admitted early is in the way later. 1F1B's and the eager one's; and where the limit allows
    some more than the number of ranks, a number that falls towards the end of the chain by one or
    two from rank to rank (less would make the ranks wait for each other), the twos all at the
    end, all at the beginning, or spread."""
    size = max((model.take[model.base[x]] for x in range(0, len(model.rank), 3)), default=0)
    if not size or len(model.stages) != model.ranks:
        return []
    last = depth - 1
    found = [[size * (ahead * (last - at) + 1) for at in place] for ahead in (1, 2)]
    most = min(model.limit) // size
    if depth < most < 2 * depth:
        found.append([size * (1 + (most - 1) * (last - at) // last) for at in place])
        found.append([size * min(most - at, 2 * (last - at) + 1) for at in place])
        found.append([size * max(depth - at, most - 2 * at) for at in place])
        found.append([size * (1 - -(most - 1) * (last - at) // last) for at in place])
    caps = [[min(a, b) for a, b in zip(cap, model.limit, strict=True)] for cap in found]
    return [cap for cap in caps if cap != model.limit]


def _steady(model: Model) -> Iterator[Rule]:
    """What comes next in a steady state where every operation runs as soon as its data is there:
    good where the limit is below the number of ranks; or, with weight gradients very late and
    younger micro-batches hardly behind older ones, where it is far above."""
    never = [NEVER] * model.ranks
    depth = max(s for _, s in model.stages) + 1
    first = list(product((64, 0), (6, 0), (2, 3)))
    later = product((32, 16, 64, 0), (4 * depth, 8 * depth, 2 * depth, 6), (1, 2))
    for look, late, halves in chain(first, later):
        keys = unhindered(model, late)
        period = [ticks * halves // 2 for ticks in periods(model)]
        yield Rule(keys, period, never, model.limit, look, True, bool(model.pairs))


def unhindered(model: Model, late: int = 4, waits: Sequence[int] = (0,) * 6) -> list[int]:
    """The earliest start of operation 0 of every letter by the data alone; weight gradients `late`
    times their own duration after it. `waits` (ticks) come on top of transfers: for forwards to an
    earlier rank, the same, a later one; then likewise for backwards."""
    key = [0] * len(model.rank)
    for _ in range(2 * len(model.stages)):
        for x, needs in enumerate(model.needs):
            if not model.count[x]:
                continue
            before = [
                (y, lag + waits[3 * (x % 3 > 0) + 1 + _sign(model.rank[x] - model.rank[y])])
                for y, lag in needs
                if model.count[y]
            ]
            if x % 3:
                before.append((x - 1, 0))
            starts = [key[y] + model.duration[model.base[y]] + lag for y, lag in before]
            key[x] = max([key[x], *starts])
    for x in range(2, len(key), 3):
        if model.count[x]:
            key[x] += late * model.duration[model.base[x]]
    return key


def _sign(number: int) -> int:
    return (number > 0) - (number < 0)


def periods(model: Model) -> list[int]:
    """By letter the time between its operations, if the busiest rank never idles."""
    work = [0] * model.ranks
    for x, r in enumerate(model.rank):
        work[r] += sum(model.duration[model.base[x] : model.base[x] + model.count[x]])
    most = max(work, default=0)
    return [max(1, most // max(1, model.count[x - x % 3])) for x in range(len(model.rank))]
