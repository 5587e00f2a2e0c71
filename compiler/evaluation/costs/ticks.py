"""From the file's own units to whole ticks and grains: the last step of `evaluate`. Numbers that
have no common denominator which fits are rounded here, all of them before anything is derived from
them; after that nothing is."""

from collections.abc import Iterator
from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from stretto.compiler.diagnostics.source import Span
from stretto.compiler.evaluation.costs.exact import ExactCosts, Overrides, overrides
from stretto.compiler.evaluation.costs.overlaps import (
    ExactPair,
    ExactPairOverride,
    pair_overrides,
    pairs,
)
from stretto.compiler.evaluation.costs.scale import UnitScale, down, up
from stretto.compiler.evaluation.costs.table import CostTable, Exact, StageKey
from stretto.compiler.evaluation.expressions.ranges import LoopBudget
from stretto.compiler.evaluation.reports import Reports, diagnosis
from stretto.compiler.evaluation.resolved import ResolvedPipeline
from stretto.compiler.evaluation.settings import SeldomMeant
from stretto.compiler.problem.spec import (
    MAIN_KINDS,
    NONE,
    CostOverride,
    Pair,
    PairCostOverride,
    PartFigures,
    Stage,
    Unit,
)


class TickCosts(Struct, frozen=True):
    """The scales of a file; its `costs`, in its own units, as these scales have them; what differs
    from the stages' costs, in ticks; and of `times` and `sizes`, where they were rounded, where the
    finest of them stands."""

    time: UnitScale
    size: UnitScale
    costs: ExactCosts
    exceptions: tuple[CostOverride, ...]
    pairs: tuple[Pair, ...]
    exceptional_pairs: tuple[PairCostOverride, ...]
    rounded: dict[str, Span]


class _Derived(NamedTuple):
    """What follows from the table of costs."""

    single: Overrides
    usual: list[ExactPair]
    special: list[ExactPairOverride]


def to_ticks(costs: ExactCosts, written: list[tuple[Unit, ...]], reports: Reports) -> TickCosts:
    """The costs in ticks and the scales by which they are. Needs the orders that were `written`:
    an exceptional cost of a pair matters only where the pair is run; of parts there is none.
    Scales that do not fit are reported."""
    found = _derived(costs, written)
    times, sizes = _times(costs, found), _sizes(costs)
    time, size = UnitScale(times, _sums(costs), _unused(costs).values()), UnitScale(sizes)
    rounded = {}
    for what, scale, values in (("times", time, times), ("sizes", size, sizes)):
        finest = _finest(costs, values)
        if scale.trouble:
            _report(costs, what, scale, finest, reports)
        elif scale.rounded:
            rounded[what] = finest
    if rounded:
        budget = LoopBudget(costs.budget.most)
        costs = replace(costs, table=_rounded(costs, time, size), budget=budget)
        found = _derived(costs, written)
    return TickCosts(
        time,
        size,
        costs,
        tuple(CostOverride(o, time(ticks)) for o, ticks in found.single.items()),
        tuple(Pair(*pair[:-1], time(pair.ticks)) for pair in found.usual),
        tuple(PairCostOverride(f, b, time(ticks)) for f, b, ticks in found.special),
        rounded,
    )


def _derived(costs: ExactCosts, written: list[tuple[Unit, ...]]) -> _Derived:
    single = overrides(costs)
    usual = pairs(costs)
    return _Derived(single, usual, pair_overrides(costs, single, usual, written))


def _times(costs: ExactCosts, found: _Derived) -> list[Exact]:
    """Every duration that has to be a whole number of ticks."""
    table = costs.table
    stages = [(p, i) for p in costs.pipelines for i in range(len(p.ranks))]
    figures = [
        row for p in costs.pipelines for i in range(len(p.ranks)) for row in costs.figures(p, i)
    ]
    whole = () if figures else stages
    return [
        *(table.of_stage(kind, p.index, i) for p, i in whole for _, kind in costs.kinds_of(p, i)),
        *(row[kind] for row in figures for kind in MAIN_KINDS),
        *found.single.values(),
        *(pair.ticks for pair in found.usual),
        *(pair.ticks for pair in found.special),
        *table.transfers.values(),
        *table.reduces.values(),
        *table.unshards.values(),
    ]


def _unused(costs: ExactCosts) -> dict[StageKey, Exact]:
    """What kinds of operations cost that whole stages do not have: the halves of backwards that
    are not split, and all backwards in `forward only`."""
    return {
        (kind, p.index, i, NONE): costs.table.of_stage(kind, p.index, i)
        for p in costs.pipelines
        if not p.chains
        for i in range(len(p.ranks))
        for kind in set(MAIN_KINDS).difference(kind for _, kind in costs.kinds_of(p, i))
    }


def _sums(costs: ExactCosts) -> list[Exact]:
    """What whole stages cost that are cut into parts."""
    return [
        row[kind]
        for p in costs.pipelines
        for i in range(len(p.ranks))
        for row in _with_sum(costs.figures(p, i))[-1:]
        for kind in MAIN_KINDS
    ]


def _sizes(costs: ExactCosts) -> list[Exact]:
    """Every amount of memory that has to be a whole number of grains."""
    table = costs.table
    stages = [(p.index, i) for p in costs.pipelines for i in range(len(p.ranks))]
    return [
        *(table.activation.get(stage, 1) for stage in stages),
        *table.part_activation.values(),
        *(kept for kept, _ in table.kept.values()),
        *(most for most, _ in table.limits.values()),
    ]


def _finest(costs: ExactCosts, values: list[Exact]) -> Span:
    """Where the value stands that has the largest denominator, of several the first."""
    stated = costs.table.stated
    known = [value for value in values if value in stated]
    if not known:
        return costs.declared.stated_at["schedule"]
    return stated[max(known, key=lambda value: value.denominator)]


def _report(costs: ExactCosts, what: str, scale: UnitScale, finest: Span, reports: Reports) -> None:
    assert scale.trouble is not None
    trouble, instead = scale.trouble
    place = costs.table.stated.get(scale.largest, finest)
    message, help_ = f"the {what} of this file {trouble}", f"count {instead}"
    reports.add_for_values(diagnosis("too-large", message, place, help=help_))


def _rounded(costs: ExactCosts, time: UnitScale, size: UnitScale) -> CostTable:
    """The table with every number as the scales have it: times to the nearest tick; of memory what
    is needed down to a grain and what there is up, so that a limit which is just enough stays so.
    The costs of pairs are computed from these. Kinds of operations that a stage does not have cost
    nothing where times are rounded: a default of 1 may be far above all that it has."""
    table = _without(costs, _unused(costs)) if time.rounded else costs.table
    return replace(
        table,
        stages={key: time.near(value) for key, value in table.stages.items()},
        cells={
            key: {cell: time.near(value) for cell, value in cells.items()}
            for key, cells in table.cells.items()
        },
        transfers={key: time.near(value) for key, value in table.transfers.items()},
        reduces={key: time.near(value) for key, value in table.reduces.items()},
        unshards={key: time.near(value) for key, value in table.unshards.items()},
        activation={key: size.near(value, down) for key, value in table.activation.items()},
        part_activation={
            key: size.near(value, down) for key, value in table.part_activation.items()
        },
        kept={key: (size.near(value, down), at) for key, (value, at) in table.kept.items()},
        limits={key: (size.near(value, up), at) for key, (value, at) in table.limits.items()},
    )


def roundings(ticks: TickCosts) -> Iterator[SeldomMeant]:
    """That times, or sizes, were rounded, and where the finest of them stands."""
    for what, at in ticks.rounded.items():
        unit = (ticks.time if what == "times" else ticks.size).unit
        step = f"multiples of 2^-{unit.bit_length() - 1}" if unit > 1 else "whole numbers"
        words = (
            f"{what} are rounded to {step}, since no common denominator fits: the finest is here"
        )
        yield SeldomMeant("rounded", words, at)


def _without(costs: ExactCosts, unused: dict[StageKey, Exact]) -> CostTable:
    """The table in which what is `unused` costs nothing, and backwards what they cost with it."""
    table = costs.table
    stages, cells = dict(table.stages), dict(table.cells)
    for _, p, i, _ in unused:
        stages["B", p, i, NONE] = table.of_stage("B", p, i)
        varying = table.varying_cells("B", p, i)
        cells["B", p, i, NONE] = {cell: table.of_cell("B", p, i, cell) for cell in varying}
    stages.update(dict.fromkeys(unused, 0))
    return replace(table, stages=stages, cells=cells)


def _with_sum(figures: list[dict[str, Exact]]) -> list[dict[str, Exact]]:
    """The figures of a stage's parts and, where it has any, those of the whole stage."""
    if not figures:
        return []
    whole = {kind: sum(row[kind] for row in figures) for kind in MAIN_KINDS}
    whole["B"] = whole["B"] or whole["I"] + whole["W"]
    return [*figures, whole]


def stage_in_ticks(ticks: TickCosts, p: ResolvedPipeline, index: int) -> Stage:
    """One stage of a pipeline, with its costs in ticks and its activation in grains."""
    costs = ticks.costs
    *parts, whole = _with_sum(costs.figures(p, index)) or [
        {kind: costs.table.of_stage(kind, p.index, index) for kind in MAIN_KINDS}
    ]
    activation = costs.table.activation.get((p.index, index), 1)
    kept = costs.table.kept.get((p.index, index))
    forward, backward, input_gradient, weight_gradient = _main_ticks(ticks, whole)
    return Stage(
        rank=p.ranks[index],
        F=forward,
        B=backward,
        I=input_gradient,
        W=weight_gradient,
        activation=ticks.size(activation),
        kept=ticks.size(activation if kept is None else kept[0]),
        parts=tuple(
            PartFigures(*_main_ticks(ticks, row), ticks.size(row["activation"])) for row in parts
        ),
    )


def _main_ticks(ticks: TickCosts, figures: dict[str, Exact]) -> tuple[int, int, int, int]:
    F, B, I, W = (ticks.time(figures[kind]) for kind in MAIN_KINDS)  # noqa: E741  kinds' letters
    return F, B, I, W
