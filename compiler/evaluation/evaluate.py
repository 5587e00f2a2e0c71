"""From syntax to a `Spec`: what the author wrote, with every expression evaluated.

Declarations first, from top to bottom (`declarations`, `pipelines`); then all requirements are
judged; then stages are pipelines, costs (`costs`, `units`) and rules (`rules`) evaluated, and the
order block is run for every rank (`orders`, `blocks`, `taking`). All that is found wrong on the way
is raised together.
"""

from collections.abc import Iterator, Sequence

from stretto.compiler.evaluation.chains import chains
from stretto.compiler.evaluation.costs.collectives import StageTimes, collective
from stretto.compiler.evaluation.costs.exact import ExactCosts
from stretto.compiler.evaluation.costs.memory import check_kept, limits, transfer
from stretto.compiler.evaluation.costs.mixed_sizes import WrittenUnits, bare_limit, bare_sizes
from stretto.compiler.evaluation.costs.own import own_costs
from stretto.compiler.evaluation.costs.sizes_in import sizes_in, written_units
from stretto.compiler.evaluation.costs.statements import cost_table
from stretto.compiler.evaluation.costs.ticks import TickCosts, roundings, stage_in_ticks, to_ticks
from stretto.compiler.evaluation.costs.unstated import unstated, unstated_activations
from stretto.compiler.evaluation.declarations import declare
from stretto.compiler.evaluation.declared import Declarations
from stretto.compiler.evaluation.expressions.ranges import LoopBudget
from stretto.compiler.evaluation.orders.joined import joined
from stretto.compiler.evaluation.orders.pair_costs import PairCosts
from stretto.compiler.evaluation.orders.run import Spans, WrittenOrder, orders
from stretto.compiler.evaluation.placement import resolve_pipelines
from stretto.compiler.evaluation.reports import WORK, EvalError, Reports, diagnosis
from stretto.compiler.evaluation.resolved import ResolvedPipeline
from stretto.compiler.evaluation.rules import rules
from stretto.compiler.evaluation.settings import SeldomMeant, Settings
from stretto.compiler.language import syntax as s
from stretto.compiler.problem.spec import (
    Kind,
    Limit,
    Pipeline,
    Spec,
    StageTicks,
    Transfer,
    by_stream,
    digest,
)


def evaluate(schedule: s.Schedule, settings: Settings | None = None) -> Spec:
    """What is to be done. Raises `Rejected` with everything that is wrong, in the order of the
    text; whatever the file says, it does so before it has spent much time or memory."""
    settings = settings or Settings()
    reports = Reports(schedule.source.name, WORK * settings.max_ops)
    declared = declare(schedule, settings, reports)
    costs = settings.costs.statements if settings.costs else ()
    given = {name: getattr(value, "unit", "") for name, value in settings.values.items()}
    units = written_units((*schedule.statements, *costs), given)
    try:
        spec = _spec(declared, settings, units, reports)
    except EvalError as error:
        reports.add_repeated(error.diagnostic, error.bindings or "")
        spec = None
    reports.reject(declared.failed_requirements)
    assert spec is not None
    return spec


def _spec(
    declared: Declarations, settings: Settings, units: WrittenUnits, reports: Reports
) -> Spec | None:
    spans, budget = Spans(), LoopBudget(settings.max_ops)
    sensible = not declared.failed_requirements and _few_enough(declared, settings, reports)
    cut = chains(declared, settings.max_ops, reports)
    sensible = sensible and (cut is not None) == (declared.parts is not None)
    pipelines = resolve_pipelines(declared, cut, reports) if sensible else None
    known = pipelines or ()  # without pipelines names are still checked
    exact = stated = _costs(declared, known, units, budget, reports)
    ticks = None
    if cut and not reports.count:  # how a pair of parts is joined depends on what they cost
        ticks = to_ticks(exact, [], reports)
        exact = ticks.costs
    pair_costs = PairCosts(exact)
    written = orders(declared, pipelines, spans, pair_costs, reports)
    ruled = rules(declared, known, spans.intern, budget, reports)
    if reports.count or pipelines is None:
        return None
    ticks = ticks or to_ticks(exact, [order.units for order in written], reports)
    for doubt in (
        *_of_times(stated, settings, written),
        *_of_sizes(stated, known, units),
        *roundings(ticks),
    ):
        settings.doubt(doubt)
    table = ticks.costs.table
    limits = [
        None if (found := table.limits.get(rank)) is None
        else Limit(ticks.size(found[0]), spans.intern(found[1]))
        for rank in range(declared.ranks or 0)
    ]  # fmt: skip
    transfers = ((a, b, ticks.time(t)) for (a, b), t in sorted(table.transfers.items()) if t)
    overlap: tuple[Kind, ...] = tuple(k for k in ("B", "I") if k in declared.overlap and not cut)
    return Spec(
        name=declared.name,
        ranks=declared.ranks or 0,
        microbatches=declared.microbatches or 0,
        pipelines=tuple(_pipeline(p, ticks, spans) for p in pipelines),
        time_unit=ticks.time.unit,
        size_unit=ticks.size.unit,
        parameters=declared.parameters,
        slices=declared.slices or 0,
        split_backward=declared.split is not None,
        overlap=overlap,
        exceptions=ticks.exceptions,
        pairs=ticks.pairs,
        exceptional_pairs=ticks.exceptional_pairs,
        transfers=tuple(Transfer(*t) for t in transfers),
        limits=tuple(limits) if any(limits) else (),
        rules=ruled,
        minimize=declared.minimize.aim if declared.minimize else "makespan",
        jitter=(declared.jitter.numerator, declared.jitter.denominator),
        order=tuple(
            digest(by_stream((unit.operations for unit in order.units), cut.parts if cut else ()))
            if order.whole
            else ""
            for order in written
        )
        or ("",) * (declared.ranks or 0),
        written=tuple(order.units for order in written),
        joined=joined(written, pair_costs.unit, ticks, len(cut.streams)) if cut else (),
        sizes_in=sizes_in(units),
        rounded={what: spans.intern(at) for what, at in ticks.rounded.items()},
        reduce_gradients=_stage_ticks(table.reduces, ticks),
        unshard_weights=_stage_ticks(table.unshards, ticks),
        spans=tuple(spans.table),
        streams=cut.streams if cut else (),
        parts=cut.parts if cut else (),
    )


def _costs(
    declared: Declarations,
    pipelines: tuple[ResolvedPipeline, ...],
    units: WrittenUnits,
    budget: LoopBudget,
    reports: Reports,
) -> ExactCosts:
    """Everything that is said of times and sizes. Mistakes go to the reports."""
    costs = cost_table(declared, pipelines, budget, reports)
    check_kept(costs, pipelines, reports)
    if declared.transfer is not None:
        transfer(declared.transfer, pipelines, costs)
    limits(declared, budget, costs)
    if (refusal := bare_limit(costs, pipelines, units)) and not reports.count:
        reports.add_for_values(refusal)
    costs.reduces = collective(declared.reduce_gradients, pipelines, costs)
    costs.unshards = collective(declared.unshard_weights, pipelines, costs)
    return ExactCosts(declared, pipelines, costs, budget)


def _of_times(
    stated: ExactCosts, settings: Settings, written: Sequence[WrittenOrder]
) -> Iterator[SeldomMeant]:
    units = [order.units for order in written]
    complete = bool(written) and all(order.whole for order in written)
    yield from unstated(stated, units, complete)
    yield from own_costs(stated, settings, units, complete)


def _of_sizes(
    stated: ExactCosts, pipelines: tuple[ResolvedPipeline, ...], units: WrittenUnits
) -> Iterator[SeldomMeant]:
    if not sizes_in(units):
        yield from unstated_activations(stated)
    yield from bare_sizes(stated.table, pipelines, units)


def _pipeline(p: ResolvedPipeline, ticks: TickCosts, spans: Spans) -> Pipeline:
    return Pipeline(
        name=p.name,
        stages=tuple(stage_in_ticks(ticks, p, i) for i in range(len(p.ranks))),
        microbatches=p.microbatches,
        first=p.first,
        at=spans.intern(p.declaration.statement.span),
        replicates=p.replicates,
        model=p.model,
        feeds=p.feeds,
        forward_only=p.forward_only,
    )


def _stage_ticks(times: StageTimes, ticks: TickCosts) -> tuple[StageTicks, ...]:
    return tuple(StageTicks(*stage, ticks.time(time)) for stage, time in sorted(times.items()))


def _few_enough(declared: Declarations, settings: Settings, reports: Reports) -> bool:
    """Whether the step has no more operations than the settings allow; where stages are cut into
    parts, `chains` counts them."""
    if declared.parts is not None:
        return True
    total = 0
    for pipeline in declared.pipelines:
        kinds = 1 if pipeline.forward_only else 3 if declared.split else 2
        cells = (pipeline.value.microbatches or 0) * (declared.slices or 1)
        total += (pipeline.value.stages or 0) * cells * kinds
    if total <= settings.max_ops:
        return True
    reports.add_for_values(
        diagnosis(
            "too-large",
            f"this step may have {total:,} operations, and {settings.max_ops:,} are the most",
            declared.stated_at.get("microbatches", declared.pipelines[0].name.span),
            help="`--max-ops` allows more",
        )
    )
    return False
