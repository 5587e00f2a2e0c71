"""B4: why a memory limit idles a rank at both ends of the step.

On rank r let t1 be the least head of a backward, and
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

With overlapped units work is what the operations take alone, less what is saved (see `overlap`), s
at most for each. A unit has a backward, so it does not start before t1, and a forward, so it ends
t2 before the end: with x forwards in the first window and y backwards in the last at most
min(#F − x, #B − y) units are left. The bound is the least over x and y, since an order may choose.
(Where a unit takes the whole backward, what is past its I counts to y too.) And t1 and t2 may be
taken with this rank's own operations as long as they are alone: no unit of it starts before the
first backward, and none is left when the last forward has ended.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from stretto.compiler.bounds.context import EFFORT, Finding, Subject
from stretto.compiler.bounds.longest_paths import heads, tails, tails_to
from stretto.compiler.bounds.overlap import OverlapPair
from stretto.compiler.bounds.relaxation import Relaxation, StageOps, TickTable
from stretto.compiler.bounds.span import span_heads

MemoryItem = tuple[int, int, int]
"""Grains, ticks, how many there are."""


class Window(NamedTuple):
    """The terms, in ticks, of the best of the three bounds: `first` is t1 and `last` is t2 where
    they take part, else 0; `before` and `after` are A and B; `saved` is what units save."""

    value: int
    first: int
    last: int
    work: int
    before: int
    after: int
    saved: int


class WindowEnds(NamedTuple):
    """`first` and `last` are t1 and t2, `before` and `after` A and B, `free` the work of forwards
    that are not trained, all in ticks."""

    first: int
    last: int
    before: int
    after: int
    work: int
    free: int


class RankWork(Struct, frozen=True):
    """What a rank has to do: its op classes, its trained stages, the units that its operations may
    be in."""

    relaxed: Relaxation
    rank: int
    own: list[int]
    stages: list[StageOps]
    pairs: list[OverlapPair]

    @property
    def limit(self) -> int | None:
        """Grains that the rank may hold."""
        return self.relaxed.limits[self.rank]

    def total(self, classes: list[int]) -> int:
        """Ticks of all operations of these classes."""
        return sum(sum(self.relaxed.work[c]) for c in classes)

    def starts(self) -> list[MemoryItem]:
        """Forwards as items: the grains each leaves in memory, its ticks, how many there are."""
        return [
            (one.activation, self._longest(one.forward), self.relaxed.classes[one.forward].size)
            for one in self.stages
        ]

    def whole(self) -> list[MemoryItem]:
        """What is held as items: whole activations with all that is left to do of them."""
        return [
            (
                one.activation,
                self._longest(one.backward) + self._longest(one.weight),
                self.relaxed.classes[one.backward].size,
            )
            for one in self.stages
        ]

    def halves(self) -> list[MemoryItem]:
        """What is held past its I, with its W."""
        return [
            (one.kept, self._longest(one.weight), self.relaxed.classes[one.weight].size)
            for one in self.stages
            if one.weight is not None
        ]

    def _longest(self, c: int | None) -> int:
        return 0 if c is None else max(self.relaxed.work[c])

    def saving(self) -> int:
        """The most ticks that a unit saves."""
        saved = (sum(self._longest(c) for c in pair.classes) - pair.ticks for pair in self.pairs)
        return max(0, *saved) if self.pairs else 0

    def wholly(self) -> bool:
        """Whether every unit takes the weight gradient with it, where there is one."""
        return all(
            pair.weight is not None or self.relaxed.classes[pair.backward].kind == "B"
            for pair in self.pairs
        )


def find(subject: Subject) -> Finding | None:
    """The largest of the three bounds; None where the rank trains nothing."""
    if subject.rank != subject.on:
        return None
    found = _window(subject)
    return found and Finding(found.value, subject, partial(_reason, found))


def _reason(window: Window, subject: Subject) -> str:
    """What the ends of the step leave a rank to do."""
    units = subject.context.units
    parts = []
    if window.first:
        parts.append(
            f"{units(window.before)} in the {units(window.first)} before its first "
            "backward can start"
        )
    if window.last:
        parts.append(f"{units(window.after)} in the {units(window.last)} after its last forward")
    saved = f" less {units(window.saved)} by overlapping" if window.saved else ""
    return (
        f"rank {subject.rank}: of its work of {units(window.work)}{saved} it can do only "
        f"{' and '.join(parts)}"
    )


def _window(subject: Subject) -> Window | None:
    """The terms of the largest of the three bounds."""
    relaxed, own = subject.context.relaxed, subject.own
    stages = [s for s in relaxed.trained(subject.on) if relaxed.classes[s.forward].size]
    if not stages:
        return None
    pairs = [pair for c in own for pair in subject.context.overlaps_of.get(c, ())]
    rank = RankWork(relaxed, subject.rank, own, stages, pairs)
    trained = [c for stage in stages for c in stage[:3] if c is not None]
    free = rank.total([c for c in own if c not in trained])
    forwards = rank.total([stage.forward for stage in stages])
    work = rank.total(own)
    head, tail = _alone(subject)
    first = min(min(head[stage.backward]) for stage in stages)
    last = min(min(tail[stage.forward]) for stage in stages)
    early = free + min(forwards, most(rank.starts(), rank.limit))
    late = free + min(work - free - forwards, most(rank.whole() + rank.halves(), rank.limit))
    before, after = min(first - subject.before, early), min(last - subject.after, late)
    ends = WindowEnds(first, last, before, after, work, free)
    if not rank.saving():
        return _best(ends, lambda first, last: (before * first, after * last, 0))
    return _best(ends, _with_units(rank, ends))


def _alone(subject: Subject) -> tuple[TickTable, TickTable]:
    """Heads and tails for which no operation of the rank is in a unit; those of the subject where
    that is the same, and where it would take too long."""
    relaxed, graph = subject.context.relaxed, subject.context.graph
    own = relaxed.on(subject.rank)
    same = all(graph.path[c] == relaxed.work[c] for c in own)
    if same or relaxed.size * relaxed.spec.ranks > EFFORT:
        return subject.head, subject.tail
    path = [relaxed.work[c] if c in own else ticks for c, ticks in enumerate(graph.path)]
    other = replace(graph, path=path)
    if subject.context.of_makespan:
        return heads(other, subject.head), tails(other, subject.tail)
    rank = subject.rank
    return span_heads(other, rank, subject.first), tails_to(other, rank)


def _best(ends: WindowEnds, spent: Callable[[bool, bool], tuple[int, int, int]]) -> Window:
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


def _with_units(rank: RankWork, ends: WindowEnds) -> Callable[[bool, bool], tuple[int, int, int]]:
    """The least favourable A, B and savings where units may overlap."""
    relaxed, limit, saving, wholly = rank.relaxed, rank.limit, rank.saving(), rank.wholly()
    own = [c for c in rank.own if relaxed.classes[c].kind == "F"]
    forwards = sum(relaxed.classes[c].size for c in own)
    backwards = sum(relaxed.classes[stage.backward].size for stage in rank.stages)
    longest = max(max(relaxed.work[c]) for c in own)
    starts, whole, halves = rank.starts(), rank.whole(), rank.halves()
    fit = _number(starts, limit) + forwards - sum(many for _, _, many in starts)
    held = _number(halves if wholly and halves else whole, limit)

    def after(y: int) -> int:
        room = None if limit is None else limit - y * min(grains for grains, _, _ in whole)
        left = 0 if wholly else most(halves, room)
        return min(ends.after, y * max(ticks for _, ticks, _ in whole) + ends.free + left)

    def spent(first: bool, last: bool) -> tuple[int, int, int]:
        late = [after(y) for y in range(min(held, backwards) + 1)] if last else [0]
        upto, beyond = _largest(late, saving)
        best = (0, 0, 0)
        for x in range(min(fit, forwards) + 1 if first else 1):
            early = min(ends.before, x * longest) if first else 0
            # As many units as forwards are left, up to this y; beyond it as backwards are.
            turn = backwards - forwards + x
            seen = [upto[min(turn, len(late) - 1)]] if turn >= 0 else []
            for y in seen + beyond[max(0, turn + 1) :][:1]:
                saved = saving * min(forwards - x, backwards - y)
                best = max(best, (early, late[y], saved), key=sum)
        return best

    return spent


def _largest(late: list[int], saving: int) -> tuple[list[int], list[int]]:
    """For every y the first place up to it where `late` is largest, and the first from it on where
    it is after `saving` was taken for each step: all pairs of x and y are seen in linear time."""
    upto, beyond = [0], [len(late) - 1]
    for y in range(1, len(late)):
        upto.append(y if late[y] > late[upto[-1]] else upto[-1])
    for y in range(len(late) - 2, -1, -1):
        best = beyond[-1]
        beyond.append(y if late[y] - saving * y >= late[best] - saving * best else best)
    beyond.reverse()
    return upto, beyond


def _number(items: list[MemoryItem], room: int | None) -> int:
    """How many items fit into `room` grains, at most."""
    return most([(grains, 1, many) for grains, _, many in items], room)


def most(items: list[MemoryItem], room: int | None) -> int:
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
