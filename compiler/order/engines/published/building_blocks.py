"""V-Half and V-Min: a V repeats one building block, and its memory stays what the block needs.

Source: Qi et al., "Pipeline Parallelism with Controllable Memory", 2024: repeat, squeeze, reorder.
A block says in which slot a rank runs each operation of micro-batch 0; that of micro-batch n is
PERIOD · n slots later. Every operation takes one slot here, whatever it costs later: what is made
is an order. Weight gradients take the slots that are left.

The order is that of the authors' greedy generator (`zbv_greedy.py` of sail-sg's fork of
Megatron-LM): operations before the steady state, and those after it, move to the earliest slot that
is free, has their data and leaves the memory of every rank within the block's; once with the weight
gradients where they are, and once more at the end of the step with these in whatever slot is free.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf

PERIOD = 6
"""Slots of a rank for one micro-batch: F, I and W of two stages."""

LARGEST = 20_000
"""Operations of a step up to which these orders are made: about a second."""

F_DOWN, F_UP, I_UP, I_DOWN, W_ANY, W_DOWN = range(6)
"""What a rank runs for one micro-batch, in the order of its data. W_ANY: a weight gradient of
either stage, or that of the stage on the way up where W_DOWN is the other one's."""

BuildingBlock = list[list[int]]
"""For every rank the slots of F_DOWN, F_UP, I_UP and I_DOWN of micro-batch 0."""

SlotRows = list[list[list[int]]]
"""For every rank and kind the slots of all micro-batches, ascending."""


def v_half(ranks: int) -> BuildingBlock:
    """Half of 1F1B's memory: the way down takes two slots a rank, the way up one."""
    gap = 3 if ranks % 2 == 0 else 0
    return [
        [2 * r, 3 * ranks - r - 2, 3 * ranks + gap + 2 * r - 1, 6 * ranks + gap - r - 2]
        for r in range(ranks)
    ]


def v_min(ranks: int) -> BuildingBlock:
    """A third of 1F1B's memory: no operation waits for another micro-batch's."""
    gap = 2 if ranks % 3 == 0 else 0
    return [
        [r, 2 * ranks - r - 1, 2 * ranks + gap + r, 4 * ranks + gap - r - 1] for r in range(ranks)
    ]


def orders(block: BuildingBlock, many: int) -> list[list[int]]:
    """For every rank the kinds it runs, in order, for so many micro-batches."""
    rows = [[[start + PERIOD * n for n in range(many)] for start in rank] for rank in block]
    rows = squeezed(_moved([with_weights(rank, False) for rank in rows], True))
    rows = [with_weights(rank, False) for rank in _moved([rank[:4] for rank in rows], False)]
    return [_kinds(with_weights(rank[:4], True)) for rank in squeezed(rows)]


def with_weights(rank: Sequence[list[int]], apart: bool) -> list[list[int]]:
    """A rank's slots and those of its weight gradients, each in the first free slot after its
    backward; the two stages' `apart`, those of the way up first, or all together."""
    taken = {slot: kind for kind, slots in enumerate(rank) for slot in slots}
    waiting = [0, 0]
    found: list[list[int]] = [[], []]
    slot = 0
    while slot <= max(taken) or any(waiting):
        kind = taken.get(slot)
        if kind in (I_UP, I_DOWN):
            waiting[kind - I_UP if apart else 0] += 1
        elif kind is None and any(waiting):
            which = 0 if waiting[0] else 1
            waiting[which] -= 1
            found[which].append(slot)
        slot += 1
    return [*map(list, rank), *(found if apart else found[:1])]


def squeezed(rows: SlotRows) -> SlotRows:
    """The same orders, every operation as early as its data and its rank allow."""
    free = [0] * len(rows)
    new: SlotRows = [[[] for _ in rank] for rank in rows]
    for _, r, kind, n in _by_slot(rows):
        slot = max(free[r], *(before + 1 for before in _data(new, r, kind, n)), 0)
        new[r][kind].append(slot)
        free[r] = slot + 1
    return new


def _kinds(rank: Sequence[Sequence[int]]) -> list[int]:
    return [kind for _, kind in sorted((s, kind) for kind, row in enumerate(rank) for s in row)]


def _by_slot(rows: SlotRows) -> list[tuple[int, int, int, int]]:
    """Slot, rank, kind and micro-batch of everything, in the order of time."""
    return sorted(
        (slot, r, kind, n)
        for r, rank in enumerate(rows)
        for kind, slots in enumerate(rank)
        for n, slot in enumerate(slots)
    )


def _data(rows: SlotRows, r: int, kind: int, n: int) -> Iterator[int]:
    """The slots of what has to be over before this operation: the neighbour's, and what came before
    it on this rank; -1 before everything."""
    yield -1
    if kind in (F_DOWN, I_UP) and r > 0:
        yield rows[r - 1][kind][n]
    if kind in (F_UP, I_DOWN) and r + 1 < len(rows):
        yield rows[r + 1][kind][n]
    if F_DOWN < kind < W_ANY:
        yield rows[r][kind - 1][n]
    if n > 0:
        yield rows[r][kind][n - 1]


# ---------------------------------------------------------------------------- reordering


def _moved(rows: SlotRows, weights: bool) -> SlotRows:
    """The rows with what runs before the steady state and after it moved to the earliest slot that
    has room, or without `weights`, which then take what is left, only what runs after it."""
    length = 1 + max(slots[-1] for rank in rows for slots in rank)
    ranks = [SlotLane.of(rank, length) for rank in rows]
    most = max(max(lane.held) for lane in ranks)
    last = len(rows[0][F_DOWN]) - 1
    taken: list[set[int]] = [set() for _ in rows]
    full, ending = False, False  # whether the first micro-batch is back; whether no other follows
    for slot, r, kind, n in _by_slot(rows):
        if kind == I_DOWN and r == 0:
            full = True
        moves = ending or (not full and weights)
        if full and not ending and kind == F_DOWN and n == last:
            ending = True
        if moves:
            known = max(_data(rows, r, kind, n))
            if kind == W_ANY:
                known = max(known, sorted(rows[r][I_UP] + rows[r][I_DOWN])[n])
            for earlier in range(known + 1, slot):
                if earlier not in taken[r] and ranks[r].move(slot, earlier, most):
                    rows[r][kind][n] = slot = earlier
                    break
        taken[r].add(slot)
    return rows


@dataclass(slots=True)
class SlotLane:
    """A rank's slots: `kinds` (None: idle), and after every slot how many activations are `held`
    and how many weight gradients are `waiting` for an idle slot. `implied`: they take idle slots;
    else they have their own."""

    kinds: list[int | None]
    implied: bool
    held: list[int]
    waiting: list[int]

    @classmethod
    def of(cls, rank: Sequence[Sequence[int]], length: int) -> "SlotLane":
        """The lane of a rank with so many slots."""
        kinds: list[int | None] = [None] * length
        for kind, slots in enumerate(rank):
            for slot in slots:
                kinds[slot] = kind
        lane = cls(kinds, len(rank) <= W_ANY, [0] * length, [0] * length)
        lane._count(0, length)
        return lane

    def move(self, slot: int, earlier: int, most: int) -> bool:
        """Move what is in `slot` to an `earlier` idle one, if no more than `most` are held then."""
        self._swap(slot, earlier)
        if self._count(earlier, slot, most):
            return True
        self._swap(slot, earlier)
        return False

    def _swap(self, slot: int, earlier: int) -> None:
        self.kinds[slot], self.kinds[earlier] = self.kinds[earlier], self.kinds[slot]

    def _count(self, first: int, last: int, most: float = inf) -> bool:
        """Count anew from `first` on, to the slot after `last` from which nothing has changed.
        False, and nothing is changed, if more than `most` are held there."""
        held, waiting = (self.held[first - 1], self.waiting[first - 1]) if first else (0, 0)
        new_held: list[int] = []
        new_waiting: list[int] = []
        for slot in range(first, len(self.kinds)):
            kind = self.kinds[slot]
            if kind in (F_DOWN, F_UP):
                held += 1
            elif kind in (I_UP, I_DOWN):
                waiting += self.implied
            elif kind is not None:
                held -= 1
            elif waiting:
                waiting -= 1
                held -= 1
            if held > most:
                return False
            if slot > last and held == self.held[slot] and waiting == self.waiting[slot]:
                break
            new_held.append(held)
            new_waiting.append(waiting)
        end = first + len(new_held)
        self.held[first:end], self.waiting[first:end] = new_held, new_waiting
        return True
