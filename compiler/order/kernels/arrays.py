"""`Arrays`: an SearchInstance laid out flat, for loops that are to be compiled.

Lists of lists stand as one list with the index at which each of them begins (`…_at`, one longer).
A *unit* is what a sequence consists of: units 0 … classes − 1 are operations alone, by class; then,
where backwards may also run full, one unit for each stage; then the pairs that may overlap.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from stretto.compiler.order.kernels.bundle import Bundle, Ints
from stretto.compiler.order.kernels.instance import SearchInstance
from stretto.compiler.order.kernels.jit import ints
from stretto.compiler.order.kernels.op_classes import (
    BACK,
    F,
    backward_of,
    forward_of,
    kind_of,
    stage_of,
    stages_in,
)
from stretto.compiler.problem.spec import NONE


@dataclass(frozen=True, slots=True)
class Arrays(Bundle):
    """By class: `rank`, `count`, `base`, `need…` (the classes it needs), `next…` (those that need
    it). By rank: `op_class…` (its classes, from `class_at`), `sequence_at` (where its part of a
    flat sequence begins), `limit` (grains), `stages_on` (how many). By op index: `ticks`, `alloc`
    and `free` (grains), `is_full`, `forwards_before`, `extra…`, `partner`. By unit: `forward`,
    `backward` (its classes, or -1), `single` (the class it is alone, or -1), `fused` (1: it runs
    the W of its backward too), `unit_ticks` (of pairs and full backwards). By stage:
    `full_backward` (the unit, or -1), `job`. `pair`: the unit, or -1, by forward stage · stages +
    backward stage."""

    rank: Ints
    count: Ints
    base: Ints
    need_at: Ints
    need: Ints
    need_lag: Ints
    next_at: Ints
    next: Ints
    next_lag: Ints
    class_at: Ints
    op_class: Ints
    sequence_at: Ints
    limit: Ints
    stages_on: Ints
    ticks: Ints
    alloc: Ints
    free: Ints
    is_full: Ints
    forwards_before: Ints
    extra_at: Ints
    extra: Ints
    extra_lag: Ints
    partner: Ints
    forward: Ints
    backward: Ints
    single: Ints
    fused: Ints
    unit_ticks: Ints
    full_backward: Ints
    job: Ints
    pair: Ints
    fixed: Ints
    slices: int


def arrays_of(instance: SearchInstance, make: Any = ints) -> Arrays:
    """The SearchInstance as Arrays; `make` turns a list of integers into what the loops are to
    read."""
    classes = len(instance.rank)
    following: list[list[tuple[int, int]]] = [[] for _ in range(classes)]
    for x, needs in enumerate(instance.needs):
        for y, lag in needs:
            following[y].append((x, lag))
    here = instance.classes_by_rank()
    need_at, need = _flat(instance.needs)
    next_at, after = _flat(following)
    class_at, op_class = _flat(here)
    extra_at: list[int] = [0]
    extra: list[tuple[int, int]] = []
    if instance.extra:
        extra_at, extra = _flat([instance.extra.get(op, []) for op in range(instance.size)])
    units = _units(instance)
    paired = any(op != NONE for op in instance.partner)
    return Arrays(
        rank=make(instance.rank),
        count=make(instance.count),
        base=make(instance.base),
        need_at=make(need_at),
        need=make([x for x, _ in need]),
        need_lag=make([lag for _, lag in need]),
        next_at=make(next_at),
        next=make([x for x, _ in after]),
        next_lag=make([lag for _, lag in after]),
        class_at=make(class_at),
        op_class=make(op_class),
        sequence_at=make(_starts([sum(instance.count[x] for x in one) for one in here])),
        limit=make(instance.limit),
        stages_on=make([len({stage_of(x) for x in one}) for one in here]),
        ticks=make(instance.duration),
        alloc=make(instance.alloc),
        free=make(instance.free),
        is_full=make(instance.is_full),
        forwards_before=make(instance.forwards_before),
        extra_at=make(extra_at),
        extra=make([op for op, _ in extra]),
        extra_lag=make([lag for _, lag in extra]),
        partner=make(instance.partner if paired else []),
        forward=make(units.forward),
        backward=make(units.backward),
        single=make(units.single),
        fused=make(units.fused),
        unit_ticks=make(units.ticks),
        full_backward=make(units.full_backward),
        job=make(instance.job),
        pair=make(units.pair),
        fixed=make([int(one) for one in instance.fixed]),
        slices=instance.slices,
    )


class _UnitTable(NamedTuple):
    """By unit, but for `full_backward` and `pair`: see Arrays."""

    forward: list[int]
    backward: list[int]
    single: list[int]
    fused: list[int]
    ticks: list[int]
    full_backward: list[int]
    pair: list[int]


def _units(instance: SearchInstance) -> _UnitTable:
    classes = len(instance.rank)
    stages = stages_in(classes)
    made = _UnitTable([], [], [], [], [], [NONE] * stages, [])
    for x in range(classes):
        made.forward.append(x if kind_of(x) == F else NONE)
        made.backward.append(x if kind_of(x) == BACK else NONE)
        made.single.append(x)
        made.fused.append(0)
        made.ticks.append(0)
    for g, ticks in enumerate(instance.full_backward):
        if ticks != NONE:
            made.full_backward[g] = len(made.forward)
            _add(made, NONE, backward_of(g), 1, ticks)
    if instance.pairs:
        made.pair.extend([NONE] * stages**2)
    for (forward, backward), ticks in instance.pairs.items():
        g, h = stage_of(forward), stage_of(backward)
        made.pair[g * stages + h] = len(made.forward)
        fused = instance.full_backward[h] != NONE and "B" in instance.problem.spec.overlap
        _add(made, forward_of(g), backward, int(fused), ticks)
    return made


def _add(made: _UnitTable, forward: int, backward: int, fused: int, ticks: int) -> None:
    made.forward.append(forward)
    made.backward.append(backward)
    made.single.append(NONE)
    made.fused.append(fused)
    made.ticks.append(ticks)


def _flat(lists: Iterable[Sequence[Any]]) -> tuple[list[int], list[Any]]:
    lists = list(lists)
    return _starts([len(one) for one in lists]), [x for one in lists for x in one]


def _starts(sizes: Iterable[int]) -> list[int]:
    starts = [0]
    for many in sizes:
        starts.append(starts[-1] + many)
    return starts
