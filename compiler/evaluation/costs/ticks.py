"""From the file's own units to whole ticks and grains: the last step of `evaluate`, after which
nothing is rounded."""

from msgspec import Struct

from stretto.compiler.diagnostics.source import Span
from stretto.compiler.evaluation.costs.exact import ExactCosts, overrides
from stretto.compiler.evaluation.costs.overlaps import pair_overrides, pairs
from stretto.compiler.evaluation.costs.scale import UnitScale
from stretto.compiler.evaluation.costs.table import Exact
from stretto.compiler.evaluation.reports import Reports, diagnosis
from stretto.compiler.evaluation.resolved import ResolvedPipeline
from stretto.compiler.problem.spec import (
    MAIN_KINDS,
    CostOverride,
    Pair,
    PairCostOverride,
    PartFigures,
    Stage,
    Unit,
)


class TickCosts(Struct, frozen=True):
    """The scales of a file, and what differs from the stages' costs, in ticks."""

    time: UnitScale
    size: UnitScale
    exceptions: tuple[CostOverride, ...]
    pairs: tuple[Pair, ...]
    exceptional_pairs: tuple[PairCostOverride, ...]


def to_ticks(costs: ExactCosts, written: list[tuple[Unit, ...]], reports: Reports) -> TickCosts:
    """The costs in ticks and the scales by which they are. Needs the orders that were `written`:
    an exceptional cost of a pair matters only where the pair is run. Scales that do not fit are
    reported."""
    single = overrides(costs)
    usual = pairs(costs)
    special = pair_overrides(costs, single, usual, written)
    stages = [(p.index, i) for p in costs.pipelines for i in range(len(p.ranks))]
    table = costs.table
    figures = [
        row
        for p in costs.pipelines
        for i in range(len(p.ranks))
        for row in _with_sum(costs.figures(p, i))
    ]
    whole = () if figures else stages
    time = UnitScale(
        [
            *(table.of_stage(kind, *stage) for stage in whole for kind in MAIN_KINDS),
            *(row[kind] for row in figures for kind in MAIN_KINDS),
            *single.values(),
            *(pair.ticks for pair in usual),
            *(pair.ticks for pair in special),
            *table.transfers.values(),
            *table.reduces.values(),
            *table.unshards.values(),
        ]
    )
    size = UnitScale(
        [
            *(table.activation.get(stage, 1) for stage in stages),
            *table.part_activation.values(),
            *(kept for kept, _ in table.kept.values()),
            *(most for most, _ in table.limits.values()),
        ]
    )
    title = costs.declared.stated_at["schedule"]
    _check(time, "times", title, reports)
    _check(size, "sizes", title, reports)
    return TickCosts(
        time,
        size,
        tuple(CostOverride(o, time(ticks)) for o, ticks in single.items()),
        tuple(Pair(*pair[:-1], time(pair.ticks)) for pair in usual),
        tuple(PairCostOverride(f, b, time(ticks)) for f, b, ticks in special),
    )


def _check(scale: UnitScale, what: str, title: Span, reports: Reports) -> None:
    if not scale.fits:
        message, help_ = f"the {what} of this file {scale.trouble}", f"round the {what}"
        reports.add_for_values(diagnosis("too-large", message, title, help=help_))


def _with_sum(figures: list[dict[str, Exact]]) -> list[dict[str, Exact]]:
    """The figures of a stage's parts and, where it has any, those of the whole stage."""
    if not figures:
        return []
    whole = {kind: sum(row[kind] for row in figures) for kind in MAIN_KINDS}
    whole["B"] = whole["B"] or whole["I"] + whole["W"]
    return [*figures, whole]


def stage_in_ticks(costs: ExactCosts, ticks: TickCosts, p: ResolvedPipeline, index: int) -> Stage:
    """One stage of a pipeline, with its costs in ticks and its activation in grains."""
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
