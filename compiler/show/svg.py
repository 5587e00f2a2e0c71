"""`show --format svg`: the picture for documents, readable on a light page and on a dark one.

In comes a View, out goes one SVG without scripts, links or fonts of its own: a lane per rank, below
it a lower one, hatched, for each further stream, then the curve of the rank's activations; below
all the time and what the colours mean. Where there are
more operations or ranks than one could see, `crowded` says what is drawn instead. Whatever comes
from a file is escaped. Lengths are whole hundredths of a pixel, so that a picture is the same on
every machine.
"""

from collections.abc import Iterator

from stretto.compiler.analysis.idle import Idle, told
from stretto.compiler.problem.kinds import KINDS
from stretto.compiler.problem.spec import NONE, show
from stretto.compiler.program.timeline import Timed
from stretto.compiler.show.kinds import in_order
from stretto.compiler.show.palette import LIGHTER, Shade, colour
from stretto.compiler.show.scale import marks
from stretto.compiler.show.summary import figures
from stretto.compiler.show.svg_crowded import CROWDED, crowded
from stretto.compiler.show.svg_layout import (
    CURVE,
    DIGIT,
    GAP,
    LANE,
    LEFT,
    PAD,
    SIDE,
    TOP,
    WIDTH,
    across,
    escape,
    hundredths,
    right,
    swatch,
    x,
)
from stretto.compiler.show.view import View

MOST = 20_000  # bars; beyond, a browser takes minutes to open the picture
MOST_RANKS = 128

STYLE = """
text { font: 10px ui-sans-serif, system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif;
  fill: #57606a }
.ground { fill: #ffffff; stroke: #d0d7de }
.name { font-size: 15px; font-weight: 600; fill: #1f2328 }
.figures { font-size: 11.5px }
.rank { font-size: 11px; fill: #1f2328 }
.idle { fill: #eef1f4 }
.gap { fill: transparent }
.grid { stroke: #d0d7de; stroke-width: 0.7 }
.bar { stroke: #ffffff }
.held { fill: #8c959f; fill-opacity: 0.32; stroke: #6e7781; stroke-width: 0.7 }
.limit { stroke: #cf222e; stroke-width: 1; stroke-dasharray: 3 2 }
.on { font-size: 10px; text-anchor: middle; pointer-events: none }
.end { text-anchor: end } .mid { text-anchor: middle }
@media (prefers-color-scheme: dark) {
  text { fill: #9198a1 }
  .ground { fill: #0d1117; stroke: #30363d }
  .name, .rank { fill: #e6edf3 }
  .idle { fill: #1b2129 }
  .grid { stroke: #30363d }
  .bar { stroke: #0d1117 }
  .held { fill: #8b949e; fill-opacity: 0.3; stroke: #8b949e }
  .limit { stroke: #f85149 }
}
"""


THIN = 4
"""Pixels, of what runs beside the computations."""

EDGE = 10
"""Per cent of a narrow bar's width that lie between two bars, at most 0.8 pixels."""

SEVERAL = "shades of a kind, from left to right: the first stage that a rank has, its second, …"
SHADES = 15
"""Pixels from one shade of a kind to the next, in the legend."""


def draw(view: View) -> str:
    """The picture."""
    crowd = is_crowded(view)
    rows, bottom = crowded(view) if crowd else detailed(view)
    curves = any('class="held"' in row for row in rows)
    key = [one for one in legend(view) if curves or one[3] != "held"]
    below = bottom + 30 + 18 * (1 + max(row for _, row, _, _ in key))
    height = below + 18 * crowd + PAD // 2
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" role="img">',
        f"<title>{escape(view.spec.name)}: who does what when</title>",
        f"<style>{STYLE}{''.join(sorted(paints(view)))}{_edges(view)}{_beside(view)}{_hatched(view)}</style>",
        *(HATCHES if view.spec.streams else ()),
        f'<rect class="ground" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="8"/>',
        *heading(view),
        *axis(view, bottom),
        *rows,
    ]
    for words, row, left, paint in key:
        y = bottom + 30 + 18 * row
        if paint:
            parts.append(
                f'<rect class="{paint}" x="{left}" y="{y}" width="12" height="12" rx="2"/>'
            )
        if words:
            at = left + 17 * bool(paint)
            parts.append(f'<text x="{at}" y="{y + 10}">{escape(words)}</text>')
    if crowd:
        parts.append(f'<text x="{LEFT}" y="{below + 10}">{CROWDED}</text>')
    return "\n".join([*parts, "</svg>", ""])


def detailed(view: View) -> tuple[list[str], int]:
    """A lane for every rank with all its operations, and where they end below."""
    parts: list[str] = []
    top = TOP
    for rank, used in enumerate(streams_of(view)):
        below = top + LANE + 2 + (SIDE + 2) * (len(used) - 1)
        for stream in used:
            parts += lane(view, rank, stream, top, below)
            top += (SIDE if stream else LANE) + 2
        top = below + CURVE + GAP - 2
    return parts, top


def streams_of(view: View) -> list[list[int]]:
    """By rank the streams that are drawn."""
    found: list[list[int]] = [[] for _ in range(view.spec.ranks)]
    for rank, stream in view.streams:
        found[rank].append(stream)
    return found


def _edges(view: View) -> str:
    """The style of what stands between bars, in the colour of the ground: of narrow ones it may not
    eat up the colour."""
    widths = sorted(
        across(view, bar.end) - across(view, bar.start) for bars in view.lanes for bar in bars
    )
    usual = widths[len(widths) // 10] if widths else 0  # few are narrower
    return f".bar {{ stroke-width: {hundredths(min(80, EDGE * usual // 100))} }}\n"


def _beside(view: View) -> str:
    """The style of what runs beside the computations, where there is any."""
    return ".beside { fill: #8250df; stroke: #ffffff; stroke-width: 0.5 }\n" * bool(
        view.timeline.collectives
    )


HATCHES = (
    '<defs><pattern id="hatch" width="4" height="4" patternUnits="userSpaceOnUse">'
    '<path class="line" d="M-1 3L3 -1M1 5L5 1"/></pattern>',
    '<pattern id="hatch-key" width="4" height="4" patternUnits="userSpaceOnUse">'
    '<rect class="under" width="4" height="4"/><path class="line" d="M-1 3L3 -1M1 5L5 1"/>'
    "</pattern></defs>",
)


def _hatched(view: View) -> str:
    """The style of what runs on other streams than the first, where there is any."""
    rules = (
        ".hatched { fill: url(#hatch); pointer-events: none } .hatch-key { fill: url(#hatch-key) }",
        ".line { stroke: #000000; stroke-opacity: 0.32; stroke-width: 0.9 }",
        ".under { fill: #afb8c1 }",
    )
    return "\n".join([*rules, ""]) if view.spec.streams else ""


def is_crowded(view: View) -> bool:
    """Whether there is more than one could see."""
    return sum(map(len, view.lanes)) > MOST or view.spec.ranks > MOST_RANKS


def paints(view: View) -> set[str]:
    """The style of every colour that occurs, and of the ink on it."""
    rules = set()
    for kind, pipeline, stage in {bar.operation[:3] for bars in view.lanes for bar in bars}:
        chunk = view.chunks[pipeline, stage]
        paint, name = colour(kind, pipeline, chunk), swatch(kind, pipeline, chunk)
        rules.add(f".{name} {{ fill: {paint} }} .on.{name} {{ fill: {paint.ink} }}\n")
    return rules


def heading(view: View) -> Iterator[str]:
    """The schedule's name and figures."""
    s = view.summary
    yield f'<text class="name" x="{PAD}" y="27">{escape(s.schedule)}</text>'
    yield f'<text class="figures" x="{PAD}" y="46">{escape(figures(s))}</text>'
    yield f'<text class="end" x="{WIDTH - PAD}" y="{TOP - 8}">peak</text>'


def axis(view: View, bottom: int) -> Iterator[str]:
    """The grid of times and their labels, below the last lane at `bottom` (pixels)."""
    for mark in marks(view.claims.makespan, view.spec.time_unit, 14):
        at = x(view, mark)
        yield f'<path class="grid" d="M{at} {TOP - 4}V{bottom}"/>'
        yield f'<text class="mid" x="{at}" y="{bottom + 13}">{view.time_words(mark)}</text>'


def lane(view: View, rank: int, stream: int, top: int, below: int) -> Iterator[str]:
    """One stream of a rank: its name, bars and idle stretches; of the first also the rank's curve
    of activations, which stands at `below`, and its peak."""
    width, high = WIDTH - LEFT - right(view), SIDE if stream else LANE
    name = escape(view.spec.streams[stream]) if stream else f"rank {rank}"
    yield f'<text class="rank" x="{PAD}" y="{top + high // 2 + 4}">{name}</text>'
    yield f'<rect class="idle" x="{LEFT}" y="{top}" width="{width}" height="{high}" rx="2"/>'
    for one in view.idle[rank]:
        if one.stream == stream:
            yield gap(view, one, top, high)
    bars = [bar for bar in view.lanes[rank] if bar.stream == stream]
    for bar in bars:
        yield from drawn(view, bar, top, high)
    if stream:
        yield hatched(view, bars, top)
        return
    if view.timeline.collectives:
        yield from beside(view, rank, top)
    yield from curve(view, rank, below)
    peak = view.size_words(view.claims.activations[rank])
    yield f'<text class="end" x="{WIDTH - PAD}" y="{top + LANE // 2 + 4}">{peak}</text>'


def beside(view: View, rank: int, top: int) -> Iterator[str]:
    """What runs beside the computations: thin bars at the lower edge of the lane."""
    for one in view.timeline.collectives[rank]:
        left, right = across(view, one.start), across(view, one.end)
        name = f"{one.what} {view.spec.pipelines[one.pipeline].name}[{one.stage}]"
        words = f"{name}   {view.time_words(one.start)} to {view.time_words(one.end)}"
        yield (
            f'<rect class="beside" x="{hundredths(left)}" y="{top + LANE - THIN}" '
            f'width="{hundredths(right - left)}" height="{THIN}"><title>{escape(words)}</title>'
            "</rect>"
        )


def hatched(view: View, bars: list[Timed], top: int) -> str:
    """The texture over the bars of another stream than the first."""
    edges = [(across(view, bar.start), across(view, bar.end)) for bar in bars]
    path = "".join(
        f"M{hundredths(a)} {top}H{hundredths(b)}V{top + SIDE}H{hundredths(a)}Z" for a, b in edges
    )
    return f'<path class="hatched" d="{path}"/>'


def gap(view: View, one: Idle, top: int, high: int) -> str:
    """An idle stretch: nothing to see, but for whoever hovers its cause."""
    left, right = across(view, one.start), across(view, one.end)
    return (
        f'<rect class="gap" x="{hundredths(left)}" y="{top}" width="{hundredths(right - left)}" '
        f'height="{high}"><title>{escape(told(view.spec, one))}</title></rect>'
    )


def drawn(view: View, bar: Timed, top: int, high: int) -> Iterator[str]:
    """A bar with its micro-batch and, for whoever hovers, its name, times and line. Of an
    overlapped pair the F is the upper half, the backward the lower."""
    kind, pipeline, stage, microbatch, slice_, _ = bar.operation
    paint = swatch(kind, pipeline, view.chunks[pipeline, stage])
    paired = bar.unit != NONE
    height = high // 2 if paired else high
    y = top + (height if paired and kind != "F" else 0)
    left, right = across(view, bar.start), across(view, bar.end)
    words = str(microbatch) if slice_ == NONE else f"{microbatch}.{slice_}"
    label = (
        f'<text class="on {paint}" x="{hundredths((left + right) // 2)}" '
        f'y="{y + height // 2 + 4}">{words}</text>'
    )
    yield (
        f'<g><title>{escape(tip(view, bar))}</title><rect class="bar {paint}" '
        f'x="{hundredths(left)}" y="{y}" width="{hundredths(right - left)}" height="{height}" '
        f'rx="2"/>{label if len(words) * DIGIT + 100 <= right - left else ""}</g>'
    )


def tip(view: View, bar: Timed) -> str:
    """What is told of a bar to whoever hovers it: name, times and line."""
    start, end = view.time_words(bar.start), view.time_words(bar.end)
    words = f"{show(view.spec, bar.operation)}   {start} to {end}"
    span = view.span(bar)
    return f"{words}\n{span.file}:{span.line}" if span else words


def curve(view: View, rank: int, top: int) -> Iterator[str]:
    """The rank's activations over time, to one scale for all ranks; its limit as a dashed line."""

    def up(grains: int) -> str:
        return hundredths(100 * (top + CURVE) - 100 * CURVE * grains // view.most_held)

    path = f"M{x(view, 0)} {up(0)}"
    for tick, grains in view.memory[rank]:
        path += f"H{x(view, tick)}V{up(grains)}"
    path += f"H{x(view, view.claims.makespan)}V{up(0)}Z"
    yield f'<path class="held" d="{path}"><title>activations of rank {rank}</title></path>'
    limit = view.spec.limits[rank] if view.spec.limits else None
    if limit:
        y = up(limit.grains)
        yield f'<path class="limit" d="M{LEFT} {y}H{WIDTH - right(view)}"/>'


def _shades(view: View) -> set[Shade]:
    """The colours that occur; further stages of a rank than four look alike."""
    return {
        (kind, pipeline, min(view.chunks[pipeline, stage], len(LIGHTER) - 1))
        for kind, pipeline, stage in {b.operation[:3] for bars in view.lanes for b in bars}
    }


def legend(view: View) -> Iterator[tuple[str, int, int, str]]:
    """What the colours mean, as words, row, x and class: a row for every pipeline that has a name
    of its own to tell, a column for every kind of operation that occurs, in it a shade for each of
    the stages that a rank has of the pipeline."""
    shades: dict[tuple[str, int], list[int]] = {}
    for kind, p, chunk in sorted(_shades(view)):
        shades.setdefault((kind, p), []).append(chunk)
    several = len(view.spec.pipelines) > 1
    left = LEFT
    for kind in in_order(kind for kind, _ in shades):
        widest = 0
        for p, pipeline in enumerate(view.spec.pipelines):
            *others, last = shades.get((kind, p)) or [NONE]
            if last == NONE:
                continue
            for k, chunk in enumerate(others):
                yield "", p, left + SHADES * k, swatch(kind, p, chunk)
            words = KINDS[kind].name + (f" {pipeline.name}" if several else "")
            yield words, p, left + SHADES * len(others), swatch(kind, p, last)
            widest = max(widest, SHADES * len(others) + int(len(words) * 5.6))
        left += 17 + widest + 20
    if view.spec.streams:
        words = f"on {', '.join(view.spec.streams[1:])}"
        yield words, 0, left, "hatch-key"
        left += 17 + int(len(words) * 5.6) + 20
    yield "activations held", 0, left, "held"
    if any(len(chunks) > 1 for chunks in shades.values()):
        row = len(view.spec.pipelines)
        yield SEVERAL, row, LEFT, ""
    if view.timeline.collectives:
        left += 17 + int(len("activations held") * 5.6) + 20
        yield "gradients reduced, weights unsharded", 0, left, "beside"
