"""`full`: a diagnostic for people, with the lines it speaks of, every place marked, and what to
type instead. What could steer a terminal is shown spelled out."""

from collections.abc import Callable, Iterable
from textwrap import wrap
from typing import NamedTuple
from unicodedata import combining, east_asian_width

from stretto.compiler.diagnostics.ascii import spelled
from stretto.compiler.diagnostics.diagnostic import Diagnostic, Label
from stretto.compiler.diagnostics.layout import CUT
from stretto.compiler.diagnostics.printable import one_line, printable, told
from stretto.compiler.diagnostics.source import Source

WIDEST = 150  # of a source line; of longer ones the part around the marks is shown
LEAST = 20  # columns that a line or the text of a mark gets
FAR = 4000  # characters of a source line, of more than which only a part is looked at
TAB = 4
Paint = Callable[[str, str], str]
BOLD, RED, YELLOW, BLUE, CYAN = "1", "1;31", "1;33", "1;34", "1;36"


class Screen(NamedTuple):
    """How words are painted, and for source lines how wide they may be and what can be shown."""

    paint: Paint
    width: int | None
    encoding: str

    def room(self, margin: int) -> int:
        """Columns that there are for a source line behind the margin."""
        return WIDEST if self.width is None else max(LEAST, min(WIDEST, self.width - margin - 3))


class Mark(NamedTuple):
    """A label on one line, in columns of the screen from 0."""

    start: int
    end: int
    sign: str  # ^ for the first label of a diagnostic, - for others
    text: str


def full(
    diagnostics: Iterable[Diagnostic],
    sources: Iterable[Source] = (),
    colour: bool = False,
    width: int | None = None,
    encoding: str = "utf-8",
) -> str:
    """Every diagnostic, with an empty line between two; source lines and their marks in this width,
    and so aligned that this encoding can show them."""
    texts = {source.name: source.text for source in sources}
    screen = Screen(_paint if colour else _plain, width, encoding)
    lines = {name: text.split("\n") for name, text in texts.items()}
    return "\n".join("".join(f"{x}\n" for x in _told(d, lines, screen)) for d in diagnostics)


def _paint(style: str, text: str) -> str:
    return f"\x1b[{style}m{text}\x1b[0m" if text else ""


def _plain(style: str, text: str) -> str:
    return text


def _told(d: Diagnostic, lines: dict[str, list[str]], screen: Screen) -> Iterable[str]:
    paint = screen.paint
    tone = RED if d.severity == "error" else YELLOW
    yield paint(tone, f"{d.severity}[{d.code}]") + paint(BOLD, f": {told(d.message)}")
    width = max((len(str(label.span.line)) for label in d.labels), default=1)
    margin = " " * width
    files = list(dict.fromkeys(label.span.file for label in d.labels))
    shown = False
    for file in files:
        labels = [label for label in d.labels if label.span.file == file]
        arrow = "-->" if file == files[0] else ":::"
        yield paint(BLUE, f"{margin}{arrow}") + f" {one_line(str(labels[0].span))}"
        if file in lines:
            shown = True
            first = d.labels[0] if file == files[0] else None
            yield from _shown(labels, first, lines[file], width, tone, screen)
    if shown and (d.notes or d.help):
        yield paint(BLUE, f"{margin} |")
    for note in d.notes:
        head = "" if note.startswith("circle: ") else "note: "
        yield from _hung(margin, head, note, paint)
    if d.help:
        yield from _hung(margin, "help: ", d.help, paint)


def _hung(margin: str, head: str, text: str, paint: Paint) -> Iterable[str]:
    """A note; its further lines hang below its first one."""
    first, *rest = told(text).split("\n")
    yield f"{paint(BLUE, margin + ' =')} {paint(BOLD, head)}{first}"
    indent = " " * len(f"{margin} = {head}")
    for line in rest:
        yield indent + line


# ---- Source lines


def _shown(
    labels: list[Label],
    first: Label | None,
    lines: list[str],
    width: int,
    tone: str,
    screen: Screen,
) -> Iterable[str]:
    """The lines that the labels are on, with their marks."""
    paint, room = screen.paint, screen.room(width)
    empty = paint(BLUE, f"{' ' * width} |")
    yield empty
    before = None
    for number in sorted({label.span.line for label in labels}):
        if before is not None and number - before == 2:
            between = _cells(_line(lines, number - 1), screen.encoding)[0]
            if screen.width is not None and len(between) > room:
                between = between[: room - len(CUT)] + CUT
            yield _numbered(number - 1, width, between, paint)
        elif before is not None and number - before > 2:
            yield paint(BLUE, "...")
        before = number
        here = [label for label in labels if label.span.line == number]
        part, here, first_here = _part(_line(lines, number), here, first)
        text, columns = _cells(part, screen.encoding)
        marks = [_mark(label, label is first_here, columns, text) for label in here]
        text, marks = _window(text, marks, room)
        yield _numbered(number, width, text, paint)
        for row in _rows(marks, tone, paint, screen.width and room):
            yield f"{empty} {row}"


def _line(lines: list[str], number: int) -> str:
    return lines[number - 1].rstrip("\r") if 0 < number <= len(lines) else ""


def _part(
    line: str, labels: list[Label], first: Label | None
) -> tuple[str, list[Label], Label | None]:
    """Of a line far too long to be shown the part around its chief label, before any of it is
    worked on, with the labels that begin there, moved, and the first one among them."""
    if len(line) <= FAR:
        return line, labels, first
    chief = first if first in labels else labels[0]
    assert chief is not None
    begin = max(0, min(chief.span.column - 1, len(line)) - WIDEST)
    end = begin + 3 * WIDEST
    head, tail = CUT if begin else "", CUT if end < len(line) else ""
    moved: list[Label] = []
    now = first
    for label in labels:
        start, stop = label.span.column, label.span.end_column
        if begin < start <= end + 1:
            span = label.span._replace(
                column=start - begin + len(head), end_column=min(stop, end) - begin + len(head)
            )
            moved.append(label._replace(span=span))
            now = moved[-1] if label is first else now
    return head + line[begin:end] + tail, moved, now


def _numbered(number: int, width: int, text: str, paint: Paint) -> str:
    return (paint(BLUE, f"{number:>{width}} |") + f" {text}").rstrip()


def _cells(line: str, encoding: str) -> tuple[str, list[int]]:
    """The line as it is shown, and for each of its characters, and the end, the screen column."""
    known = spelled(line, encoding) is line
    shown, columns, at = [], [], 0
    for character in line:
        columns.append(at)
        text, cells = _cell(character if known else spelled(character, encoding), at)
        shown.append(text)
        at += cells
    columns.append(at)
    return "".join(shown), columns


def _cell(character: str, at: int) -> tuple[str, int]:
    if len(character) > 1:
        return character, len(character)
    if character == "\t":
        blanks = TAB - at % TAB
        return " " * blanks, blanks
    if combining(character):
        return character, 0
    if not character.isprintable():
        if character == "\ufeff":
            return " ", 1
        text = ascii(character)[1:-1]
        return text, len(text)
    return character, 2 if east_asian_width(character) in "WF" else 1


def _mark(label: Label, first: bool, columns: list[int], text: str) -> Mark:
    span = label.span
    last = len(columns) - 1
    start = columns[min(span.column - 1, last)] + max(0, span.column - 1 - last)
    if span.end_line > span.line:
        end = max(len(text.rstrip()), start + 1)
    else:
        end = max(columns[min(span.end_column - 1, last)], start + 1)
    return Mark(start, end, "^" if first else "-", printable(label.text).replace("\n", " "))


def _window(text: str, marks: list[Mark], room: int) -> tuple[str, list[Mark]]:
    """Of a long line the part around its marks, the first label's first."""
    if len(text) <= room:
        return text, marks
    chief = next((m for m in marks if m.sign == "^"), marks[0])
    room -= 2 * len(CUT)
    begin = max(0, min(chief.start - room * 4 // 15, len(text) - room))
    part = text[begin : begin + room]
    head = CUT if begin else ""
    tail = CUT if begin + room < len(text) else ""
    shift = begin - len(head)
    kept = [
        m._replace(start=m.start - shift, end=min(m.end - shift, len(head) + room))
        for m in marks
        if begin <= m.start < begin + room
    ]
    return head + part + tail, kept


def _rows(marks: list[Mark], tone: str, paint: Paint, room: int | None) -> Iterable[str]:
    """The marks below a line: all signs in one row, the rightmost mark's text behind it, the texts
    of the others below, each hanging from its mark."""
    marks = sorted(set(marks), key=lambda m: (m.start, m.end))
    if not marks:
        return
    row = [" "] * max(m.end for m in marks)
    for m in sorted(marks, key=lambda m: m.sign == "^"):
        row[m.start : m.end] = m.sign * (m.end - m.start)
    signs = "".join(
        paint(tone if c == "^" else BLUE, c) if c != " " else c for c in row
    ) if paint is not _plain else "".join(row)  # fmt: skip
    last = marks[-1]
    fits = last.end == len(row) and bool(last.text)
    fits = fits and (room is None or len(row) + 1 + len(last.text) <= room)
    yield signs + (f" {paint(_tone(last, tone), last.text)}" if fits else "")
    hanging = [m for m in marks if m.text and not (fits and m is last)]
    if hanging:
        yield _hooks(hanging, tone, paint)
    while hanging:
        m = hanging.pop()
        for words in wrap(m.text, max(LEAST, room - m.start)) if room else [m.text]:
            yield _hooks(hanging, tone, paint, up_to=m.start) + paint(_tone(m, tone), words)


def _hooks(marks: list[Mark], tone: str, paint: Paint, up_to: int | None = None) -> str:
    at, row = 0, ""
    for m in marks:
        if m.start >= at:
            row += " " * (m.start - at) + paint(_tone(m, tone), "|")
            at = m.start + 1
    return row if up_to is None else row + " " * (up_to - at)


def _tone(mark: Mark, tone: str) -> str:
    return tone if mark.sign == "^" else BLUE
