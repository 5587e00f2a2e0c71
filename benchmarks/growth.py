"""The picture of compile times: CPU seconds by operations, a line for every schedule, as an SVG
that reads on light and dark ground.
"""

from math import log10
from typing import Any

Row = dict[str, Any]

WIDTH, HEIGHT, LEFT, BOTTOM, RIGHT, TOP = 760, 400, 64, 48, 210, 16
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #59636e }
.ground { fill: #ffffff } .grid { stroke: #d1d9e0 } .line { fill: none; stroke-width: 2 }
.theirs { stroke-dasharray: 5 4 }
@media (prefers-color-scheme: dark) {
  text { fill: #9198a1 } .ground { fill: #0d1117 } .grid { stroke: #30363d }
}
"""
COLOURS = ("#2f81f7", "#2da44e", "#bf8700", "#8250df", "#cf222e", "#e85aad")


def picture(series: dict[str, list[Row]]) -> str:
    """Both axes logarithmic: a straight line of slope 1 is linear growth."""
    points = [row for rows in series.values() for row in rows]
    left, right = bounds([row["operations"] for row in points])
    low, high = bounds([row["cpu"] for row in points])

    def x(operations: float) -> float:
        share = (log10(operations) - left) / (right - left)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(seconds: float) -> float:
        share = (log10(seconds) - low) / (high - low)
        return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        "<title>CPU seconds to compile, by compute operations</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="ground" width="{WIDTH}" height="{HEIGHT}"/>',
    ]
    for power in range(left, right + 1):
        at = x(10.0**power)
        parts.append(f'<path class="grid" d="M{at:.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
        parts.append(
            f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">'
            f"{10**power:,}</text>"
        )
    for power in range(low, high + 1):
        at = y(10.0**power)
        parts.append(f'<path class="grid" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(
            f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{10.0**power:g} s</text>'
        )
    parts.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">'
        "compute operations</text>"
    )
    for k, (name, rows) in enumerate(series.items()):
        colour, theirs = COLOURS[k % len(COLOURS)], name.startswith("PyTorch")
        places = [(x(row["operations"]), y(row["cpu"])) for row in rows]
        path = "L".join(f"{a:.1f} {b:.1f}" for a, b in places)
        kind = "line theirs" if theirs else "line"
        parts.append(f'<path class="{kind}" stroke="{colour}" d="M{path}"/>')
        parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{colour}"/>' for a, b in places]
        at = TOP + 20 + 22 * k
        begin = WIDTH - RIGHT + 14
        parts.append(f'<path class="{kind}" stroke="{colour}" d="M{begin} {at}h22"/>')
        parts.append(f'<text x="{begin + 28}" y="{at + 4}">{name}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def bounds(values: list[float]) -> tuple[int, int]:
    """Powers of ten around them."""
    low, high = log10(min(values)), log10(max(values))
    return int(low // 1), int(-(-high // 1))
