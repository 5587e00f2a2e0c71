"""ImportedTable → warnings of messages that hold each other up where a communicator takes them in
sequence, as NCCL's do. Over gloo they arrive, and the table is else right.

Two ranks cross that have the messages between them in different sequences, to and fro taken
together: NCCL has one communicator for two ranks, and each would wait for the other. Several ranks
stand in a circle where no two cross and yet none gets further if each takes all of its messages one
by one: as a process group does that has one communicator for all (torch's `device_id`), or sends
that block. Between two ranks that do not cross, nothing else can hold up a message: what stands
before it on the one stands before it on the other, too.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from stretto.compiler.diagnostics.diagnostic import Diagnostic
from stretto.compiler.diagnostics.wording import listed
from stretto.compiler.imports.communication import ends, result
from stretto.compiler.imports.table import MESSAGES, ImportedTable, TableAction
from stretto.compiler.problem.spec import Spec

SHOWN = 8  # ranks of a circle that are labelled

RanksOfPair = tuple[int, int]


class Sided(NamedTuple):
    """A message as one of its two ranks has it: the action, and the other rank."""

    action: TableAction
    other: int


def crossing(table: ImportedTable, spec: Spec) -> Iterator[Diagnostic]:
    """A warning for each two ranks that cross, at the first messages that differ, and one for the
    circle among the others, if there is one. The table's messages must fit each other."""
    place = [stage.rank for stage in spec.pipelines[0].stages]
    rows = [[*_messages(row, place, rank)] for rank, row in enumerate(table.rows)]
    crossed = set[RanksOfPair]()
    for pair, (a, b) in _differing(rows):
        crossed.add(pair)
        yield _crossed(table, pair, a, b)
    among = [
        [one for one in row if (min(rank, one.other), max(rank, one.other)) not in crossed]
        for rank, row in enumerate(rows)
    ]
    if circle := _circle(among):
        yield _encircled(table, circle)


def _messages(row: Sequence[TableAction], place: Sequence[int], rank: int) -> Iterator[Sided]:
    for one in row:
        pair = ends(result(one), place) if one.word in MESSAGES else None
        if pair is not None:
            yield Sided(one, pair[0] if pair[1] == rank else pair[1])


def _differing(
    rows: Sequence[Sequence[Sided]],
) -> Iterator[tuple[RanksOfPair, tuple[TableAction, TableAction]]]:
    """Of each two ranks that cross, the lower and the higher one's first action that differs."""
    between: dict[RanksOfPair, tuple[list[TableAction], list[TableAction]]] = {}
    for rank, row in enumerate(rows):
        for action, other in row:
            pair = min(rank, other), max(rank, other)
            between.setdefault(pair, ([], []))[rank > other].append(action)
    for pair, sides in between.items():
        for a, b in zip(*sides, strict=True):
            if result(a) != result(b):
                yield pair, (a, b)
                break


def _circle(rows: Sequence[Sequence[Sided]]) -> list[tuple[int, TableAction]]:
    """The ranks that wait for each other, each with the message at which it waits for the next, if
    each takes its messages one by one; none where all come to their ends. (A message is over once
    both ranks have come to it. Who goes first makes no difference: nothing is ever taken back.)"""
    at = [0] * len(rows)
    ready = list(range(len(rows)))
    while ready:
        rank = ready.pop()
        while at[rank] < len(rows[rank]):
            action, other = rows[rank][at[rank]]
            if at[other] == len(rows[other]):
                break
            if result(rows[other][at[other]].action) != result(action):
                break
            at[rank] += 1
            at[other] += 1
            ready.append(other)
    stuck = [rank for rank, row in enumerate(rows) if at[rank] < len(row)]
    seen: dict[int, None] = {}
    rank = stuck[0] if stuck else -1
    while stuck and rank not in seen:  # whom a rank waits for has not come there, so it waits too
        seen[rank] = None
        rank = rows[rank][at[rank]].other
    path = list(seen)
    return [(r, rows[r][at[r]].action) for r in path[path.index(rank) :]] if stuck else []


def _crossed(table: ImportedTable, pair: RanksOfPair, a: TableAction, b: TableAction) -> Diagnostic:
    low, high = pair
    return Diagnostic(
        "messages-cross",
        f"ranks {low} and {high} have the messages between them in different sequences: "
        f"`{table.name(a)}` stands where the other has `{table.name(b)}`",
        (table.label(a, f"rank {low}"), table.label(b, f"rank {high}")),
        ("over gloo they arrive; over NCCL each rank may wait for the other",),
        help="put the messages of two ranks into the same sequence on both",
        severity="warning",
    )


def _encircled(table: ImportedTable, circle: Sequence[tuple[int, TableAction]]) -> Diagnostic:
    ranks = [rank for rank, _ in circle]
    labels = [
        table.label(action, f"rank {rank} would wait here for rank {following}")
        for (rank, action), following in zip(circle, [*ranks[1:], ranks[0]], strict=True)
    ]
    return Diagnostic(
        "messages-circle",
        f"{listed('rank', sorted(ranks), SHOWN)} would wait for each other if each took its "
        "messages one by one",
        tuple(labels[:SHOWN]),
        (
            "over gloo they arrive, and over NCCL with a communicator for each two ranks; perhaps "
            "not with one for all (a process group made with `device_id`), nor where sends block",
        ),
        help="on one of these ranks, put the marked message behind the one that another waits for",
        severity="warning",
    )
