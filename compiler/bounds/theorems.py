"""All theorems in one table: `best` asks those that have a bound or edges, the documents print it
(`docs/bounds.md`), and a Finding's reason is its module's. A new theorem is a module with its
statement and proof, and a row here."""

from collections.abc import Callable
from typing import Literal

from msgspec import Struct

from stretto.compiler.bounds import (
    collectives,
    critical_path,
    memory,
    memory_time,
    one_machine,
    rank_as_stage,
    symmetry,
    window,
)
from stretto.compiler.bounds.context import Finding, Subject
from stretto.compiler.bounds.relaxation import ClassEdge, Relaxation

TheoremScope = Literal["step", "shares", "rank", "memory", "beside"]
"""About what a theorem is asked: once about the step, for its makespan (`step`); about every rank
for each choice of shares (`shares`); about every rank once (`rank`); once too, and whatever the
rank's first operation is (`memory`); about every rank for a makespan (`beside`)."""


class Theorem(Struct, frozen=True):
    """`says` and `applies`: what and when, for the documents. `find` answers when it is `asked`;
    `edges` gives edges that may be added to a Relaxation, of pipelines for which B0 holds; a
    theorem with neither is used by the others."""

    name: str
    module: str
    says: str
    applies: str
    asked: TheoremScope | None = None
    find: Callable[[Subject], Finding | None] | None = None
    edges: Callable[[Relaxation, list[bool]], list[ClassEdge]] | None = None


THEOREMS = (
    Theorem(
        "chain",
        "critical_path",
        "the longest chain of data edges, with the orders that were fixed",
        "always",
        asked="step",
        find=critical_path.find,
    ),
    Theorem(
        "B0",
        "symmetry",
        "alike micro-batches may run first in, first out",
        "durations alike, rules at one distance for all micro-batches, no fixed order out of turn; "
        "else this pipeline goes without B0, B2, B3",
    ),
    Theorem(
        "B1",
        "one_machine",
        "least h + work + least q, for any set of operations of one rank; the best set by "
        "Jackson's preemptive schedule. Heads and tails themselves are raised by what runs before "
        "and after on the same rank",
        "always",
        asked="shares",
        find=one_machine.find,
    ),
    Theorem(
        "B2",
        "symmetry",
        "edges from each micro-batch to the next of its op class",
        "with B0",
        edges=symmetry.fifo_edges,
    ),
    Theorem(
        "B3",
        "memory",
        "forward i + K waits for backward i, for the K that memory leaves room for",
        "with B0 and a limit",
        edges=memory.memory_edges,
    ),
    Theorem(
        "B4",
        "window",
        "before its first backward and after its last forward a rank can only do what memory holds",
        "always; says something with a limit",
        asked="rank",
        find=window.find,
    ),
    Theorem(
        "B5",
        "memory_time",
        "memory × time: L · (end − h − q) ≥ Σ memory · shortest residence",
        "with a limit",
        asked="memory",
        find=memory_time.find,
    ),
    Theorem(
        "B6",
        "overlap",
        "an overlapped unit saves at most F + B − E, and there are at most so many units",
        "where units may overlap",
    ),
    Theorem(
        "B7",
        "span",
        "the span of a rank is bounded by what any rank must do between its first and last "
        "operation",
        "`minimize span`",
    ),
    Theorem(
        "B8",
        "rank_as_stage",
        "a rank with several stages counts as if it had one: the m-th forward of all waits for the "
        "backward that makes room for it; this raises heads and tails elsewhere, and round by "
        "round",
        "with a limit; no B0 needed, and stages of a rank may differ (the shortest of each kind "
        "counts)",
        asked="shares",
        find=rank_as_stage.find,
    ),
    Theorem(
        "B9",
        "collectives",
        "each stage's gradients are reduced after its last operation, its weights gathered before "
        "its first, those of one rank one after another",
        "with `reduce gradients` or `unshard weights`, for makespans",
        asked="beside",
        find=collectives.find,
    ),
    Theorem(
        "B10",
        "parts.streams",
        "B1 for each stream of a rank, with index order and memory edges for single parts (B0, B2 "
        "and B3 of `parts.graph`), raised by B12",
        "where stages are cut into parts; of the theorems above none is asked there",
    ),
    Theorem(
        "B11",
        "parts.windows",
        "B4 for each stream: before a rank's first backward part and after its last forward part a "
        "stream can only do what memory holds",
        "where stages are cut into parts; says something with a limit",
    ),
    Theorem(
        "B12",
        "parts.rank_as_chain",
        "B8 for parts: all stages of a rank count as one chain of parts, the m-th of each part of "
        "all of them after the m-th of the part before, and the m-th forward after what makes room",
        "where stages are cut into parts, on ranks with several stages of equal chains",
    ),
)


def table() -> str:
    """The theorems as a table in Markdown."""
    rows = ["| | says | applies | module |", "| --- | --- | --- | --- |"]
    rows += [f"| {t.name} | {t.says} | {t.applies} | `{t.module}` |" for t in THEOREMS]
    return "\n".join(rows) + "\n"
