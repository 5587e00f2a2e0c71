"""View → what the text says, below the chart, of the time on other streams than `compute`: for each
rank how much of it lies under computation, and what `compute` waits for during the rest."""

from collections.abc import Iterator

from stretto.compiler.analysis.hidden import exposed, hidden
from stretto.compiler.diagnostics.layout import TextTable
from stretto.compiler.diagnostics.printable import printable
from stretto.compiler.show.summary import percent
from stretto.compiler.show.view import View


def hidden_lines(view: View, width: int | None = None) -> Iterator[str]:
    """The table of `hidden_table` in lines of this width; none where there is none."""
    names, rows = hidden_table(view)
    if rows:
        yield from TextTable(names, rows, spared=("ramps", "steady"), text=names[-1]).lines(width)


def hidden_table(view: View) -> tuple[list[str], list[tuple[str, ...]]]:
    """The names of its columns, and a row for each rank that spends time on other streams; no rows
    where no rank does."""
    spec = view.spec
    if not spec.streams or not any(known := hidden(view.timeline)):
        return [], []
    compute, others = spec.streams[0], " and ".join(spec.streams[1:])
    waits = {"own": f"for {others}", "away": "for other ranks", "order": "for the order"}
    waits |= {"memory": "for memory", "channel": "for a channel", "done": "no more: it is done"}
    heads = (f"{others} hidden", "step", "steady", "ramps", f"not hidden while {compute} waits")
    rows: list[tuple[str, ...]] = []
    for rank, one in enumerate(known):
        if one is None:
            continue
        shares = [_share(part.share) for part in (one.all, one.steady, one.ramps)]
        rest = exposed(view.lanes[rank], view.idle[rank])
        whole = sum(rest.values())
        words = [f"{waits[why]} {percent(ticks / whole)}" for why, ticks in rest.most_common()]
        rows.append((f"rank {rank}", shares[0], shares[1], shares[2], ", ".join(words)))
    return [printable(head) for head in heads], rows


def _share(share: float | None) -> str:
    return "–" if share is None else percent(share)
