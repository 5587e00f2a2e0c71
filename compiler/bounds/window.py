"""B4. Why a limit idles a rank at both ends. On rank r let t1 be the least head of a backward, and
t2 the least tail of a forward (of pipelines that are trained). h and q are the least head and tail
of any operation of r; `work` is all it has to do.

Before t1 only forwards run, and memory has room for so many: at most A of the work is done.
In the last t2 of the step only what is then held can still run backward: at most B is done.

    end >= t1 + work − A,    end >= t2 + work − B,    and, if work > A + B,
    end >= t1 + t2 + work − A − B

Proof. All work but A is done after t1, all but B before end − t2, and all but A + B between the
two if end >= t1 + t2. Were end < t1 + t2, every moment would lie in one of the windows, and
work <= A + B. ∎

A is at most t1 − h and at most what L grains of forwards take (no memory comes back before t1);
B at most t2 − q and at most what backwards take that hold L grains together: x whole activations
and y that are past their I, with a·x + a'·y <= L. Forwards that are not trained hold nothing and
may run in both.

With overlapped units work is what the operations take alone, less what is saved (see `pairs`), s
at most for each. A unit has a backward, so it does not start before t1, and a forward, so it ends
t2 before the end: with x forwards in the first window and y backwards in the last at most
min(#F − x, #B − y) units are left. The bound is the least over x and y, since an order may choose.
(Where a unit takes the whole backward, what is past its I counts to y too.) And t1 and t2 may be
taken with this rank's own operations as long as they are alone: no unit of it starts before the
first backward, and none is left when the last forward has ended.
"""

from collections.abc import Callable
from typing import NamedTuple

from stretto.compiler.bounds.longest_paths import TickTable
from stretto.compiler.bounds.overlap import OverlapPair
from stretto.compiler.bounds.relaxation import Relaxation, StageOps

Item = tuple[int, int, int]
"""Grains, ticks, how many there are."""


class Window(NamedTuple):
    """The terms of the best of the three bounds: `first` is t1 and `last` is t2 where they take
    part, else 0; `before` and `after` are A and B; `saved` is what units save."""

    value: int
    first: int
    last: int
    work: int
    before: int
    after: int
    saved: int


class Ends(NamedTuple):
    """`first` and `last` are t1 and t2, `before` and `after` A and B, `free` the work of forwards
    that are not trained."""

    first: int
    last: int
    before: int
    after: int
    work: int
    free: int


def window(
    relaxed: Relaxation,
    rank: int,
    found: list[OverlapPair],
    head: TickTable,
    tail: TickTable,
    alone: tuple[TickTable, TickTable] | None = None,
) -> Window | None:
    """The largest of the three bounds; None where the rank trains nothing. `alone` has heads and
    tails for which no operation of the rank is in a unit, where they differ."""
    own = [c for c in relaxed.on(rank) if relaxed.classes[c].size]
    stages = [stage for stage in relaxed.stages if stage.forward in own]
    if not stages:
        return None
    total = {c: sum(relaxed.work[c]) for c in own}
    trained = {c for stage in stages for c in stage[:3]}
    free = sum(ticks for c, ticks in total.items() if c not in trained)
    first, last = _windows(stages, *(alone or (head, tail)))
    limit = relaxed.limits[rank]
    forwards = sum(total[stage.forward] for stage in stages)
    backwards = sum(total.values()) - free - forwards
    before = free + min(forwards, most(starts(relaxed, stages), limit))
    after = free + min(backwards, most(rests(relaxed, stages), limit))
    ends = Ends(
        first,
        last,
        min(first - min(min(head[c]) for c in own), before),
        min(last - min(min(tail[c]) for c in own), after),
        sum(total.values()),
        free,
    )
    saving = max((_saving(relaxed, pair) for pair in found if pair.forward in own), default=0)
    if not saving:
        return _best(ends, lambda first, last: (ends.before * first, ends.after * last, 0))
    return _best(ends, _with_units(relaxed, stages, ends, saving, _whole(relaxed, rank, found)))


def _windows(stages: list[StageOps], head: TickTable, tail: TickTable) -> tuple[int, int]:
    """t1 and t2."""
    first = min(min(head[stage.backward]) for stage in stages)
    return first, min(min(tail[stage.forward]) for stage in stages)


def _best(ends: Ends, spent: Callable[[bool, bool], tuple[int, int, int]]) -> Window:
    """The largest of the three bounds; `spent` gives for the windows that take part the least
    favourable A, B and savings."""
    choices = [(True, False), (False, True)]
    if ends.work > ends.before + ends.after:
        choices.append((True, True))
    found = []
    for first, last in choices:
        before, after, saved = spent(first, last)
        t1, t2 = ends.first * first, ends.last * last
        value = t1 + t2 + ends.work - before - after - saved
        found.append(Window(value, t1, t2, ends.work, before, after, saved))
    return max(found)


def _whole(relaxed: Relaxation, rank: int, found: list[OverlapPair]) -> bool:
    """Whether every unit of the rank takes the weight gradient with it, where there is one."""
    return all(
        pair.weight is not None or relaxed.classes[pair.backward].kind == "B"
        for pair in found
        if relaxed.classes[pair.forward].rank == rank
    )


def _with_units(
    relaxed: Relaxation, stages: list[StageOps], ends: Ends, saving: int, wholly: bool
) -> Callable[[bool, bool], tuple[int, int, int]]:
    """The least favourable A, B and savings where units may overlap; `wholly`: see `_whole`."""
    rank = relaxed.classes[stages[0].forward].rank
    limit = relaxed.limits[rank]
    own = [
        c for c in relaxed.on(rank) if relaxed.classes[c].kind == "F" and relaxed.classes[c].size
    ]
    forwards = sum(relaxed.classes[c].size for c in own)
    backwards = sum(relaxed.classes[stage.backward].size for stage in stages)
    longest = max(max(relaxed.work[c]) for c in own)
    whole, halves = rests(relaxed, stages)[: len(stages)], rests(relaxed, stages)[len(stages) :]
    fit = most([(grains, 1, many) for grains, _, many in starts(relaxed, stages)], limit)
    fit += forwards - sum(many for _, _, many in starts(relaxed, stages))
    counted = halves if wholly and halves else whole
    held = most([(grains, 1, many) for grains, _, many in counted], limit)

    def after(y: int) -> int:
        room = None if limit is None else limit - y * min(grains for grains, _, _ in whole)
        left = 0 if wholly else most(halves, room)
        return min(ends.after, y * max(ticks for _, ticks, _ in whole) + ends.free + left)

    def spent(first: bool, last: bool) -> tuple[int, int, int]:
        late = [after(y) for y in range(min(held, backwards) + 1)] if last else [0]
        best = (0, 0, 0)
        for x in range(min(fit, forwards) + 1 if first else 1):
            early = min(ends.before, x * longest) if first else 0
            for y, b in enumerate(late):
                saved = saving * min(forwards - x, backwards - y)
                best = max(best, (early, b, saved), key=sum)
        return best

    return spent


def _saving(relaxed: Relaxation, pair: OverlapPair) -> int:
    """The most that a unit of the two strands saves."""
    classes = (pair.forward, pair.backward, pair.weight)
    return max(0, sum(max(relaxed.work[c]) for c in classes if c is not None) - pair.ticks)


def starts(relaxed: Relaxation, stages: list[StageOps]) -> list[Item]:
    """Forwards as items: the grains each leaves in memory, its ticks, how many there are."""
    return [
        (stage.activation, max(relaxed.work[stage.forward]), relaxed.classes[stage.forward].size)
        for stage in stages
    ]


def rests(relaxed: Relaxation, stages: list[StageOps]) -> list[Item]:
    """What is held as items: for each stage whole activations with all that is left to do of
    them, then for each that is split those past their I, with their W."""
    whole, half = [], []
    for stage in stages:
        ticks = max(relaxed.work[stage.backward])
        if stage.weight is not None:
            rest = max(relaxed.work[stage.weight])
            ticks += rest
            half.append((stage.kept, rest, relaxed.classes[stage.weight].size))
        whole.append((stage.activation, ticks, relaxed.classes[stage.backward].size))
    return whole + half


def most(items: list[Item], room: int | None) -> int:
    """An upper bound of the ticks that fit into `room` grains: exact for items of one or two
    kinds or of one size, else as if the last could be cut."""
    kinds: dict[tuple[int, int], int] = {}
    for grains, ticks, many in items:
        kinds[grains, ticks] = kinds.get((grains, ticks), 0) + many
    if room is None:
        return sum(ticks * many for (_, ticks), many in kinds.items())
    found = sum(ticks * many for (grains, ticks), many in kinds.items() if not grains)
    dense = sorted((kind for kind in kinds if kind[0]), key=lambda kind: -kind[1] / kind[0])
    if len(dense) == 2:
        (a, t), (b, u) = dense
        n, m = kinds[a, t], kinds[b, u]
        fits = range(min(n, max(room, 0) // a) + 1)
        return found + max(x * t + min(m, (room - x * a) // b) * u for x in fits)
    same = len({grains for grains, _ in dense}) == 1
    for grains, ticks in dense:
        many = min(kinds[grains, ticks], room // grains)
        found += many * ticks
        room -= many * grains
        if many < kinds[grains, ticks]:
            return found + (0 if same else room * ticks // grains)
    return found
