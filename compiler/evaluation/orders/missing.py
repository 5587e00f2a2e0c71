"""The diagnostic for an incomplete order: which operations are missing on which rank, and how often
the lines that should run them did. Imported only where there is such a mistake."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from stretto.compiler.diagnostics.diagnostic import Diagnostic
from stretto.compiler.diagnostics.source import Span
from stretto.compiler.diagnostics.wording import listed
from stretto.compiler.evaluation.orders.counts import by_line, scheduled_at
from stretto.compiler.evaluation.orders.cursor import Cursor
from stretto.compiler.evaluation.orders.resolver import Resolver
from stretto.compiler.evaluation.reports import diagnosis
from stretto.compiler.language import syntax as s

MOST_LISTED = 6


class MissingOperations(NamedTuple):
    """Operations of one stage that one rank never runs; `B` is a backward of which nothing runs,
    `FB` a micro-batch of which nothing does."""

    resolver: Resolver
    kinds: str
    cursor: Cursor
    numbers: list[int]


def left_out(statement: s.OrderRank, resolvers: Sequence[Resolver]) -> Diagnostic | None:
    """The diagnostic for an incomplete order, None if nothing is left out."""
    missing = [group for resolver in resolvers for group in _groups(resolver)]
    if not missing:
        return None
    mentions = list(_mentions(statement.body))
    lines = [_never(group, mentions) for group in missing]
    notes = _tallies(missing[0], mentions) + lines[1:MOST_LISTED]
    if len(lines) > MOST_LISTED:
        ranks = sorted({m.resolver.rank for m in missing})
        notes.append(f"{listed('rank', ranks, 4, 1)} leave some out")
    span = Span(*statement.span[:3], *statement.rank.span[3:])
    empty = [resolver.rank for resolver in resolvers if resolver.cursors and not resolver.units]
    help_ = advice(empty, "operation")
    return diagnosis("left-out", lines[0], span, notes=notes, help=help_)


def advice(empty: Sequence[int], each: str) -> str:
    """What to do about an order that leaves operations out; `empty`: the ranks of which it has
    none of what they have to do."""
    if not empty:
        return f"run each {each} once: check how often these lines run"
    them = "it" if len(empty) == 1 else "them"
    ranks = listed("rank", empty, 4, 1)
    return (
        f"nothing stands here for {ranks}: say what {them if them == 'it' else 'they'} "
        f"run{'s' * (len(empty) == 1)}, or add `order auto`, and the compiler orders {them}"
    )


def _groups(resolver: Resolver) -> Iterator[MissingOperations]:
    """A forward and its backward that are missing both are one group."""
    found = [(kind, cursor, numbers) for cursor in resolver.cursors.values()
             for kind, numbers in cursor.left_out()]  # fmt: skip
    cells: dict[tuple[str, int, int], list[tuple[int, int]]]
    cells = {(kind, cursor.stage, cursor.pipeline.index): _cells(kind, cursor, numbers)
             for kind, cursor, numbers in found}  # fmt: skip
    for kind, cursor, numbers in found:
        forward, backward = (cells.get((k, cursor.stage, cursor.pipeline.index)) for k in "FB")
        if kind not in "FB" or forward != backward:
            yield MissingOperations(resolver, kind, cursor, numbers)
        elif kind == "F":
            yield MissingOperations(resolver, "FB", cursor, numbers)


def _cells(kind: str, cursor: Cursor, numbers: list[int]) -> list[tuple[int, int]]:
    """Micro-batches and slices, in their order."""
    return sorted(cursor.cell(number, kind[0] != "F") for number in numbers)


# ---- The message


def _never(missing: MissingOperations, mentions: list[s.Mention]) -> str:
    resolver, kinds, cursor, numbers = missing
    cells = _cells(kinds, cursor, numbers)
    texts = (
        [f"{m}, slice {k}" for m, k in cells] if resolver.cut else _runs_of([m for m, _ in cells])
    )
    shown = ", ".join(texts[:4]) + (", …" if len(texts) > 4 else "")
    which = f"{cursor.pipeline.name}[{cursor.stage}, {shown}]"
    where = f"on rank {resolver.rank}"
    if kinds == "FB":
        return f"`F {which}` and {'its' if len(cells) == 1 else 'their'} backward never run {where}"
    if kinds == "B" and not {"I", "W"}.isdisjoint(m.kind for m in mentions):
        return f"neither `B` nor `I` and `W` of `{which}` run {where}"
    return f"`{kinds} {which}` never runs {where}"


def _runs_of(numbers: list[int]) -> list[str]:
    """`0..3`: runs of micro-batches together (both ends are meant)."""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and runs[-1][1] == n - 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    return [str(a) if a == b else f"{a}..{b}" for a, b in runs]


def _tallies(missing: MissingOperations, mentions: list[s.Mention]) -> list[str]:
    """How often each line ran what is missing: `F` of `main[0]`: once (line 9), …"""
    resolver, kinds, cursor, _ = missing
    notes = []
    for kind in kinds:
        alike = "BI" if kind in "BI" else kind
        standing = [m for m in mentions if m.kind in alike and _may_mean(m, cursor)]
        runs = scheduled_at(cursor, kind)
        if not runs and not standing:
            continue
        letters = " or ".join(f"`{k}`" for k in alike if any(m.kind == k for m in standing))
        name = f"{letters or f'`{kind}`'} of `{cursor.pipeline.name}[{cursor.stage}]`"
        lines = by_line(runs, resolver.span, [m.span.line for m in standing])
        total = len(scheduled_at(cursor, "I")) - sum(cursor.full) if kind == "W" else cursor.total
        notes.append(f"on rank {resolver.rank} {name}: {lines}; {len(runs)} of {total} in all")
    return notes


def _may_mean(mention: s.Mention, cursor: Cursor) -> bool:
    return mention.pipeline is None or mention.pipeline.text == cursor.pipeline.name


def _mentions(block: s.Block) -> Iterator[s.Mention]:
    """Every operation that the block writes, but for those that a queue lists."""
    rest: list[Any] = [block]
    while rest:
        match rest.pop():
            case s.Block(steps):
                rest += reversed(steps)
            case s.Mention() as mention:
                yield mention
            case s.Pair(first, second):
                rest += [second, first]
            case s.Repeat(body=body) | s.Loop(body=body):
                rest.append(body)
            case s.If(cases, otherwise):
                rest += [otherwise, *(body for _, body in reversed(cases))]
