"""The rows of an SVG of a plan that is too large to be drawn operation by operation: what `crowded`
counted, as colours whose heights are their shares of the time.

A row is as high as a lane, and has its curve of activations, where there are few; else low."""

from collections.abc import Iterator
from typing import NamedTuple

from stretto.compiler.show.crowded import CrowdedRow, crowded_rows, edges
from stretto.compiler.show.kinds import in_order
from stretto.compiler.show.svg_layout import (
    CURVE,
    GAP,
    LANE,
    LEFT,
    PAD,
    SIDE,
    TOP,
    WIDTH,
    escape,
    hundredths,
    right,
    swatch,
    x,
)
from stretto.compiler.show.view import View

CROWDED = (
    "more than can be drawn one by one: the heights of the colours are their shares of the time"
)
FEW = 32  # rows that can be as high as lanes
LOW, SPACE = 10, 2  # pixels, of a row and below it, where there are many
STEP = 50  # hundredths, to which heights are rounded


class Band(NamedTuple):
    """Cells `first` to `last` of a row in which a colour has one height: from `upper` to `lower`,
    in hundredths below the row's top."""

    first: int
    last: int
    upper: int
    lower: int


def crowded(view: View) -> tuple[list[str], int]:
    """The rows, and where they end below."""
    cuts = edges(view)
    rows = list(crowded_rows(view, cuts))
    few = view.spec.ranks <= FEW and rows[0].many == 1
    parts: list[str] = []
    top = TOP
    for k, row in enumerate(rows):
        high = (SIDE if row.stream else LANE) if few else LOW
        parts += shares(view, row, cuts, top, high)
        top += high + SPACE
        last = k + 1 == len(rows) or rows[k + 1].first != row.first
        if few and last:  # below all streams of the rank, what it holds
            own = next(one for one in rows if one.first == row.first)
            parts.append(held(view, own, cuts, top))
            top += CURVE + GAP - SPACE
    return parts, top


def shares(view: View, row: CrowdedRow, cuts: list[int], top: int, height: int) -> Iterator[str]:
    """One row: its name, the colours as high as their shares, hatched on other streams than the
    first, and the peak of its ranks."""
    name = f"rank {row.first}" if row.many == 1 else f"{row.first} – {row.last}"
    middle = top + height // 2 + 4
    if row.stream:
        stream = escape(view.spec.streams[row.stream])
        name = f"{name} {stream}"
        yield f'<text x="{PAD}" y="{middle}">{stream}</text>'
    else:
        yield f'<text class="rank" x="{PAD}" y="{middle}">{name}</text>'
    width = WIDTH - LEFT - right(view)
    busy = sum(sum(ticks) for ticks in row.ticks.values())
    share = 100 * float(busy) / (row.many * max(1, view.claims.makespan))
    yield (
        f'<g><title>{name}: {share:.1f} % busy</title><rect class="idle" x="{LEFT}" y="{top}" '
        f'width="{width}" height="{height}"/>'
    )
    filled = ""
    done = [0] * (len(cuts) - 1)  # how far down the colours before reach, cell by cell
    for kind in in_order(kind for kind, _, _ in row.ticks):
        for shade in sorted(shade for shade in row.ticks if shade[0] == kind):
            heights = []
            for cell, ticks in enumerate(row.ticks[shade]):
                whole = (cuts[cell + 1] - cuts[cell]) * row.many
                lower = done[cell] + STEP * round(100 * height * ticks / (STEP * whole))
                heights.append((done[cell], min(lower, 100 * height)))
                done[cell] = heights[-1][1]
            path = "".join(drawn(view, band, cuts, top) for band in bands(heights))
            if path:
                yield f'<path class="{swatch(*shade)}" d="{path}"/>'
            filled += path
    yield "</g>"
    if row.stream:
        yield f'<path class="hatched" d="{filled}"/>'
        return
    peak = view.size_words(max(view.claims.activations[row.first : row.last + 1]))
    yield f'<text class="end" x="{WIDTH - PAD}" y="{middle}">{peak}</text>'


def bands(heights: list[tuple[int, int]]) -> Iterator[Band]:
    """Neighbouring cells of one height together; those without any left out."""
    first = 0
    for cell in range(1, len(heights) + 1):
        if cell == len(heights) or heights[cell] != heights[first]:
            upper, lower = heights[first]
            if lower > upper:
                yield Band(first, cell - 1, upper, lower)
            first = cell


def drawn(view: View, band: Band, cuts: list[int], top: int) -> str:
    """A rectangle as a part of a path."""
    upper, lower = (hundredths(100 * top + height) for height in (band.upper, band.lower))
    left, right = x(view, cuts[band.first]), x(view, cuts[band.last + 1])
    return f"M{left} {upper}H{right}V{lower}H{left}Z"


def held(view: View, row: CrowdedRow, cuts: list[int], top: int) -> str:
    """The most that the rank of a row holds, cell by cell."""
    path, before = f"M{x(view, 0)} {top + CURVE}", -1
    for start, grains in zip(cuts, row.held, strict=False):
        if grains != before:
            y = 100 * (top + CURVE) - 100 * CURVE * grains // view.most_held
            path += f"H{x(view, start)}V{hundredths(y)}"
            before = grains
    path += f"H{x(view, cuts[-1])}V{top + CURVE}Z"
    return f'<path class="held" d="{path}"><title>activations of rank {row.first}</title></path>'
