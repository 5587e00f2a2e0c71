"""ImportedTable → Spec: the order of the table as the one that was written, every computation
citing its cell. An F costs 1, a B 2, an I and a W 1 each, and a forward leaves 1 on its stage: a
table says nothing of times and sizes.
"""

from collections import Counter
from collections.abc import Iterable, Iterator

from stretto.compiler.diagnostics.diagnostic import Diagnostic, Rejected
from stretto.compiler.diagnostics.source import Span
from stretto.compiler.diagnostics.wording import count
from stretto.compiler.imports.communication import wrong_messages
from stretto.compiler.imports.computations import known, wrong_computations
from stretto.compiler.imports.sizes import TableShape, shape
from stretto.compiler.imports.table import (
    COMPUTATIONS,
    ImportedTable,
    TableAction,
    TableSizes,
    some,
    too_large,
)
from stretto.compiler.problem.spec import (
    NONE,
    Kind,
    Operation,
    Pipeline,
    Spec,
    Stage,
    Unit,
    digest,
)

MOST_ACTIONS = 1_000_000
MOST_TOLD = 100  # findings of one kind that are told; the others are counted


def understood(
    table: ImportedTable,
    sizes: TableSizes | None = None,
    most: int = MOST_ACTIONS,
    name: str = "table",
) -> Spec:
    """The Spec of the table. Raises `Rejected` with everything that is wrong with it, row by row,
    but for a circle between ranks, which `expand` finds."""
    sizes = sizes or TableSizes()
    _few_enough(table, sizes, most)
    found, wrong = shape(table, sizes)
    findings = [*table.faults, *wrong]
    if found is not None:
        first = known(table)
        findings += some(wrong_computations(table, found, first))
        if table.communicates:
            findings += some(wrong_messages(table, found, first))
    if findings or found is None:
        raise Rejected(_bounded(findings, table.more_faults))
    return _spec(table, found, name)


def _few_enough(table: ImportedTable, sizes: TableSizes, most: int) -> None:
    stages = {(one.pipeline, one.stage) for row in table.rows for one in row}
    many = max(sum(map(len, table.rows)), 2 * len(stages) * (sizes.microbatches or 0))
    if many > most:
        raise too_large(f"{many:,}", most)


def _bounded(findings: Iterable[Diagnostic], unread: int) -> Iterator[Diagnostic]:
    """The findings by place, of each kind the first `MOST_TOLD`, and how many more, cells that have
    none of their own among them."""
    more = Counter({"unknown-cell": unread})
    told: Counter[str] = Counter()
    for one in sorted(findings, key=_place):
        if told[one.code] == MOST_TOLD:
            more[one.code] += 1
        else:
            told[one.code] += 1
            yield one
    for code, many in more.items():
        if many:
            yield Diagnostic(code, f"{count(many, 'more finding')} of this kind")


def _place(one: Diagnostic) -> tuple[int, int]:
    return one.labels[0].span[1:3] if one.labels else (0, 0)


# ---------------------------------------------------------------------------- the Spec


def _spec(table: ImportedTable, found: TableShape, name: str) -> Spec:
    spans = [Span(table.source.name, 1, 1, 1, 1)]
    written = tuple(tuple(_units(table, row, spans)) for row in table.rows)
    operations = [one for row in table.rows for one in row]
    first = 0
    pipelines = []
    for p, place in enumerate(found.place):
        stages = tuple(Stage(rank, 1, 2, 1, 1, activation=1, kept=1) for rank in place)
        of = 0 if p else NONE
        many = found.microbatches[p]
        pipelines.append(Pipeline(table.pipelines[p], stages, many, first, 0, replicates=of))
        first += found.microbatches[p]
    kinds: dict[Kind, None] = {
        second.kind: None for row in written for (_, *rest), _ in row for second in rest
    }
    return Spec(
        name=name,
        ranks=len(table.rows),
        microbatches=first,
        pipelines=tuple(pipelines),
        time_unit=1,
        size_unit=1,
        spans=tuple(spans),
        split_backward=any(one.word in ("I", "W") for one in operations),
        overlap=tuple(kind for kind in ("B", "I") if kind in kinds),
        order=tuple(digest(unit.operations for unit in row) for row in written),
        written=written,
    )


def _units(table: ImportedTable, row: Iterable[TableAction], spans: list[Span]) -> Iterator[Unit]:
    """The units of a row. Two in one cell are one overlapped unit where they can be: an F and the
    B or I of another micro-batch; others run one after the other."""
    before: TableAction | None = None
    for one in [*(one for one in row if one.word in COMPUTATIONS), None]:
        if before is not None and one is not None and _overlap(before, one):
            forward, backward = (before, one) if before.word == "F" else (one, before)
            spans.append(table.span(before)._replace(end_column=one.end))
            yield Unit((operation(forward), operation(backward)), len(spans) - 1)
            before = None
            continue
        if before is not None:
            spans.append(table.span(before))
            yield Unit((operation(before),), len(spans) - 1)
        before = one


def _overlap(a: TableAction, b: TableAction) -> bool:
    """Whether two computations beside each other are one overlapped unit."""
    kinds = {a.word, b.word}
    other = (a.pipeline, a.microbatch) != (b.pipeline, b.microbatch)
    return a.cell == b.cell and kinds in ({"F", "B"}, {"F", "I"}) and other


def operation(one: TableAction) -> Operation:
    """The computation's name in a Spec."""
    return Operation(one.word, one.pipeline, one.stage, one.microbatch)
