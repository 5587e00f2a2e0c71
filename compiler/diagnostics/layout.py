"""Tables and sentences in a width: what does not fit is left out with a word, or goes on in lines
of its own below, and is never wrapped by a terminal in the middle of a row. A width of None has
room for everything: a file, or a pipe.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from textwrap import wrap

from msgspec import Struct

from stretto.compiler.diagnostics.wording import columns

NARROWEST = 16  # columns in which a text can go on beside others
CUT = "..."


def hung(text: str, width: int | None, indent: int = 2) -> list[str]:
    """The text in lines of the width, those after the first further in by `indent`. What stands
    in front of it stays, and lines break at blanks where they can."""
    if width is None or len(text) <= width:
        return [text]
    lead = len(text) - len(text.lstrip(" "))
    deeper = " " * min(lead + indent, max(0, width - NARROWEST))
    return wrap(text, width, subsequent_indent=deeper, break_on_hyphens=False, drop_whitespace=True)


def labelled(rows: Mapping[str, str], width: int | None, gap: int = 2) -> list[str]:
    """A line for each name, its value behind it and, where that is long, below."""
    margin = max(map(len, rows), default=0) + gap
    lines = []
    for name, value in rows.items():
        lines += beside(name.ljust(margin), value, width)
    return lines


def beside(head: str, text: str, width: int | None) -> list[str]:
    """The text behind `head`, its further lines below its beginning, or where there is no room
    there, below all of it."""
    if width is None or len(head) + len(text) <= width:
        return [(head + text).rstrip()]
    room = width - len(head)
    if room < NARROWEST:
        lead = len(head) - len(head.lstrip(" ")) + 2
        rest = wrap(text, max(NARROWEST, width - lead), break_on_hyphens=False)
        return [head.rstrip(), *(" " * lead + line for line in rest)]
    first, *rest = wrap(text, room, break_on_hyphens=False) or [""]
    return [(head + first).rstrip(), *(" " * len(head) + line for line in rest)]


class TextTable(Struct, frozen=True):
    """Rows under their `names`, those of the columns `right` flush right, and `indent` columns from
    the margin; without a head where they are `bare`. Where the width is too small the columns
    `spared` are left out, the first one first, and a line below tells which; the column `text`, the
    last one, goes on in further lines."""

    names: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: Collection[str] = ()
    spared: Sequence[str] = ()
    text: str = ""
    bare: bool = False
    indent: int = 0

    def lines(self, width: int | None) -> list[str]:
        """The table, no line of which is wider than the width."""
        left = list(self.names)
        while (lines := self._lines(left, width)) and _wide(lines) > (width or _wide(lines)):
            more = next((name for name in self.spared if name in left), None)
            if more is None:
                assert width is not None
                return [x if len(x) <= width else x[: width - len(CUT)] + CUT for x in lines]
            left.remove(more)
        gone = [name for name in self.names if name not in left]
        if gone:
            words = f"No room in {width} columns for: {', '.join(gone)}."
            pad = " " * self.indent
            lines += [*([] if self.bare else [""]), *hung(pad + words, width, 0)]
        return lines

    def _lines(self, left: list[str], width: int | None) -> list[str]:
        at = [k for k, name in enumerate(self.names) if name in left]
        cells = self.rows if self.bare else [self.names, *self.rows]
        rows = [[row[k] for k in at] for row in cells]
        flush = [k for k, column in enumerate(at) if self.names[column] in self.right]
        pad = " " * self.indent
        if self.text not in left or width is None:
            return [pad + line for line in columns(rows, right=flush)]
        fixed = columns([[*row[:-1], "|"] for row in rows], right=flush)
        return [
            line
            for start, row in zip(fixed, rows, strict=True)
            for line in beside(pad + start[:-1], row[-1], width)
        ]


def _wide(lines: Iterable[str]) -> int:
    return max(map(len, lines), default=0)
