"""How often each line of an order ran an operation: what an author would count by hand to see which
loop is wrong. For messages only."""

from collections import Counter
from collections.abc import Callable, Iterable

from stretto.compiler.diagnostics.source import Span
from stretto.compiler.evaluation.orders.cursor import UNSCHEDULED, Cursor
from stretto.compiler.evaluation.reports import times_in_words

MOST_LINES = 8


def scheduled_at(cursor: Cursor, kind: str) -> list[int]:
    """The texts that scheduled a stage's operations of a kind. A `B` counts as an `I`, since the
    two share one sequence of micro-batches, but not as a `W`."""
    if kind == "F":
        return [at for at in cursor.forward if at != UNSCHEDULED]
    texts = cursor.weight if kind == "W" else cursor.backward
    return [
        at
        for n, at in enumerate(texts)
        if at != UNSCHEDULED and not (kind == "W" and cursor.full[n])
    ]


def by_line(texts: Iterable[int], span: Callable[[int], Span], lines: Iterable[int] = ()) -> str:
    """`3 times (line 9), never (line 10)`: how often these texts stand on each line; `lines` are
    listed even where there is none."""
    counts = Counter(span(at).line for at in texts)
    shown = sorted({*counts, *lines})
    parts = [f"{times_in_words(counts[n]) if counts[n] else 'never'} (line {n})" for n in shown]
    return ", ".join(parts[:MOST_LINES]) + (", …" if len(parts) > MOST_LINES else "")
