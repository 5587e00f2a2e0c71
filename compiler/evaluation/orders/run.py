"""The orders that the author wrote: the block of `order rank r` is run for every rank, and what it
leaves out is found."""

from typing import Any

from stretto.compiler.diagnostics.diagnostic import Label
from stretto.compiler.diagnostics.source import Span
from stretto.compiler.evaluation.declared import Declared
from stretto.compiler.evaluation.expressions.ranges import Budget
from stretto.compiler.evaluation.orders.blocks import RANK, TAKER, Abandon, compile_order, record
from stretto.compiler.evaluation.orders.references import Facts
from stretto.compiler.evaluation.orders.resolve import Taker
from stretto.compiler.evaluation.placement import Placed
from stretto.compiler.evaluation.reports import Reports, Silent, Stop, TooMuch
from stretto.compiler.language import syntax as s
from stretto.compiler.problem.spec import Unit


class Spans:
    """The places that a Spec refers to, each once."""

    def __init__(self) -> None:
        self.table: list[Span] = []
        self._index: dict[Span, int] = {}

    def intern(self, span: Span) -> int:
        index = self._index.setdefault(span, len(self.table))
        if index == len(self.table):
            self.table.append(span)
        return index


def orders(
    said: Declared,
    placed: tuple[Placed, ...] | None,
    spans: Spans,
    budget: Budget,
    reports: Reports,
) -> list[tuple[tuple[Unit, ...], bool]]:
    """For every rank its units and whether they are all of its operations; empty where no order is
    written or one is wrong. The text of the block is checked even where there are no pipelines to
    run it for."""
    if said.order is None:
        return []
    before = reports.count
    facts = Facts(
        said.split is not None,
        frozenset(said.overlap),
        frozenset(d.value.index for d in said.pipelines if d.forward_only),
        budget,
        reports,
        spans.intern,
    )
    statement: s.OrderRank = said.order.statement
    run, scope = compile_order(statement, said.order.scope, facts)
    if not placed or said.ranks is None or reports.count > before:
        return []
    takers = _takers(said, placed, said.ranks, spans)
    env: list[Any] = [None] * scope.size
    for taker in takers:
        env[TAKER], env[RANK] = taker, taker.rank
        try:
            run(env)
        except TooMuch as stopped:
            reports.happened(stopped.diagnostic, stopped.bindings or "", taker.rank)
            return []
        except Stop as stopped:
            record(stopped, taker, reports)
        except (Abandon, Silent):
            taker.failures += 1
    complete = [next(t.left_out(), None) is None for t in takers]
    if said.auto is None and not all(complete):
        from stretto.compiler.evaluation.orders.missing import left_out

        mistake = left_out(statement, [t for t in takers if not t.failures])
        if mistake is not None:
            reports.add(mistake)
    return [(tuple(t.units), whole) for t, whole in zip(takers, complete, strict=True)]


def _takers(said: Declared, placed: tuple[Placed, ...], ranks: int, spans: Spans) -> list[Taker]:
    held: list[list[tuple[int, int]]] = [[] for _ in range(ranks)]
    for p in placed:
        for stage, rank in enumerate(p.ranks):
            held[rank].append((p.index, stage))
    given = "microbatches" in said.given
    as_set = f", since `--set microbatches={said.microbatches}`" if given else ""
    counts = [
        Label(p.draft.said.get("microbatches", said.stated["microbatches"]), as_set) for p in placed
    ]
    return [
        Taker(rank, placed, held[rank], said.slices or 0, spans.table.__getitem__,
              counts.__getitem__)
        for rank in range(ranks)
    ]  # fmt: skip
