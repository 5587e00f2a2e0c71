"""Between flat sequences, as engines search them, and Orders."""

from collections.abc import Sequence
from dataclasses import dataclass

from stretto.compiler.order import Order, RankOrder
from stretto.compiler.order.fuse_backwards import fuse_backwards
from stretto.compiler.order.kernels.arrays import Arrays
from stretto.compiler.order.kernels.instance import SearchInstance, StageNumbers, class_of
from stretto.compiler.order.kernels.op_classes import BACK, W, kind_of, stage_of, stages_in
from stretto.compiler.order.kernels.replay import NOTHING
from stretto.compiler.problem.spec import NONE, Operation


def pack(t: Arrays, ranks: Sequence[Sequence[tuple[int, ...]]]) -> list[int] | None:
    """One flat sequence of units from the op classes of every rank, pairs as two; None if some
    pair may not overlap or the operations are not all there. A pair whose backward takes its
    weight gradient along stands for three."""
    flat = [NOTHING] * len(t.ticks)
    seen = [0] * len(t.rank)
    for r, units in enumerate(ranks):
        p = t.sequence_at[r]
        for unit in units:
            if p == t.sequence_at[r + 1]:
                return None
            u = unit[0] if len(unit) == 1 else pair_of(t, *unit)
            if u < 0:
                return None
            flat[p] = u
            if len(unit) == 2 and t.fused[u]:
                seen[unit[1] - BACK + W] += 1
            for x in unit:
                seen[x] += 1
            p += 1
    return flat if seen == [int(many) for many in t.count] else None


def pair_of(t: Arrays, forward: int, backward: int) -> int:
    """The unit of these two classes overlapped, or -1 where they may not."""
    if not len(t.pair):
        return NONE
    stages = stages_in(len(t.rank))
    return int(t.pair[stage_of(forward) * stages + stage_of(backward)])


def apart(instance: SearchInstance, t: Arrays, sequence: Sequence[int]) -> list[int]:
    """A flat sequence in which what was written alone has no partner: its forward goes first. It
    can still run, since both could start at once."""
    flat = list(sequence)
    done = [0] * len(t.rank)
    for r in range(len(t.limit)):
        row: list[int] = []
        for u in sequence[t.sequence_at[r] : t.sequence_at[r + 1]]:
            if u == NOTHING:
                continue
            alone, both = int(t.single[u]), (int(t.forward[u]), int(t.backward[u]))
            classes = [alone] if alone >= 0 else [x for x in both if x >= 0]
            own = [int(t.base[x]) + done[x] for x in classes]
            for x in classes:
                done[x] += 1
            split = len(own) == 2 and not t.fused[u] and not instance.alone.isdisjoint(own)
            row += classes if split else [int(u)]
        row += [NOTHING] * (int(t.sequence_at[r + 1] - t.sequence_at[r]) - len(row))
        flat[t.sequence_at[r] : t.sequence_at[r + 1]] = row
    return flat


def complete(t: Arrays, sequence: Sequence[int]) -> bool:
    """Whether a flat sequence that comes from outside has every operation once, on its own rank;
    then it can be replayed."""
    if len(sequence) != len(t.ticks):
        return False
    seen = [0] * len(t.rank)
    for r in range(len(t.limit)):
        for u in sequence[t.sequence_at[r] : t.sequence_at[r + 1]]:
            if not NOTHING <= u < len(t.single):
                return False
            if u == NOTHING:
                continue
            classes = [x for x in (t.single[u], t.forward[u], t.backward[u]) if x >= 0]
            if t.fused[u]:
                classes.append(t.backward[u] - BACK + W)
            for x in set(classes):
                if t.rank[x] != r:
                    return False
                seen[x] += 1
    return seen == [int(many) for many in t.count]


@dataclass(frozen=True, slots=True)
class Expanded:
    """The units of every rank as op indices; backwards that run full, as the op indices of their I
    and of their W."""

    ranks: list[list[tuple[int, ...]]]
    full: dict[int, int]


def order_of(
    instance: SearchInstance, t: Arrays, sequence: Sequence[int], engine: str, proven: int = 0
) -> Order:
    """The Order that the flat sequence says, of the Problem in which the backwards that it runs
    full are whole operations."""
    expanded = expand_units(t, sequence)
    operation = instance.operation
    full = {operation[i]: operation[w] for i, w in expanded.full.items()}
    problem, new = fuse_backwards(instance.problem, full)
    ranks = tuple(
        RankOrder(r, 0, tuple([tuple([new[operation[op]] for op in unit]) for unit in units]))
        for r, units in enumerate(expanded.ranks)
    )
    return Order(problem, ranks, engine, proven)


def expand_units(t: Arrays, sequence: Sequence[int]) -> Expanded:
    """Count through the sequence. Weight gradients that run alone are those whose backwards did
    not run full, oldest first."""
    found = Expanded([], {})
    for r in range(len(t.limit)):
        here = [int(t.op_class[k]) for k in range(t.class_at[r], t.class_at[r + 1])]
        seen = dict.fromkeys(here, 0)
        pending: dict[int, list[int]] = {}
        units: list[tuple[int, ...]] = []
        for p in range(t.sequence_at[r], t.sequence_at[r + 1]):
            u = int(sequence[p])
            if u < 0:
                continue
            x = int(t.single[u])
            if x >= 0 and kind_of(x) == W and t.full_backward[stage_of(x)] >= 0:
                n = pending[x - W + BACK].pop(0)
                units.append((int(t.base[x]) + n,))
                continue
            unit = []
            for y in (x,) if x >= 0 else (int(t.forward[u]), int(t.backward[u])):
                if y < 0:
                    continue
                n = seen[y]
                seen[y] += 1
                unit.append(int(t.base[y]) + n)
                if kind_of(y) == BACK and t.fused[u]:
                    found.full[int(t.base[y]) + n] = int(t.base[y - BACK + W]) + n
                elif kind_of(y) == BACK:
                    pending.setdefault(y, []).append(n)
            units.append(tuple(unit))
        found.ranks.append(units)
    return found


def sequence_of(
    t: Arrays, stages: StageNumbers, ranks: Sequence[Sequence[tuple[Operation, ...]]]
) -> list[int] | None:
    """The flat sequence of an order given as the units of every rank; None where there is none. A
    unit that cannot run at once becomes several."""
    flat = [NOTHING] * len(t.ticks)
    for r, row in enumerate(ranks):
        units = [u for unit in row for u in _units_of(t, stages, unit)]
        p, end = int(t.sequence_at[r]), int(t.sequence_at[r + 1])
        if len(units) > end - p:
            return None
        flat[p : p + len(units)] = units
    return flat if complete(t, flat) else None


def _units_of(t: Arrays, stages: StageNumbers, unit: tuple[Operation, ...]) -> list[int]:
    classes = [class_of(o, stages) for o in unit]
    backward = classes[-1]
    weight = backward - BACK + W
    rest = [weight] if unit[-1].kind == "B" and t.count[weight] else []
    together = NONE
    if len(unit) == 2:
        together = pair_of(t, classes[0], backward)
    elif rest:
        together = int(t.full_backward[stage_of(backward)])
    if together < 0:
        return [*classes, *rest]
    return [together] if t.fused[together] or not rest else [together, *rest]
