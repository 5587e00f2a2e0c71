"""Simulated annealing of the words of all lanes: single parts move to places near their own, mostly
those on a longest path. `PartsInstance` and lanes in, better lanes out."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from stretto.compiler.order.engines.parts.instance import UNLIMITED, Lanes, PartsInstance, clock
from stretto.compiler.order.kernels.annealing import Cooling
from stretto.compiler.order.kernels.bundle import Ints
from stretto.compiler.order.kernels.jit import ints
from stretto.compiler.order.kernels.part_words import PartArrays, PartWords, anneal_parts

REACH = 24
"""Places that a part moves at most."""


@dataclass(frozen=True, slots=True)
class PartsRun:
    """One run: so many `moves`, from `hot` to `cold` (ticks), of 100 moves so many as `eager` of a
    part on a longest path; it ends at `enough` (ticks), or when `stop` becomes 1."""

    moves: int
    hot: float
    cold: float
    eager: int = 80
    enough: int = 0
    seed: int = 0
    stop: Ints | None = None


def part_arrays(instance: PartsInstance) -> PartArrays:
    """The instance for the loops."""
    first = [0]
    many = [0] * instance.lanes
    for lane in instance.lane:
        many[lane] += 1
    for count in many:
        first.append(first[-1] + count)
    takes: list[list[int]] = [[] for _ in instance.lane]
    frees: list[list[int]] = [[] for _ in instance.lane]
    for h, (_, taken_by, freed_by) in enumerate(instance.holdings):
        takes[taken_by].append(h)
        for i in freed_by:
            frees[i].append(h)
    most = [-1] * instance.lanes
    limit = [-1] * instance.ranks
    for holding in instance.holdings:
        rank = instance.rank(holding.taken_by)
        if instance.one_lane[rank]:
            most[instance.lane[holding.taken_by]] = instance.limit[rank]
        elif instance.limit[rank] < UNLIMITED:
            limit[rank] = instance.limit[rank]
    before_at, before = _rows([[i for i, _ in row] for row in instance.before])
    after_at, after = _rows([[i for i, _ in row] for row in instance.after])
    takes_at, taken = _rows(takes)
    frees_at, freed = _rows(frees)
    ended_by_at, ended_by = _rows([list(h.freed_by) for h in instance.holdings])
    return PartArrays(
        first=ints(first),
        most=ints(most),
        lane=ints(instance.lane),
        ticks=ints(instance.ticks),
        kin=ints(instance.kin),
        before_at=ints(before_at),
        before=ints(before),
        before_lag=ints([lag for row in instance.before for _, lag in row]),
        after_at=ints(after_at),
        after=ints(after),
        after_lag=ints([lag for row in instance.after for _, lag in row]),
        takes_at=ints(takes_at),
        takes=ints(taken),
        frees_at=ints(frees_at),
        frees=ints(freed),
        grains=ints([h.grains for h in instance.holdings]),
        enders=ints([len(h.freed_by) for h in instance.holdings]),
        owner=ints([instance.rank(h.taken_by) for h in instance.holdings]),
        taken_by=ints([h.taken_by for h in instance.holdings]),
        ended_by_at=ints(ended_by_at),
        ended_by=ints(ended_by),
        limit=ints(limit),
    )


def _rows(rows: Iterable[Sequence[int]]) -> tuple[list[int], list[int]]:
    at, flat = [0], list[int]()
    for row in rows:
        flat.extend(row)
        at.append(len(flat))
    return at, flat


def part_words(
    instance: PartsInstance, lanes: Lanes, seed: int, stop: Ints | None = None
) -> PartWords:
    """The lanes for the loops; they must be able to finish."""
    timed = clock(instance, lanes)
    assert timed is not None
    word = [i for row in lanes for i in row]
    at, place = [0] * instance.size, [0] * instance.size
    for p, i in enumerate(word):
        at[i] = p
    for k, i in enumerate(timed.sequence):
        place[i] = k
    nothing = [0] * instance.size
    return PartWords(
        word=ints(word),
        at=ints(at),
        order=ints(timed.sequence),
        place=ints(place),
        head=ints(nothing),
        tail=ints(nothing),
        trial=ints(nothing),
        mark=ints(nothing),
        spare=ints(nothing),
        open=ints([0] * len(instance.holdings)),
        best=ints(word),
        least=ints([-1]),
        random=ints([(seed * 6151 + 77) % 2147483646 + 1]),
        stop_now=ints([0]) if stop is None else stop,
    )


def annealed(instance: PartsInstance, arrays: PartArrays, lanes: Lanes, run: PartsRun) -> Lanes:
    """The best lanes that the run finds; memory counted in sequence where one lane says it all."""
    words = part_words(instance, lanes, run.seed, run.stop)
    cooling = Cooling(run.moves, run.hot, run.cold)
    mixed = any(int(most) >= 0 for most in arrays.limit)
    anneal_parts(arrays, words, cooling, run.eager, REACH, mixed, run.enough)
    first = [int(p) for p in arrays.first]
    flat = [int(i) for i in words.best]
    return [flat[a:b] for a, b in pairwise(first)]
