"""ImportedTable → what it shows of the step: stages and where they are, and how many micro-batches.
What nearly all of the table says is taken for what is meant, so that one wrong cell is one finding.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice, pairwise

from stretto.compiler.diagnostics.diagnostic import Diagnostic, Label
from stretto.compiler.diagnostics.source import Span
from stretto.compiler.diagnostics.wording import count, joined, listed
from stretto.compiler.imports.table import (
    COMPUTATIONS,
    ImportedTable,
    PlacementWord,
    TableSizes,
    some,
)

SHOWN = 8  # stages that nobody computes, where they are not one range

StageOfTable = tuple[int, int]
"""A pipeline and a stage of it."""


@dataclass(frozen=True, slots=True)
class TableShape:
    """`place`: the rank of every stage, by pipeline, then stage. `microbatches`, of every
    pipeline."""

    place: tuple[tuple[int, ...], ...]
    microbatches: tuple[int, ...]


def placed(placement: PlacementWord, stage: int, ranks: int) -> int:
    """The rank of a stage."""
    turn, at = divmod(stage, ranks)
    return ranks - 1 - at if placement == "v" and turn % 2 else at


def stage_of(placement: PlacementWord, chunk: int, rank: int, ranks: int) -> int:
    """The stage that is the rank's chunk of this number, from 0."""
    return chunk * ranks + (ranks - 1 - rank if placement == "v" and chunk % 2 else rank)


def shape(table: ImportedTable, sizes: TableSizes) -> tuple[TableShape | None, list[Diagnostic]]:
    """The table's shape, and what is wrong with it; None where so much is that nothing further can
    be said."""
    wrong = [*some(_rows(table, sizes))]
    votes = _votes(table)
    if not votes:
        return None, [*wrong, _nothing(table)]
    stages = [max((s for p, s in votes if p == k), default=-1) + 1 for k in range(_many(table))]
    missing = [*_absent(table, votes, stages)]
    if missing:
        return None, wrong + missing
    place = tuple(tuple(_rank(votes[k, s]) for s in range(many)) for k, many in enumerate(stages))
    wrong += some(_elsewhere(table, place, sizes))
    batches = _microbatches(table, sizes)
    if sizes.microbatches is not None and sum(batches) != sizes.microbatches:
        where = " over all its pipelines" if batches[1:] else ""
        what = f"the table has {count(sum(batches), 'micro-batch', 'micro-batches')}{where}"
        wrong.append(Diagnostic("table-size", f"{what}, and there are to be {sizes.microbatches}"))
    return TableShape(place, batches), wrong


def _many(table: ImportedTable) -> int:
    return len(table.pipelines)


def _rows(table: ImportedTable, sizes: TableSizes) -> Iterator[Diagnostic]:
    """There is a row for each rank, and something in it."""
    ranks = len(table.rows)
    if sizes.ranks is not None and sizes.ranks != ranks:
        what = f"the table has {ranks} rows, and there are {sizes.ranks} ranks"
        yield Diagnostic("table-size", what, help="a row for each rank; an empty line is one too")
    faulty = {_line(d) for d in table.faults}
    for rank, row in enumerate(table.rows):
        if not row and table.lines[rank] not in faulty:
            line = table.lines[rank]
            label = Label(Span(table.source.name, line, 1, line, 1))
            what = f"row {rank} is empty: rank {rank} would have nothing to do"
            yield Diagnostic("table-size", what, (label,), help="remove the empty line")


def _line(one: Diagnostic) -> int:
    return one.labels[0].span.line if one.labels else 0


def _nothing(table: ImportedTable) -> Diagnostic:
    span = Span(table.source.name, 1, 1, 1, 1)
    return Diagnostic("table-size", "the table has no computation", (Label(span),))


def _votes(table: ImportedTable) -> dict[StageOfTable, Counter[int]]:
    """By stage how often each rank computes for it."""
    votes: dict[StageOfTable, Counter[int]] = {}
    for rank, row in enumerate(table.rows):
        for one in row:
            if one.word in COMPUTATIONS:
                votes.setdefault((one.pipeline, one.stage), Counter())[rank] += 1
    return votes


def _rank(votes: Counter[int]) -> int:
    """The rank with most of a stage's computations; of several the first."""
    most = max(votes.values())
    return min(rank for rank, many in votes.items() if many == most)


def _absent(
    table: ImportedTable, votes: dict[StageOfTable, Counter[int]], stages: list[int]
) -> Iterator[Diagnostic]:
    """Stages below the highest one that nobody computes."""
    for p, many in enumerate(stages):
        own = sorted(s for k, s in votes if k == p)
        if len(own) == many:
            continue
        highest = next(
            one for row in table.rows for one in row if one[1] == own[-1] and one.pipeline == p
        )
        what = f"no rank computes {_gaps(own)}, and there is a stage {own[-1]}"
        yield Diagnostic("table-size", what, (table.label(highest, "the highest stage"),))


def _gaps(own: list[int]) -> str:
    """The stages below the highest one that are not among these, which ascend."""
    runs = [range(a + 1, b) for a, b in pairwise([-1, *own]) if a + 1 < b]
    if len(runs) == 1:
        return listed("stage", runs[0])
    shown = [*islice(chain.from_iterable(runs), SHOWN)]
    more = own[-1] + 1 - len(own) - len(shown)
    return f"stages {joined([*map(str, shown), *([f'{more} more'] if more else [])])}"


def _elsewhere(
    table: ImportedTable, place: tuple[tuple[int, ...], ...], sizes: TableSizes
) -> Iterator[Diagnostic]:
    """What stands in the row of another rank than its stage's, and stages that are not where the
    user says that they are."""
    told: set[tuple[int, int, int]] = set()
    for rank, row in enumerate(table.rows):
        for one in row:
            home = place[one.pipeline]
            if one.stage >= len(home) or home[one.stage] == rank:
                continue
            if (one.pipeline, one.stage, rank) in told:
                continue
            told.add((one.pipeline, one.stage, rank))
            what = f"`{table.name(one)}` stands in the row of rank {rank}"
            why = f"stage {one.stage} is on rank {home[one.stage]}"
            yield Diagnostic("wrong-rank", f"{what}, and {why}", (table.label(one),))
    if sizes.placement is None or len(place) > 1:
        return
    only = [rank for pipeline in place for rank in pipeline]
    for s, rank in enumerate(only):
        due = placed(sizes.placement, s, len(table.rows))
        if rank != due:
            first = next(one for one in table.rows[rank] if one.stage == s)
            what = f"stage {s} is on rank {rank}, with placement `{sizes.placement}` on rank {due}"
            yield Diagnostic("wrong-rank", what, (table.label(first),))
            return


def _microbatches(table: ImportedTable, sizes: TableSizes) -> tuple[int, ...]:
    """How many micro-batches each pipeline has: the number of different forwards that most of its
    stages have. Of one pipeline it is as given, unless all of its stages stop at the same one
    before: that is one mistake, not one at every stage."""
    seen: dict[StageOfTable, set[int]] = {}
    for row in table.rows:
        for one in row:
            if one.word == "F":
                seen.setdefault((one.pipeline, one.stage), set()).add(one.microbatch)
    found = []
    for p in range(_many(table)):
        votes = Counter(len(batches) for (k, _), batches in seen.items() if k == p)
        most = max(votes.values(), default=0)
        found.append(max((n for n, many in votes.items() if many == most), default=1))
    given = sizes.microbatches
    if given is None or _many(table) > 1:
        return tuple(found)
    fewer = found[0] < given and all(one == {*range(found[0])} for one in seen.values())
    return (found[0] if fewer else given,)
