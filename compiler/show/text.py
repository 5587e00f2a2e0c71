"""`show --format text`: the Gantt chart in a terminal, a lane per rank.

In comes a View and how it is looked at (width, colour); out goes the text, with colour codes or
without. Every column is the same stretch of time, where the width allows a whole number of columns
per step of the clock, so that equal operations look equal. Without colour the letters carry it:
capitals for the first pipeline, small letters for the second; or of one pipeline, for the stages
that a rank has of it. Where a rank is idle a mark tells the
cause, and below the chart the longest such stretches are told in words. An overlapped pair is the
F above and the backward below; where there are any, a lane is two lines high.
"""

from collections.abc import Iterable
from functools import cache
from io import StringIO
from math import gcd
from textwrap import wrap
from typing import NamedTuple

from rich.color import ColorSystem
from rich.console import Console
from rich.style import Style
from rich.text import Text

from stretto.compiler.analysis.idle import CAUSES, WAITS, Cause, longest, told
from stretto.compiler.diagnostics.printable import printable
from stretto.compiler.problem.kinds import KINDS
from stretto.compiler.problem.spec import NONE
from stretto.compiler.program.timeline import Timed
from stretto.compiler.show.kinds import in_order
from stretto.compiler.show.look import Look
from stretto.compiler.show.palette import Colour, colour
from stretto.compiler.show.scale import marks
from stretto.compiler.show.summary import figures
from stretto.compiler.show.text_hidden import hidden_lines
from stretto.compiler.show.view import View

MOST = 1000  # columns that one would still scroll through
WIDEST = 6  # columns for the shortest step of the clock, where there is room for more


class TimeScale(NamedTuple):
    """From ticks to columns."""

    ticks: int  # the whole chart
    columns: int

    def column(self, tick: int) -> int:
        """The column in which a tick lies."""
        return tick * self.columns // self.ticks


class ChartCell(NamedTuple):
    """One character of the chart, and how it is coloured."""

    character: str
    style: Style | None


DIM = Style(dim=True)
IDLE: dict[Cause, ChartCell] = {
    "data": ChartCell("·", DIM),
    "memory": ChartCell("=", DIM),
    "order": ChartCell("-", DIM),
    "channel": ChartCell("~", DIM),
    "done": ChartCell(".", DIM),
}
LONGEST = 3  # idle stretches that are told in words
BESIDE = 8  # ranks of which it is told what runs beside, and for each so many of these


def draw(view: View, look: Look) -> str:
    """The chart with its headline, axis and legend."""
    lanes = [(view.spec.ranks - 1, 0), *view.streams]
    names = [lane_name(view, rank, stream) for rank, stream in lanes]
    margin = max(map(len, names)) + 2
    peaks = [view.size_words(peak) for peak in view.claims.activations]
    frame = margin + 2 + max(map(len, [*peaks, "peak"]))
    scale = fitted(view, look.width - frame)
    headline = printable(f"{view.spec.name}: {figures(view.summary)}")
    lines = [Text(words) for words in wrap(headline, look.width)]
    height = 2 if any(bar.unit != NONE for lane in view.lanes for bar in lane) else 1
    lines.append(Text(" " * (margin + scale.columns + 2) + "peak", Style(dim=True)))
    for rank, stream in view.streams:
        name = lane_name(view, rank, stream).ljust(margin)
        for row in range(height):
            line = Text(name if row == 0 else " " * margin)
            line.append_text(joined(row_of(view, (rank, stream), row, height, scale, look)))
            if row == 0 and stream == 0:
                line.append(f"  {peaks[rank]}", Style(dim=True))
            lines.append(line)
        if height == 2 and rank + 1 < view.spec.ranks:
            lines.append(Text())
    lines += [Text(" " * margin + axis(view, scale), Style(dim=True)), Text()]
    lines += legend(view, look)
    lines += [Text(words) for words in wrap(hidden(view, look, scale, frame), look.width)]
    told = [Text(line) for line in hidden_lines(view, look.width)]
    lines += [Text(), *told] if told else []
    lines += causes(view, look)
    lines += beside(view, look)
    return printed(lines, look)


def fitted(view: View, room: int) -> TimeScale:
    """The widest scale in `room` columns that gives each step of the clock whole columns; if there
    are more steps than columns, one that fills the room."""
    ticks = max(1, view.claims.makespan)
    steps = ticks // step_of(view)
    room = max(room, 10)
    return TimeScale(ticks, steps * min(room // steps, WIDEST) if steps <= room else room)


def step_of(view: View) -> int:
    """The longest time of which every start and end is a multiple."""
    ticks = (tick for lane in view.lanes for bar in lane for tick in bar[2:4])
    return gcd(max(1, view.claims.makespan), *ticks)


def lane_name(view: View, rank: int, stream: int) -> str:
    """What stands before a lane: its rank, and where ranks have several streams which of them."""
    streams = view.spec.streams
    return printable(f"rank {rank} {streams[stream]}") if streams else f"rank {rank}"


def row_of(
    view: View, lane: tuple[int, int], row: int, height: int, scale: TimeScale, look: Look
) -> list[ChartCell]:
    """One line of a rank's stream: its bars, and where the rank is idle the mark of the cause."""
    rank, stream = lane
    cells = [ChartCell(" ", None)] * scale.columns
    for one in (one for one in view.idle[rank] if one.stream == stream):
        first, last = scale.column(one.start), scale.column(one.end)
        cells[first:last] = [IDLE[one.cause]] * (last - first)
    for bar in (bar for bar in view.lanes[rank] if bar.stream == stream):
        paired = bar.unit != NONE and height == 2
        if paired and (bar.operation.kind == "F") != (row == 0):
            continue
        first, last = scale.column(bar.start), scale.column(bar.end)
        words = "" if row == 1 and not paired else label(view, bar, last - first, look)
        style = paint(view, bar) if look.colour else None
        cells[first:last] = [ChartCell(c, style) for c in words.ljust(last - first)]
    return cells


def label(view: View, bar: Timed, width: int, look: Look) -> str:
    """As much of the operation's name as fits into its bar; the name of its part with it where
    there is room for all of that."""
    operation, number = bar.operation, numbered(bar)
    several = len(view.spec.pipelines) > 1
    of = operation.pipeline if several else view.chunks[operation[1:3]]
    letter = letter_of(operation.kind, of)
    if operation.part != NONE:
        part = printable(view.spec.parts[operation.pipeline][operation.stage][operation.part].name)
        whole = f"{number if look.colour else letter + number} {part}"
        if len(whole) < width:
            return whole
    if look.colour:
        return number if len(number) <= width else ""
    return (letter + number if len(number) < width else letter)[:width]


def numbered(bar: Timed) -> str:
    """The operation's micro-batch, and its slice if it has one."""
    operation = bar.operation
    return f"{operation.microbatch}" + (f".{operation.slice}" if operation.slice != NONE else "")


def letter_of(kind: str, number: int) -> str:
    """The letter of a kind, small for every second pipeline, or stage of a rank."""
    letter = KINDS[kind].letter
    return letter.lower() if number % 2 else letter


def paint(view: View, bar: Timed) -> Style:
    """The operation's colour; odd micro-batches a little darker, so that neighbours differ."""
    kind, pipeline, stage, microbatch = bar.operation[:4]
    return painted(kind, pipeline, view.chunks[pipeline, stage], microbatch % 2 == 1)


@cache
def painted(kind: str, pipeline: int, chunk: int, darker: bool) -> Style:
    """A colour with its ink."""
    ground = colour(kind, pipeline, chunk)
    ink = ground.ink
    if darker:
        ground = Colour(*(part * 86 // 100 for part in ground))
    return Style(color=f"rgb({ink[0]},{ink[1]},{ink[2]})", bgcolor=str(ground))


def joined(cells: Iterable[ChartCell]) -> Text:
    """The cells of a line, neighbours of one style together."""
    text = Text()
    run, style = "", None
    for cell in cells:
        if cell.style is not style:
            text.append(run, style)
            run, style = "", cell.style
        run += cell.character
    text.append(run, style)
    return text


def axis(view: View, scale: TimeScale) -> str:
    """Times below the chart, at round distances of at least eight columns."""
    line = ""
    for mark in marks(view.claims.makespan, view.spec.time_unit, max(2, scale.columns // 8)):
        words = view.time_words(mark)
        at = scale.column(mark)
        if at >= len(line) + bool(line):
            line = line.ljust(at) + words
    return line


def legend(view: View, look: Look) -> list[Text]:
    """What the colours or letters mean, those that occur, in lines of the width."""
    seen = {bar.operation[:2] for lane in view.lanes for bar in lane}
    names = [printable(pipeline.name) for pipeline in view.spec.pipelines]
    entries = []
    for kind in in_order(kind for kind, _ in seen):
        pipelines = [p for p in range(len(names)) if (kind, p) in seen]
        if look.colour:
            for p in pipelines:
                words = f" {KINDS[kind].name}" + (f" {names[p]}" if names[1:] else "")
                square = ("  ", Style(bgcolor=str(colour(kind, p))))
                entries.append(Text.assemble(square, words))
        else:
            entries.append(Text(f"{KINDS[kind].letter} {KINDS[kind].name}"))
    why = {one.cause for idle in view.idle for one in idle}
    entries += [Text(f"{IDLE[cause].character} {WAITS[cause]}") for cause in CAUSES if cause in why]
    most = max(view.chunks.values(), default=0)
    if not look.colour and not names[1:] and most:
        entries.append(Text("capitals 1st stage" if most == 1 else "capitals 1st, 3rd …"))
        entries.append(Text("small 2nd stage" if most == 1 else "small 2nd, 4th …"))
    if not look.colour and len(names) > 1:
        entries.append(Text(f"capitals {', '.join(names[::2])}"))
        entries.append(Text(f"small letters {', '.join(names[1::2])}"))
    return packed(entries, look.width)


def hidden(view: View, look: Look, scale: TimeScale, frame: int) -> str:
    """What the chart leaves out, and how wide it would have to be, with the columns of the frame
    around it, to show it; "" if nothing."""
    bars = [bar for lane in view.lanes for bar in lane]
    if not all(bar.end > bar.start for bar in bars):
        return "operations that take no time are not shown"
    widths = [scale.column(bar.end) - scale.column(bar.start) for bar in bars]
    needed = [len(numbered(bar)) + (not look.colour) for bar in bars]
    if all(width >= need for width, need in zip(widths, needed, strict=True)):
        return ""
    words = "numbers do not fit everywhere" if all(widths) else "short operations are left out"
    step = step_of(view)
    columns = max(
        -(-need * step // (bar.end - bar.start)) for bar, need in zip(bars, needed, strict=True)
    )
    wide = frame + columns * (scale.ticks // step)
    fits = columns <= WIDEST and wide <= MOST
    return f"{words}: `{f'--width {wide}' if fits else '--format html'}` shows them"


def causes(view: View, look: Look) -> list[Text]:
    """The longest stretches of which there is something to say."""
    listed = [one for idle in view.idle for one in idle if one.cause != "done"]
    lines = [Text()] if listed else []
    for one in longest(listed, LONGEST):
        words = printable(f"idle {told(view.spec, one)}")
        lines += [Text(line) for line in wrap(words, look.width, subsequent_indent="  ")]
    return lines


def beside(view: View, look: Look) -> list[Text]:
    """What runs beside the computations, of the first ranks."""
    lines = [Text()] if view.timeline.collectives else []
    for rank, row in enumerate(view.timeline.collectives[:BESIDE]):
        told = ", ".join(
            f"{one.what} {view.spec.pipelines[one.pipeline].name}[{one.stage}] "
            f"{view.time_words(one.start)} – {view.time_words(one.end)}"
            for one in row[:BESIDE]
        )
        more = ", ..." if len(row) > BESIDE else ""
        words = printable(f"beside rank {rank}: {told}{more}")
        lines += [Text(line) for line in wrap(words, look.width, subsequent_indent="  ")]
    if len(view.timeline.collectives) > BESIDE:
        lines.append(Text("beside other ranks likewise: `--format json` lists all"))
    return lines


def packed(entries: list[Text], width: int) -> list[Text]:
    """As many entries in a line as fit, three blanks between them."""
    lines: list[Text] = []
    for entry in entries:
        if lines and lines[-1].cell_len + 3 + entry.cell_len <= width:
            lines[-1].append("   ").append_text(entry)
        else:
            lines.append(entry.copy())
    return lines


def printed(lines: Iterable[Text], look: Look) -> str:
    """The lines as one text, with colour codes if the look has colour. (Written by `rich`, a line
    takes as long as compiling a rank.)"""
    if not look.colour:
        return "".join(f"{line.plain.rstrip()}\n" for line in lines)
    console = Console(file=StringIO(), width=look.width, highlight=False)
    return "".join(coded(console, line) + "\n" for line in lines)


def coded(console: Console, line: Text) -> str:
    """The line with colour codes."""
    codes = ColorSystem.TRUECOLOR
    if not line.spans:
        return Style.parse(str(line.style)).render(line.plain, color_system=codes)
    return "".join(
        segment.style.render(segment.text, color_system=codes) if segment.style else segment.text
        for segment in line.render(console)
    )
