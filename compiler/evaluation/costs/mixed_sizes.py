"""Sizes of which some have a unit and others none. A bare number counts bytes beside `GiB`: 10 of
them are no memory, and a limit in activations (`ranks + 2`) is none in bytes."""

from collections.abc import Iterator, Mapping

from stretto.compiler.diagnostics.diagnostic import Diagnostic, Label
from stretto.compiler.diagnostics.source import Span
from stretto.compiler.evaluation.costs.sizes_in import sizes_in
from stretto.compiler.evaluation.costs.table import CostTable, Exact
from stretto.compiler.evaluation.expressions.values import show
from stretto.compiler.evaluation.reports import diagnosis
from stretto.compiler.evaluation.resolved import ResolvedPipeline
from stretto.compiler.evaluation.settings import SeldomMeant
from stretto.compiler.problem.figures import figure, size_in
from stretto.compiler.units import UNITS

SMALL = 1 << 20  # bytes: a bare number from here on may well count them

WrittenUnits = Mapping[Span, str]
"""What `written_units` finds."""


def _bare(table: CostTable, units: WrittenUnits, amount: Exact) -> bool:
    """Whether it is a small number, and where it stands none has a unit; or so small that the name
    which has one there was set to a number without."""
    at = table.stated.get(amount)
    unit = units.get(at) if at else None
    return 0 < amount < (SMALL if not unit else 1 if unit == "KiB" else UNITS["KiB"])


def _totals(
    table: CostTable, pipelines: tuple[ResolvedPipeline, ...]
) -> Iterator[tuple[ResolvedPipeline, int, Exact]]:
    """What a forward of every stage leaves, its parts included."""
    for p in pipelines:
        for stage in range(len(p.ranks)):
            parts = range(len(p.chains[stage])) if p.chains else ()
            own = table.activation.get((p.index, stage), 1)
            more = sum(table.part_activation.get((p.index, stage, i), 0) for i in parts)
            yield p, stage, own + more


def bare_limit(
    table: CostTable, pipelines: tuple[ResolvedPipeline, ...], units: WrittenUnits
) -> Diagnostic | None:
    """The refusal of a limit without a unit that one activation with a unit exceeds."""
    unit = sizes_in(units)
    for p, stage, total in _totals(table, pipelines) if unit and table.limits else ():
        most, span = table.limits.get(p.ranks[stage], (total, None))
        at = table.stated.get(total)
        sized = at is None or bool(units.get(at))
        if span is None or most >= total or not sized or not _bare(table, units, most):
            continue
        leaves = f"one forward of stage {stage} leaves {size_in(unit, total)} on rank"
        return diagnosis(
            "limit-too-small",
            f"the limit has no unit and counts bytes, {show(most)} here, where activations are in "
            f"{unit}: {leaves} {p.ranks[stage]}",
            span,
            *([Label(at, "the unit")] if at else []),
            help=f"give the limit in {unit} too, or leave `activation` out: it counts stages then",
        )
    return None


def bare_sizes(
    table: CostTable, pipelines: tuple[ResolvedPipeline, ...], units: WrittenUnits
) -> Iterator[SeldomMeant]:
    """Activations without a unit where other sizes have one: one doubt of all."""
    unit = sizes_in(units)
    bare = [
        (p, stage, total)
        for p, stage, total in (_totals(table, pipelines) if unit else ())
        if _bare(table, units, total)
    ]
    if not bare:
        return
    p, stage, total = bare[0]
    count = sum(len(p.ranks) for p in pipelines)
    where = "the activation" if len(bare) == count else f"that of stage {stage} of `{p.name}`"
    more = f" (and of {len(bare) - 1} more)" if 1 < len(bare) < count else ""
    stated = (p.index, stage) in table.activation
    at = table.stated.get(total) if stated else None
    name = "activation" if len(bare) == count else f"activation {p.name}[{stage}]"
    nothing = ", and the limit holds nothing back" if table.limits else ""
    counted = f"{figure(total)} {'byte' if total == 1 else 'bytes'}"
    yield SeldomMeant(
        "size-without-unit",
        f"sizes have a unit here, {unit}, and {where}{more} "
        f"{'has none' if stated else 'is not said'}: it counts as {counted}{nothing}; "
        f"write `{name} = ... {unit}`",
        at if at and at in units else next(span for span, word in units.items() if word),
    )
