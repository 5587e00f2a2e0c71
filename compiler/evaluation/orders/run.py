"""The orders that the author wrote: the block of `order rank r` is run for every rank, and it is
checked that no operation is left out."""

from typing import Any

from stretto.compiler.diagnostics.diagnostic import Label
from stretto.compiler.diagnostics.source import Span
from stretto.compiler.evaluation.declared import Declarations
from stretto.compiler.evaluation.expressions.ranges import LoopBudget
from stretto.compiler.evaluation.orders.blocks import compile_order
from stretto.compiler.evaluation.orders.failures import TooManyErrors, record
from stretto.compiler.evaluation.orders.references import OrderContext
from stretto.compiler.evaluation.orders.resolver import RankText, Resolver
from stretto.compiler.evaluation.orders.site import RANK, RESOLVER
from stretto.compiler.evaluation.reports import AlreadyReported, EvalError, Reports, TooManyRounds
from stretto.compiler.evaluation.resolved import ResolvedPipeline
from stretto.compiler.language import syntax as s
from stretto.compiler.problem.spec import Unit


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


def orders(
    declared: Declarations,
    pipelines: tuple[ResolvedPipeline, ...] | None,
    spans: Spans,
    budget: LoopBudget,
    reports: Reports,
) -> list[tuple[tuple[Unit, ...], bool]]:
    """For every rank its units and whether they are all of its operations; empty where no order is
    written or one is wrong. The text of the block is checked even where there are no pipelines to
    run it for."""
    if declared.order is None:
        return []
    before = reports.count
    context = OrderContext(
        declared.split is not None,
        frozenset(declared.overlap),
        frozenset(d.value.index for d in declared.pipelines if d.forward_only),
        budget,
        reports,
        spans.intern,
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
    complete = [not any(next(c.left_out(), None) for c in r.cursors.values()) for r in resolvers]
    if declared.order_auto is None and not all(complete):
        from stretto.compiler.evaluation.orders.missing import left_out

        mistake = left_out(statement, [t for t in resolvers if not t.failures])
        if mistake is not None:
            reports.add(mistake)
    return [(tuple(t.units), whole) for t, whole in zip(resolvers, complete, strict=True)]


def _resolvers(
    declared: Declarations, pipelines: tuple[ResolvedPipeline, ...], ranks: int, spans: Spans
) -> list[Resolver]:
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
    return [Resolver(rank, text, held[rank], declared.slices or 0) for rank in range(ranks)]
