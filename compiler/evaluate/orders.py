"""The orders that the author wrote: the block of `order rank r` is run for every rank, and what it
leaves out is found."""

from collections.abc import Sequence
from typing import Any

from stretto.compiler import syntax as s
from stretto.compiler.diagnostics import Label
from stretto.compiler.evaluate.blocks import RANK, TAKER, Abandon, compile_order
from stretto.compiler.evaluate.declarations import Declared
from stretto.compiler.evaluate.mentions import Facts
from stretto.compiler.evaluate.placement import Placed
from stretto.compiler.evaluate.ranges import Budget
from stretto.compiler.evaluate.reports import (
    Reports,
    Silent,
    Stop,
    TooMuch,
    diagnosis,
    ranks_in_words,
)
from stretto.compiler.evaluate.taking import Taker
from stretto.compiler.evaluate.tracks import Track
from stretto.compiler.source import Span
from stretto.compiler.spec import Unit

MOST_LISTED = 6


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
    if placed is None or said.ranks is None or reports.count > before:
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
            reports.happened(stopped.diagnostic, stopped.bindings or "", taker.rank)
            taker.failures += 1
        except (Abandon, Silent):
            taker.failures += 1
    if said.auto is None:
        _demand_all([t for t in takers if not t.failures], statement, reports)
    return [(tuple(t.units), next(t.left_out(), None) is None) for t in takers]


def _takers(said: Declared, placed: tuple[Placed, ...], ranks: int, spans: Spans) -> list[Taker]:
    held: list[list[tuple[int, int]]] = [[] for _ in range(ranks)]
    for p in placed:
        for stage, rank in enumerate(p.ranks):
            held[rank].append((p.index, stage))
    as_set = ", as `microbatches` was set" if "microbatches" in said.given else ""
    counts = [
        Label(p.draft.said.get("microbatches", said.stated["microbatches"]), as_set) for p in placed
    ]
    return [
        Taker(rank, placed, held[rank], said.slices or 0, spans.table.__getitem__,
              counts.__getitem__)
        for rank in range(ranks)
    ]  # fmt: skip


def _demand_all(takers: Sequence[Taker], statement: s.OrderRank, reports: Reports) -> None:
    """An order without `order auto` has every operation of its rank."""
    missing = [(taker, list(taker.left_out())) for taker in takers]
    missing = [(taker, groups) for taker, groups in missing if groups]
    if not missing:
        return
    lines = [
        f"`{_group(taker, kind, track, numbers)}` never runs on rank {taker.rank}"
        for taker, groups in missing
        for kind, track, numbers in groups
    ]
    span = Span(*statement.span[:3], *statement.rank.span[3:])
    notes = lines[1:MOST_LISTED]
    if len(lines) > MOST_LISTED:
        rest = sorted({taker.rank for taker, _ in missing})
        notes.append(f"{ranks_in_words(rest)} leave operations out")
    reports.add(
        diagnosis(
            "left-out",
            lines[0],
            span,
            notes=notes,
            help="run each of them once, or say `order auto` and the compiler adds them",
        )
    )


def _group(taker: Taker, kind: str, track: Track, numbers: list[int]) -> str:
    """`W down[2, 0..3]`: operations of one stage, runs of micro-batches together (both ends are
    meant)."""
    cells = sorted(track.place(number, kind != "F") for number in numbers)
    sliced = [f"{m}, slice {k}" for m, k in cells]
    texts = sliced if taker.cut else _runs_of([m for m, _ in cells])
    shown = ", ".join(texts[:4]) + (", …" if len(texts) > 4 else "")
    return f"{kind} {track.pipeline.name}[{track.stage}, {shown}]"


def _runs_of(numbers: list[int]) -> list[str]:
    runs: list[list[int]] = []
    for n in numbers:
        if runs and runs[-1][1] == n - 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    return [str(a) if a == b else f"{a}..{b}" for a, b in runs]
