"""`Tables`: a Model laid out flat, for loops that are to be compiled.

Lists of lists stand as one list with the index of each one's begin (`…_at`, one longer). A *unit*
is what a word consists of: units 0 … letters − 1 are the letters alone; then, where backwards may
also run whole, one for each stage; then the pairs that may overlap.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from stretto.compiler.order.kernels.instance import BACK, Model
from stretto.compiler.order.kernels.jit import ints
from stretto.compiler.problem.spec import NONE

Ints = Any  # a numpy array where loops are compiled, else a list


class Tables(NamedTuple):
    """By letter: `rank`, `count`, `base`, `need…` (what it needs), `next…` (who needs it). By
    rank: `letter…`, `word_at` (where its word begins), `limit`, `many` (stages on it). By place:
    `ticks`, `take`, `give`, `whole`, `own`, `extra…`, `partner`. By unit: `forward`, `back` (its
    letters, or -1), `solo` (the letter that it is alone, or -1), `merged` (1: it runs the W of
    its backward too), `unit_ticks` (of pairs and whole backwards). By stage: `joint` (unit of its
    whole backward, or -1), `job`; `pair` by forward stage · stages + backward stage."""

    rank: Ints
    count: Ints
    base: Ints
    need_at: Ints
    need: Ints
    need_lag: Ints
    next_at: Ints
    next: Ints
    next_lag: Ints
    letter_at: Ints
    letter: Ints
    word_at: Ints
    limit: Ints
    many: Ints
    ticks: Ints
    take: Ints
    give: Ints
    whole: Ints
    own: Ints
    extra_at: Ints
    extra: Ints
    extra_lag: Ints
    partner: Ints
    forward: Ints
    back: Ints
    solo: Ints
    merged: Ints
    unit_ticks: Ints
    joint: Ints
    job: Ints
    pair: Ints
    fixed: Ints
    slices: int


def tables(model: Model, make: Any = ints) -> Tables:
    """The Model as Tables; `make` turns a list of integers into what the loops are to read."""
    letters = len(model.rank)
    following: list[list[tuple[int, int]]] = [[] for _ in range(letters)]
    for x, needs in enumerate(model.needs):
        for y, lag in needs:
            following[y].append((x, lag))
    here = [model.letters(r) for r in range(model.ranks)]
    need_at, need = _flat(model.needs)
    next_at, after = _flat(following)
    letter_at, letter = _flat(here)
    size = [sum(model.count[x] for x in one) for one in here]
    extra_at: list[int] = [0]
    extra: list[tuple[int, int]] = []
    if model.extra:
        extra_at, extra = _flat([model.extra.get(x, []) for x in range(model.size)])
    units = _units(model)
    return Tables(
        rank=make(model.rank),
        count=make(model.count),
        base=make(model.base),
        need_at=make(need_at),
        need=make([x for x, _ in need]),
        need_lag=make([lag for _, lag in need]),
        next_at=make(next_at),
        next=make([x for x, _ in after]),
        next_lag=make([lag for _, lag in after]),
        letter_at=make(letter_at),
        letter=make(letter),
        word_at=make(_begins(size)),
        limit=make(model.limit),
        many=make([len({x // 3 for x in one}) for one in here]),
        ticks=make(model.duration),
        take=make(model.take),
        give=make(model.give),
        whole=make(model.whole),
        own=make(model.own),
        extra_at=make(extra_at),
        extra=make([x for x, _ in extra]),
        extra_lag=make([lag for _, lag in extra]),
        partner=make(model.partner if any(x != NONE for x in model.partner) else []),
        forward=make(units.forward),
        back=make(units.back),
        solo=make(units.solo),
        merged=make(units.merged),
        unit_ticks=make(units.ticks),
        joint=make(units.joint),
        job=make(model.job),
        pair=make(units.pair),
        fixed=make([int(one) for one in model.fixed]),
        slices=model.slices,
    )


class _Units(NamedTuple):
    forward: list[int]
    back: list[int]
    solo: list[int]
    merged: list[int]
    ticks: list[int]
    joint: list[int]
    pair: list[int]


def _units(model: Model) -> _Units:
    letters = len(model.rank)
    stages = letters // 3
    made = _Units([], [], [], [], [], [NONE] * stages, [])
    for x in range(letters):
        made.forward.append(x if x % 3 == 0 else NONE)
        made.back.append(x if x % 3 == BACK else NONE)
        made.solo.append(x)
        made.merged.append(0)
        made.ticks.append(0)
    for g, ticks in enumerate(model.joint):
        if ticks != NONE:
            made.joint[g] = len(made.forward)
            _add(made, NONE, 3 * g + BACK, 1, ticks)
    if model.pairs:
        made.pair.extend([NONE] * stages**2)
    for (forward, back), ticks in model.pairs.items():
        made.pair[forward // 3 * stages + back // 3] = len(made.forward)
        merged = model.joint[back // 3] != NONE and "B" in model.problem.spec.overlap
        _add(made, forward, back, int(merged), ticks)
    return made


def _add(made: _Units, forward: int, back: int, merged: int, ticks: int) -> None:
    made.forward.append(forward)
    made.back.append(back)
    made.solo.append(NONE)
    made.merged.append(merged)
    made.ticks.append(ticks)


def _flat(lists: Iterable[Sequence[Any]]) -> tuple[list[int], list[Any]]:
    lists = list(lists)
    return _begins([len(one) for one in lists]), [x for one in lists for x in one]


def _begins(sizes: Iterable[int]) -> list[int]:
    begins = [0]
    for many in sizes:
        begins.append(begins[-1] + many)
    return begins
