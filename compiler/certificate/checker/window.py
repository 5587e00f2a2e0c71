"""B4 of `docs/bounds.md`: before its first backward (t1) a rank runs forwards only, as many as
memory takes; in the last t2, after its last forward, it runs only what memory then held; unless all
of its work fits into these, t1 + t2 + the rest of its work."""

from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

from stretto.compiler.certificate.checker.graph import TickMap
from stretto.compiler.certificate.checker.instance import OpType, demand
from stretto.compiler.certificate.checker.relaxation import RelaxedInstance

Spend = Callable[[int], None]
"""Is told how many steps will be made."""

Items = list[tuple[int, int, int]]
"""Grains, ticks, how many."""


class RankAtEnds(NamedTuple):
    """A rank's work in ticks: `total` of all its operations, `free` of those that leave nothing in
    memory, `trained` of the forwards that do. What memory is to hold: `starts`, the forwards, and
    `rests`, what is left to do of what they left. `forwards` and `backwards`: how many there are.
    `saved`: the most that an overlapped unit saves; `wholly`: whether every unit has the whole
    backward in it. `slowest`: the ticks of the longest forward and of the longest of `rests`."""

    limit: int | None
    total: int
    free: int
    trained: int
    starts: Items
    rests: Items
    forwards: int
    backwards: int
    saved: int
    wholly: bool
    slowest: tuple[int, int]


def window(relaxed: RelaxedInstance, rank: int, heads: TickMap, tails: TickMap) -> int:
    """The bound, from heads and tails of all operations. Raises `Refuted` where it says nothing."""
    case = f"a case of the evidence is by `window` of rank {rank}"
    own = relaxed.on(rank)
    stages = [s for s in own if s[0] == "F" and not relaxed.passing(s)]
    alike = not relaxed.instance.exceptions
    demand(alike, f"{case}, and operations of the instance have durations of their own")
    demand(bool(stages), f"{case}, which trains nothing")
    work, spend = _work(relaxed, rank, own, stages), relaxed.instance.spend
    spend(8 * work.forwards)

    def least(types: list[OpType], times: TickMap) -> int:
        return min(times[s, m] for s in types for m in range(relaxed.count[s]))

    t1 = least([relaxed.durations.backward(f) for f in stages], heads)
    t2 = least(stages, tails)
    early = work.free + min(most(work.starts, work.limit), work.trained)
    before = min(t1 - least(own, heads), early)
    after = min(t2 - least(own, tails), work.free + most(work.rests, work.limit))
    demand(before >= 0 <= after, f"{case}, whose windows are {before} and {after} ticks long")
    found = [
        t1 + work.total - _spent(work, spend, before, None),
        t2 + work.total - _spent(work, spend, None, after),
    ]
    if work.total > before + after:
        found.append(t1 + t2 + work.total - _spent(work, spend, before, after))
    return max(found)


def _work(
    relaxed: RelaxedInstance, rank: int, own: list[OpType], stages: list[OpType]
) -> RankAtEnds:
    """What the rank has to do; `own` are its types, `stages` its forwards that are trained."""
    alone, count, split = relaxed.durations.alone, relaxed.count, relaxed.instance.split
    total = {s: alone[s] * count[s] for s in own}
    starts, rests = [], []
    for f in stages:
        stage, n, weight = relaxed.instance.stage(f), count[f], ("W", *f[1:])
        starts.append((stage["activation"], alone[f], n))
        rest = alone[weight] if split else 0
        rests.append((stage["activation"], alone[relaxed.durations.backward(f)] + rest, n))
        if split:
            rests.append((stage["kept"], rest, n))
    saved, wholly = 0, True
    for f, b, whole, ticks in {u for s in own for u in relaxed.durations.units(s)}:
        both = alone[f] + alone[b] + (alone["W", *b[1:]] if whole and split else 0)
        saved = max(saved, both - ticks)
        wholly = wholly and whole
    return RankAtEnds(
        relaxed.instance.limits[rank],
        sum(total.values()),
        sum(ticks for s, ticks in total.items() if relaxed.passing(s)),
        sum(total[f] for f in stages),
        starts,
        rests,
        sum(count[s] for s in own if s[0] == "F"),
        sum(count[f] for f in stages),
        saved,
        wholly,
        (max(alone[s] for s in own if s[0] == "F"), max(ticks for _, ticks, _ in rests)),
    )


def _spent(work: RankAtEnds, spend: Spend, before: int | None, after: int | None) -> int:
    """The most that an order can put into the windows and save; None: this window takes no part.
    With x forwards and y backwards in the windows no more than the others may overlap."""
    xs = most([(a, 1, n) for a, _, n in work.starts], work.limit) + work.forwards - work.backwards
    ys = most([(a, 1, n) for a, _, n in work.rests], work.limit) if work.wholly else 0
    many = work.forwards if before is not None and work.saved else 0
    late = work.backwards if after is not None and work.saved else 0
    options = []
    spend((min(xs, many) + 1) * (min(ys, late) + 1))
    for x in range(min(xs, many) + 1):
        a = before or 0
        if work.saved:
            a = min(a, x * work.slowest[0])
        for y in range(min(ys, late) + 1):
            b = after or 0
            if work.saved and work.wholly:
                b = min(b, y * work.slowest[1] + work.free)
            options.append(a + b + work.saved * min(work.forwards - x, work.backwards - y))
    return max(options)


def most(items: Items, room: int | None) -> int:
    """At least the ticks that fit into `room` grains, of (grains, ticks, how many)."""
    kinds: dict[tuple[int, int], int] = {}
    for grains, ticks, many in items:
        kinds[grains, ticks] = kinds.get((grains, ticks), 0) + many
    found = sum(t * n for (a, t), n in kinds.items() if room is None or not a)
    dense = sorted(
        ((a, t, n) for (a, t), n in kinds.items() if a), key=lambda k: Fraction(-k[1], k[0])
    )
    if room is None or not dense:
        return found
    if len(dense) <= 2:  # exact
        (a, t, n), (b, u, m) = dense[0], dense[-1] if len(dense) == 2 else (1, 0, 0)
        return found + max(
            x * t + min(m, (room - x * a) // b) * u for x in range(min(n, room // a) + 1)
        )
    for a, t, n in dense:  # as if the last could be cut
        fits = min(n, room // a)
        found, room = found + fits * t, room - fits * a
        if fits < n:
            return found + -(-room * t // a)
    return found
