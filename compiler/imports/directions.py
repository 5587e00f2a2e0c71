"""ImportedTable → warnings of messages that cross: two ranks have those between them in different
sequences, to and fro taken together. Over gloo they arrive; over NCCL, where one communicator takes
them in sequence, each rank would wait for the other. The table is else right.
"""

from collections.abc import Iterator

from stretto.compiler.diagnostics.diagnostic import Diagnostic
from stretto.compiler.imports.communication import ends, result
from stretto.compiler.imports.table import MESSAGES, ImportedTable, TableAction
from stretto.compiler.problem.spec import Spec


def crossing(table: ImportedTable, spec: Spec) -> Iterator[Diagnostic]:
    """A warning for each two ranks, at the first messages that differ."""
    place = [stage.rank for stage in spec.pipelines[0].stages]
    between: dict[tuple[int, int], tuple[list[TableAction], list[TableAction]]] = {}
    for rank, row in enumerate(table.rows):
        for one in row:
            pair = ends(result(one), place) if one.word in MESSAGES else None
            if pair is not None:
                low, high = sorted(pair)
                between.setdefault((low, high), ([], []))[rank == high].append(one)
    for (low, high), rows in between.items():
        for a, b in zip(*rows, strict=True):
            if result(a) == result(b):
                continue
            yield Diagnostic(
                "messages-cross",
                f"ranks {low} and {high} have the messages between them in different sequences: "
                f"`{table.name(a)}` stands where the other has `{table.name(b)}`",
                (table.label(a, f"rank {low}"), table.label(b, f"rank {high}")),
                ("over gloo they arrive; over NCCL each rank may wait for the other",),
                help="put the messages of two ranks into the same sequence on both",
                severity="warning",
            )
            break
