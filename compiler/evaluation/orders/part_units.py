"""Steps of an order where stages are cut into parts: the parts of one operation, or of a pair, go
to the end of the rank's list."""

from collections.abc import Sequence

from stretto.compiler.diagnostics.source import Span
from stretto.compiler.evaluation.orders.pair_costs import PairCosts
from stretto.compiler.evaluation.orders.part_resolver import PartResolver, Taken, WrittenPair
from stretto.compiler.evaluation.orders.resolver import Request
from stretto.compiler.evaluation.orders.take_parts import take_parts
from stretto.compiler.evaluation.reports import eval_error
from stretto.compiler.problem.interleave import interleave


def schedule_parts(
    resolver: PartResolver, requests: Sequence[Request], at: int, span: Span, costs: PairCosts
) -> None:
    """Schedules an operation, a part of one, or two operations whose parts become one sequence.
    Raises `EvalError`."""
    if len(requests) == 1:
        taken = take_parts(resolver, requests[0], at)
        if taken is not None:
            for own in taken.parts:
                resolver.place(taken, own, at)
        return
    for request in requests:
        if request.part is not None:
            raise eval_error(
                "wrong-pair",
                f"a pair is of whole operations, and `{request.what}` is a part of one",
                span,
                help="write the parts one after the other",
            )
    first, second = (take_parts(resolver, request, at) for request in requests)
    assert first is not None and second is not None
    _check_different(first, second, span)
    if first.kind == "F" and second.kind != "F":
        first, second = second, first
    both = first, second
    strands = costs.strand(first), costs.strand(second)
    found = interleave(*strands)
    for o, i in found.sequence:
        resolver.place(both[o], both[o].parts[i], at)
    names = _name(first), _name(second)
    resolver.pairs.setdefault(
        (names, strands),
        WrittenPair(resolver.rank, names, (first.parts, second.parts), strands, found),
    )


def _check_different(first: Taken, second: Taken, span: Span) -> None:
    pipeline = first.cursor.pipeline
    if pipeline.index == second.cursor.pipeline.index and first.microbatch == second.microbatch:
        raise eval_error(
            "wrong-pair",
            f"both halves are of micro-batch {first.microbatch} of `{pipeline.name}`: one needs "
            "the other",
            span,
            help="pair two different micro-batches",
        )


def _name(taken: Taken) -> tuple[str, int, int]:
    return taken.kind, taken.cursor.pipeline.index, taken.cursor.stage
