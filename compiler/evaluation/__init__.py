"""From syntax to a `Spec`: what the author wrote, with every expression evaluated.

Declarations first, from top to bottom (`declarations`, `pipelines`); then all requirements are
judged; then stages are placed, costs (`costs`, `units`) and rules (`rules`) evaluated, and the
order block is run for every rank (`orders`, `blocks`, `taking`). All that is found wrong on the way
is raised together.
"""

from stretto.compiler.evaluation.costs.memory import check_kept, limit, transfer
from stretto.compiler.evaluation.costs.statements import price
from stretto.compiler.evaluation.costs.ticks import Priced
from stretto.compiler.evaluation.declarations import declare
from stretto.compiler.evaluation.declared import Declared
from stretto.compiler.evaluation.expressions.ranges import Budget
from stretto.compiler.evaluation.orders.run import Spans, orders
from stretto.compiler.evaluation.placement import Placed, assemble
from stretto.compiler.evaluation.reports import Reports, Stop, diagnosis
from stretto.compiler.evaluation.rules import rules
from stretto.compiler.evaluation.settings import Settings
from stretto.compiler.language import syntax as s
from stretto.compiler.problem.spec import Kind, Limit, Pipeline, Spec, Transfer, digest

__all__ = ["Settings", "evaluate"]


def evaluate(schedule: s.Schedule, settings: Settings | None = None) -> Spec:
    """What is to be done. Raises `Rejected` with everything that is wrong, in the order of the
    text; whatever the file says, it does so before it has spent much time or memory."""
    settings = settings or Settings()
    reports = Reports(schedule.source.name)
    said = declare(schedule, settings, reports)
    try:
        spec = _spec(said, settings, reports)
    except Stop as stopped:
        reports.happened(stopped.diagnostic, stopped.bindings or "")
        spec = None
    reports.reject(said.failed)
    assert spec is not None
    return spec


def _spec(said: Declared, settings: Settings, reports: Reports) -> Spec | None:
    spans, budget = Spans(), Budget(settings.max_ops)
    sensible = not said.failed and _few_enough(said, settings, reports)
    placed = assemble(said, reports) if sensible else None
    written = orders(said, placed, spans, budget, reports)
    known = placed or ()  # where that failed, names are checked nevertheless
    costs = price(said, known, budget, reports)
    check_kept(costs, known, reports)
    if said.transfer is not None:
        transfer(said.transfer, known, costs)
    for later in said.limits:
        limit(later, said, costs)
    ruled = rules(said, known, spans.intern, budget, reports)
    if reports.count or placed is None:
        return None
    priced = Priced(said, placed, costs, [units for units, _ in written], budget, reports)
    limits = [
        None if (found := costs.limits.get(rank)) is None
        else Limit(priced.size(found[0]), spans.intern(found[1]))
        for rank in range(said.ranks or 0)
    ]  # fmt: skip
    transfers = ((a, b, priced.time(t)) for (a, b), t in sorted(costs.transfers.items()) if t)
    overlap: tuple[Kind, ...] = tuple(k for k in ("B", "I") if k in said.overlap)
    return Spec(
        name=said.name,
        ranks=said.ranks or 0,
        microbatches=said.microbatches or 0,
        pipelines=tuple(_pipeline(p, priced, spans) for p in placed),
        time_unit=priced.time.unit,
        size_unit=priced.size.unit,
        parameters=said.parameters,
        slices=said.slices or 0,
        split_backward=said.split is not None,
        overlap=overlap,
        exceptions=priced.exceptions,
        pairs=priced.pairs,
        exceptional_pairs=priced.exceptional_pairs,
        transfers=tuple(Transfer(*t) for t in transfers),
        limits=tuple(limits) if any(limits) else (),
        rules=ruled,
        minimize=said.minimize.aim if said.minimize else "makespan",
        jitter=(said.jitter.numerator, said.jitter.denominator),
        order=tuple(
            digest(unit.operations for unit in units) if complete else ""
            for units, complete in written
        )
        or ("",) * (said.ranks or 0),
        written=tuple(units for units, _ in written),
        spans=tuple(spans.table),
    )


def _pipeline(p: Placed, priced: Priced, spans: Spans) -> Pipeline:
    return Pipeline(
        name=p.name,
        stages=tuple(priced.stage(p, i) for i in range(len(p.ranks))),
        microbatches=p.microbatches,
        first=p.first,
        at=spans.intern(p.draft.statement.span),
        replicates=p.replicates,
        model=p.model,
        feeds=p.feeds,
        forward_only=p.forward_only,
    )


def _few_enough(said: Declared, settings: Settings, reports: Reports) -> bool:
    """Whether the step has no more operations than the settings allow."""
    total = 0
    for draft in said.pipelines:
        kinds = 1 if draft.forward_only else 3 if said.split else 2
        cells = (draft.value.microbatches or 0) * (said.slices or 1)
        total += (draft.value.stages or 0) * cells * kinds
    if total <= settings.max_ops:
        return True
    reports.value(
        diagnosis(
            "too-large",
            f"this step may have {total:,} operations, and {settings.max_ops:,} are the most",
            said.stated.get("microbatches", said.pipelines[0].name.span),
            help="`--max-ops` allows more",
        )
    )
    return False
