"""Curves of bubble by memory, one small panel beside the other, as an SVG that reads on light and
dark ground. A limit between two measured ones allows what the smaller does: curves are steps.
"""

from collections.abc import Callable, Iterator, Sequence
from html import escape
from itertools import pairwise
from typing import NamedTuple


class Mark(NamedTuple):
    """One limit, in micro-batches: the bubble of the best published schedule (None where none
    fits), of the order found, the least possible as far as is proved, and whether that is it."""

    limit: float
    published: float | None
    found: float
    bound: float
    optimal: bool


class Panel(NamedTuple):
    title: str
    marks: Sequence[Mark]


WIDTH, HEIGHT = 410, 270  # of a panel
LEFT, RIGHT, TOP, BOTTOM = 60, 14, 34, 40  # around its curves
COLUMNS = 2
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #59636e }
.title { font-weight: 600; fill: #1f2328 }
.ground { fill: #ffffff } .grid { stroke: #d1d9e0; stroke-width: .7 }
.never { fill: #818b98; fill-opacity: .2 }
.line { fill: none; stroke-width: 2; stroke-linejoin: round }
.published { stroke: #bc4c00 } .published-word { fill: #bc4c00; font-weight: 600 }
.found { stroke: #0969da } .found-word { fill: #0969da; font-weight: 600 }
.open { fill: #ffffff; stroke: #0969da; stroke-width: 1.5 } .optimal { fill: #0969da }
@media (prefers-color-scheme: dark) {
  text { fill: #9198a1 } .title { fill: #f0f6fc }
  .ground { fill: #0d1117 } .grid { stroke: #30363d } .never { fill: #9198a1; fill-opacity: .22 }
  .published { stroke: #f0883e } .published-word { fill: #f0883e }
  .found { stroke: #58a6ff } .found-word { fill: #58a6ff }
  .open { fill: #0d1117; stroke: #58a6ff } .optimal { fill: #58a6ff }
}
"""
Place = Callable[[float, float], tuple[float, float]]


def picture(panels: Sequence[Panel]) -> str:
    """All panels on the same axes, so that they compare."""
    most = max(mark.limit for panel in panels for mark in panel.marks)
    width = COLUMNS * WIDTH
    height = -(-len(panels) // COLUMNS) * HEIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
        "<title>Bubble by memory limit: published schedules, orders found, lower bound</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="ground" width="{width}" height="{height}"/>',
    ]
    for k, panel in enumerate(panels):
        x, y = k % COLUMNS * WIDTH, k // COLUMNS * HEIGHT
        parts.append(f'<g transform="translate({x} {y})">')
        parts += _panel(panel, most)
        parts.append("</g>")
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(panel: Panel, most: float) -> Iterator[str]:
    """Axes, what is impossible, the two curves, and their names."""

    def at(limit: float, bubble: float) -> tuple[float, float]:
        x = LEFT + limit / most * (WIDTH - LEFT - RIGHT)
        return x, HEIGHT - BOTTOM - bubble * (HEIGHT - TOP - BOTTOM)

    yield from _axes(panel.title, most, at)
    marks = panel.marks
    never = [(mark.limit, mark.bound) for mark in marks]
    first, last = at(marks[0].limit, 0), at(most, 0)
    area = f"M{first[0]:.1f} {first[1]:.1f}L{_steps(never, most, at)}L{last[0]:.1f} {last[1]:.1f}Z"
    yield f'<path class="never" d="{area}"/>'
    published = [(one.limit, one.published) for one in marks if one.published is not None]
    if published:
        yield f'<path class="line published" d="M{_steps(published, most, at)}"/>'
    found = [(one.limit, one.found) for one in marks]
    yield f'<path class="line found" d="M{_steps(found, most, at)}"/>'
    for mark in marks:
        x, y = at(mark.limit, mark.found)
        kind = "optimal" if mark.optimal else "open"
        yield f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>'
    yield from _names(marks, most, at)


def _axes(title: str, most: float, at: Place) -> Iterator[str]:
    yield f'<text class="title" x="{LEFT}" y="20">{escape(title)}</text>'
    left, right = at(0, 0)[0], at(most, 0)[0]
    for part in (0, 0.25, 0.5, 0.75, 1):
        y = at(0, part)[1]
        yield f'<path class="grid" d="M{left:.1f} {y:.1f}H{right:.1f}"/>'
        yield f'<text x="{left - 6:.1f}" y="{y + 4:.1f}" text-anchor="end">{part:.0%}</text>'
    middle = f"14 {at(0, 0.5)[1]:.1f}"
    yield f'<text text-anchor="middle" transform="translate({middle}) rotate(-90)">bubble</text>'
    for limit in range(2, int(most) + 1, 2):
        x, y = at(limit, 0)
        yield f'<text x="{x:.1f}" y="{y + 16:.1f}" text-anchor="middle">{limit}</text>'
    x, y = at(most / 2, 0)
    yield (
        f'<text x="{x:.1f}" y="{y + 33:.1f}" text-anchor="middle">'
        "memory limit: micro-batches whose activations fit</text>"
    )


def _names(marks: Sequence[Mark], most: float, at: Place) -> Iterator[str]:
    """What each curve is, written beside it where there is room."""
    found = [(one.limit, one.found) for one in marks]
    published = [(one.limit, one.published) for one in marks if one.published is not None]

    def room(limit: float, bubble: float) -> float:
        """How far to the right of here the other curve comes down; more than a word is enough."""
        others = [other for other, height in published if height < bubble]
        return min([3.0, *(other - limit for other in others if other > limit)])

    steps = [(room(end, y), -abs(y - 0.45), end, y) for (_, y), (end, _) in pairwise(found)]
    _, _, end, bubble = max(steps, default=(0.0, 0.0, *found[0]))
    falling = bool(published) and published[0][1] > 0.4
    yield _word("found", "found", at(end + 0.2, bubble), 12 if falling else 2)
    if falling:
        falls = [(abs(y - 0.55), end, y) for (_, y), (end, _) in pairwise(published)]
        _, end, bubble = min(falls)
        yield _word("published", "best published", at(end + 0.3, bubble), 4)
    elif published:
        yield _word("published", "best published", at(published[0][0] + 0.3, published[0][1]), -8)
    x, y = at(0.55 * most, 0.92)
    yield f'<circle class="optimal" cx="{x - 9:.1f}" cy="{y:.1f}" r="3"/>'
    yield _word("plain", "proved optimal", (x, y), 4)
    yield f'<circle class="open" cx="{x + 99:.1f}" cy="{y:.1f}" r="3"/>'
    yield _word("plain", "open", (x + 108, y), 4)
    yield _word("plain", "no order can be here", at(1.25, 0.025), 0)


def _word(kind: str, word: str, at: tuple[float, float], down: int) -> str:
    return f'<text class="{kind}-word" x="{at[0]:.1f}" y="{at[1] + down:.1f}">{word}</text>'


def _steps(points: Sequence[tuple[float, float]], most: float, at: Place) -> str:
    """From each limit to the next what the first allows."""
    ends = [limit for limit, _ in points[1:]] + [most]
    corners = [
        place
        for (limit, bubble), end in zip(points, ends, strict=True)
        for place in (at(limit, bubble), at(end, bubble))
    ]
    return "L".join(f"{x:.1f} {y:.1f}" for x, y in corners)
