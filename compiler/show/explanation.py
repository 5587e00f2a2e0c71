"""Explanation → text for a terminal, or the object of `explain --json`."""

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import msgspec

from stretto.compiler.analysis.critical_path import Link
from stretto.compiler.analysis.explanation import Explanation
from stretto.compiler.analysis.idle import CAUSES, WAITS, Cause, Idle, told
from stretto.compiler.diagnostics.layout import CUT, TextTable, hung
from stretto.compiler.problem.figures import figure, time_figure
from stretto.compiler.problem.spec import Spec, number
from stretto.compiler.show.summary import mean_words

LONGEST = 40  # links of the chain that are shown


def text(spec: Spec, explained: Explanation, width: int | None = None) -> str:
    """What `stretto explain PLAN` prints, in lines of this width."""

    def t(ticks: int) -> str:
        return time_figure(spec, ticks)

    line = _lines(explained)
    lines = [
        *hung(_headline(spec, explained, t), width),
        *(line for words in _beside(spec, explained) for line in hung(f"  {words}", width)),
        *_links(explained.chain, t, line).lines(width),
        "",
        *hung(f"why every {_whose(explained)} is idle, and for how long", width),
        *_table(spec, explained, t).lines(width),
    ]
    if explained.stretches:
        lines += ["", "the longest idle stretches"]
        for one in explained.stretches:
            lines += hung(f"  {_stretch(spec, one, line)}", width)
    if explained.gains or explained.moves or explained.notes:
        lines += ["", "what would help"]
        words = [f"{m.what(spec)}: {figure(m.before)} → {figure(m.after)}" for m in explained.moves]
        words += [f"{r.what}: {figure(r.before)} → {figure(r.after)}" for r in explained.gains]
        words += [f"({note})" for note in explained.notes]
        for word in words:
            lines += hung(f"  {word}", width)
    return "\n".join(lines)


def _beside(spec: Spec, explained: Explanation) -> Iterator[str]:
    """What is to be known of the figure of the headline."""
    if explained.mean:
        jitter = spec.jitter[0] / spec.jitter[1]
        yield f"{mean_words(spec.minimize, jitter, explained.mean)}; here they do not"
    for words in explained.assumed:
        yield f"assumed: {words}"


def _whose(explained: Explanation) -> str:
    return "rank's stream" if explained.lanes else "rank"


def _headline(spec: Spec, explained: Explanation, t: Any) -> str:
    """What the chain explains."""
    if spec.minimize == "makespan":
        return f"makespan {t(explained.makespan)}: the chain of operations that makes it"
    first, last = explained.first, explained.last
    return (
        f"span {t(last - first)}, of rank {explained.rank} from {t(first)} to {t(last)}; makespan "
        f"{t(explained.makespan)}: the chain of operations that makes the span"
    )


def _lines(explained: Explanation) -> bool:
    """Whether the lines of the text tell anything: not where one line asks for everything."""
    return len({link.line for link in explained.chain}) > 1


def _links(chain: tuple[Link, ...], t: Any, lines: bool) -> TextTable:
    shown = chain if len(chain) <= LONGEST else chain[: LONGEST // 2]
    rows = [_link(link, t, lines) for link in shown]
    if shown is not chain:
        rows.append((f"{CUT} {len(chain) - LONGEST} more", "", "", ""))
        rows += [_link(link, t, lines) for link in chain[-(LONGEST // 2) :]]
    names = ("time", "operation", "line", "why")
    return TextTable(names, rows, spared=("line",), text="why", bare=True, indent=2)


def _link(link: Link, t: Any, lines: bool) -> tuple[str, ...]:
    line = f"line {link.line}" if lines and link.line is not None else ""
    return f"{t(link.start)} – {t(link.end)}", link.operation, line, link.why


def _table(spec: Spec, explained: Explanation, t: Any) -> TextTable:
    used: list[Cause] = [cause for cause in CAUSES if any(idle[cause] for idle in explained.idle)]
    rows = []
    names = [str(rank) for rank in range(len(explained.idle))]
    if explained.lanes:
        names = [f"{rank} {spec.streams[stream]}" for rank, stream in explained.lanes]
    for name, idle in zip(names, explained.idle, strict=True):
        rows.append((name, t(sum(idle.values())), *(t(idle[cause]) for cause in used)))
    heads = [WAITS[cause] for cause in used]
    return TextTable(("rank", "idle", *heads), rows, spared=heads[::-1], indent=2)


def _stretch(spec: Spec, one: Idle, lines: bool) -> str:
    line = f" (line {one.line})" if lines and one.line is not None else ""
    return f"{told(spec, one)}{line}"


def data(spec: Spec, explained: Explanation) -> dict[str, Any]:
    """The object of `--json`: times in the units of the file."""

    def timed(one: Link | Idle) -> dict[str, Any]:
        found = msgspec.structs.asdict(one)
        found.pop("waits_for", None)
        stream = found.pop("stream")
        if spec.streams:
            found["stream"] = spec.streams[stream]
        for key in ("start", "end"):
            found[key] = number(found[key], spec.time_unit)
        for key in ("operation", "before"):
            if found.get(key):
                found[key] = found[key].replace("`", "")
        return found

    def exact(value: Fraction) -> int | str:
        return number(value.numerator, value.denominator)

    return {
        "schedule": spec.name,
        "makespan": number(explained.makespan, spec.time_unit),
        "minimize": spec.minimize,
        "explained": {
            "rank": explained.rank,
            "start": number(explained.first, spec.time_unit),
            "end": number(explained.last, spec.time_unit),
        },
        "chain": [timed(link) for link in explained.chain],
        "idle": _idle(spec, explained),
        "stretches": [timed(one) for one in explained.stretches],
        "relaxed": [
            {"what": r.what, "before": exact(r.before), "after": exact(r.after)}
            for r in explained.gains
        ],
        "moves": [
            {
                "pipeline": move.pipeline,
                "source": move.source,
                "target": move.target,
                "percent": move.percent,
                "before": exact(move.before),
                "after": exact(move.after),
            }
            for move in explained.moves
        ],
        "notes": list(explained.notes),
        "mean": msgspec.to_builtins(explained.mean),
        "assumed": list(explained.assumed),
    }


def _idle(spec: Spec, explained: Explanation) -> list[dict[str, Any]]:
    """Per rank its idle time by cause; where ranks have several streams, per rank by stream."""
    times: list[dict[str, Any]] = [
        {cause: number(idle[cause], spec.time_unit) for cause in CAUSES} for idle in explained.idle
    ]
    if not explained.lanes:
        return times
    ranks: list[dict[str, Any]] = [{} for _ in range(spec.ranks)]
    for (rank, stream), idle in zip(explained.lanes, times, strict=True):
        ranks[rank][spec.streams[stream]] = idle
    return ranks
