"""The orders that the author wrote: the block of `order rank r` is run for every rank, and it is
checked that no operation is left out."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from stretto.compiler.diagnostics.diagnostic import Diagnostic, Label
from stretto.compiler.diagnostics.source import Span
from stretto.compiler.evaluation.chains import check_part, no_whole_backward
from stretto.compiler.evaluation.declared import Declarations
from stretto.compiler.evaluation.orders.blocks import compile_order
from stretto.compiler.evaluation.orders.failures import TooManyErrors, record
from stretto.compiler.evaluation.orders.pair_costs import PairCosts
from stretto.compiler.evaluation.orders.references import OrderContext, PartOrders
from stretto.compiler.evaluation.orders.resolver import RankText, Resolver
from stretto.compiler.evaluation.orders.site import RANK, RESOLVER
from stretto.compiler.evaluation.reports import AlreadyReported, EvalError, Reports, TooManyRounds
from stretto.compiler.evaluation.resolved import ResolvedPipeline
from stretto.compiler.language import syntax as s
from stretto.compiler.problem.spec import Unit

if TYPE_CHECKING:  # most schedules have no parts
    from stretto.compiler.evaluation.orders.part_resolver import PartResolver, WrittenPair


class Spans:
    """The table of the spans that a Spec refers to, each once."""

    def __init__(self) -> None:
        self.table: list[Span] = []
        self._index: dict[Span, int] = {}

    def intern(self, span: Span) -> int:
        """The index of the span in the table."""
        index = self._index.setdefault(span, len(self.table))
        if index == len(self.table):
            self.table.append(span)
        return index


class WrittenOrder(NamedTuple):
    """What was written for one rank: its units, whether they are all of its operations and, where
    stages are cut into parts, the pairs in it."""

    units: tuple[Unit, ...]
    whole: bool
    pairs: "tuple[WrittenPair, ...]"


def orders(
    declared: Declarations,
    pipelines: tuple[ResolvedPipeline, ...] | None,
    spans: Spans,
    costs: PairCosts,
    reports: Reports,
) -> list[WrittenOrder]:
    """The order of every rank; empty where none is written or one is wrong. The text of the block
    is checked even where there are no pipelines to run it for."""
    if declared.order is None:
        return []
    before, budget = reports.count, costs.exact.budget
    context = OrderContext(
        declared.split is not None,
        frozenset(declared.overlap),
        frozenset(d.value.index for d in declared.pipelines if d.forward_only),
        budget,
        reports,
        spans.intern,
        _parts(declared, costs, reports),
    )
    statement: s.OrderRank = declared.order.statement
    run, scope = compile_order(statement, declared.order.scope, context)
    if not pipelines or declared.ranks is None or reports.count > before:
        return []
    resolvers = _resolvers(declared, pipelines, declared.ranks, spans)
    env: list[Any] = [None] * scope.size
    for resolver in resolvers:
        env[RESOLVER], env[RANK] = resolver, resolver.rank
        try:
            run(env)
        except TooManyRounds as error:
            reports.add_repeated(error.diagnostic, error.bindings or "", resolver.rank)
            return []
        except EvalError as error:
            record(error, resolver, reports)
        except (TooManyErrors, AlreadyReported):
            resolver.failures += 1
    written = [_written(resolver) for resolver in resolvers]
    if declared.order_auto is None and not all(order.whole for order in written):
        mistake = _left_out(statement, [one for one in resolvers if not one.failures])
        if mistake is not None:
            reports.add(mistake)
    return written


def _parts(declared: Declarations, costs: PairCosts, reports: Reports) -> PartOrders | None:
    """What orders need to know of parts; None where stages are whole."""
    if declared.parts is None:
        return None

    def check(mention: s.Mention) -> Diagnostic | None:
        if mention.kind == "B" and declared.split is not None:
            return no_whole_backward(mention, declared.split)
        return check_part(mention, declared, reports)

    return PartOrders(check, costs)


def _written(resolver: "Resolver | PartResolver") -> WrittenOrder:
    cursors = resolver.cursors.values()
    whole = not any(next(iter(cursor.left_out()), None) for cursor in cursors)
    pairs = tuple(resolver.pairs.values()) if not isinstance(resolver, Resolver) else ()
    return WrittenOrder(tuple(resolver.units), whole, pairs)


def _left_out(
    statement: s.OrderRank, resolvers: "Sequence[Resolver | PartResolver]"
) -> Diagnostic | None:
    from stretto.compiler.evaluation.orders.missing import left_out
    from stretto.compiler.evaluation.orders.missing_parts import parts_left_out

    cut = [one for one in resolvers if not isinstance(one, Resolver)]
    if cut:
        return parts_left_out(statement, cut)
    return left_out(statement, [one for one in resolvers if isinstance(one, Resolver)])


def _resolvers(
    declared: Declarations, pipelines: tuple[ResolvedPipeline, ...], ranks: int, spans: Spans
) -> "Sequence[Resolver | PartResolver]":
    held: list[list[tuple[int, int]]] = [[] for _ in range(ranks)]
    for p in pipelines:
        for stage, rank in enumerate(p.ranks):
            held[rank].append((p.index, stage))
    given = "microbatches" in declared.overridden
    as_set = f", since `--set microbatches={declared.microbatches}`" if given else ""
    counts = [
        Label(
            p.declaration.stated_at.get("microbatches", declared.stated_at["microbatches"]), as_set
        )
        for p in pipelines
    ]
    text = RankText(pipelines, spans.table.__getitem__, counts.__getitem__)
    if declared.parts is not None:
        from stretto.compiler.evaluation.orders.part_resolver import PartResolver

        split = declared.split is not None
        return [PartResolver(rank, text, held[rank], split) for rank in range(ranks)]
    return [Resolver(rank, text, held[rank], declared.slices or 0) for rank in range(ranks)]
