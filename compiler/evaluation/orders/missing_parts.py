"""The diagnostic for an order that leaves parts out: which are missing on which rank. Imported only
where there is such a mistake."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from stretto.compiler.diagnostics.diagnostic import Diagnostic
from stretto.compiler.diagnostics.source import Span
from stretto.compiler.diagnostics.wording import listed
from stretto.compiler.evaluation.orders.counts import by_line
from stretto.compiler.evaluation.orders.cursor import UNSCHEDULED
from stretto.compiler.evaluation.orders.missing import advice
from stretto.compiler.evaluation.orders.part_cursor import PartCursor
from stretto.compiler.evaluation.orders.part_resolver import PartResolver
from stretto.compiler.evaluation.reports import diagnosis
from stretto.compiler.language import syntax as s
from stretto.compiler.problem.spec import Kind

MOST_LISTED = 6
MOST_NAMED = 4


class MissingParts(NamedTuple):
    """What one rank never runs of one stage: whole operations of a kind (`B` is a backward of which
    nothing runs) of some micro-batches, or single parts of one micro-batch."""

    resolver: PartResolver
    cursor: PartCursor
    kind: Kind
    microbatches: list[int]
    parts: list[int]


def parts_left_out(statement: s.OrderRank, resolvers: Sequence[PartResolver]) -> Diagnostic | None:
    """The diagnostic for an incomplete order, None if nothing is left out."""
    missing = [
        group
        for resolver in resolvers
        for cursor in resolver.cursors.values()
        for group in _groups(resolver, cursor)
    ]
    if not missing:
        return None
    notes = [_given(missing[0]), *map(_never, missing[1:MOST_LISTED])]
    if len(missing) > MOST_LISTED:
        ranks = sorted({group.resolver.rank for group in missing})
        notes.append(f"{listed('rank', ranks, 4, 1)} leave some out")
    span = Span(*statement.span[:3], *statement.rank.span[3:])
    empty = [resolver.rank for resolver in resolvers if resolver.cursors and not resolver.units]
    help_ = advice(empty, "part")
    return diagnosis("left-out", _never(missing[0]), span, notes=notes, help=help_)


def _groups(resolver: PartResolver, cursor: PartCursor) -> Iterator[MissingParts]:
    """Whole operations first."""
    left = {(kind, m): parts for kind, m, parts in cursor.left_out()}
    wholes: dict[Kind, list[int]] = {}
    for kind, m in list(left):
        own = "B" if kind in "IW" and cursor.untouched("B", m) else kind
        if cursor.untouched(own, m):
            del left[kind, m]
            if m not in wholes.setdefault(own, []):
                wholes[own].append(m)
    for kind, some in wholes.items():
        yield MissingParts(resolver, cursor, kind, some, [])
    for (kind, m), parts in left.items():
        yield MissingParts(resolver, cursor, kind, [m], parts)


def _never(missing: MissingParts) -> str:
    resolver, cursor, kind, some, parts = missing
    if parts:
        names = [f"`{resolver.part_name(kind, cursor, k, some[0])}`" for k in parts[:MOST_NAMED]]
        more = f" and {len(parts) - MOST_NAMED} more" if len(parts) > MOST_NAMED else ""
        verb = "runs" if len(parts) == 1 else "run"
        return f"{', '.join(names)}{more} never {verb} on rank {resolver.rank}"
    names = [f"`{resolver.whole_name(kind, cursor, m)}`" for m in some[:MOST_NAMED]]
    more = f" and {len(some) - MOST_NAMED} more" if len(some) > MOST_NAMED else ""
    verb = "runs" if len(some) == 1 else "run"
    return f"{', '.join(names)}{more} never {verb} on rank {resolver.rank}"


def _given(missing: MissingParts) -> str:
    """How many parts each line ran of what is missing."""
    resolver, cursor, kind, *_ = missing
    kinds = dict.fromkeys(own for own, _ in cursor.own[kind])
    rows = [row for own in kinds for row in cursor.given[own]]
    texts = [at for row in rows for at in row if at != UNSCHEDULED]
    total = len(cursor.own[kind]) * cursor.microbatches
    name = f"`{kind} {cursor.pipeline.name}[{cursor.stage}]`"
    lines = f": {by_line(texts, resolver.span)}" if texts else ""
    return f"on rank {resolver.rank} {len(texts)} of the {total} parts of {name} run{lines}"
