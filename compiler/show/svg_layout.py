"""Where things are in an SVG: sizes, and lengths as whole hundredths of a pixel."""

import html

from stretto.compiler.diagnostics.printable import printable
from stretto.compiler.show.view import View

# In pixels.
WIDTH, LEFT, RIGHT, TOP, PAD = 960, 66, 44, 66, 16
LANE, CURVE, GAP = 28, 12, 10
SIDE = 18  # the lane of another stream than the first
LETTER, SPACE = 6, 6  # of a peak, and between it and the bars
DIGIT = 620  # of a label, in hundredths


def escape(text: str) -> str:
    """A text from outside as XML: some control characters have no form there at all."""
    return html.escape(printable(text))


def swatch(kind: str, pipeline: int, chunk: int) -> str:
    """The class of a colour in the picture's style."""
    return f"{kind}{pipeline}-{chunk}"


def right(view: View) -> int:
    """The margin in which the ranks' peaks stand, in pixels."""
    return max(RIGHT, PAD + LETTER * view.widest_peak + SPACE)


def across(view: View, tick: int) -> int:
    """Where a tick lies, from the left edge of the picture, in hundredths."""
    room = 100 * (WIDTH - LEFT - right(view))
    return 100 * LEFT + room * tick // max(1, view.claims.makespan)


def x(view: View, tick: int) -> str:
    """Where a tick lies, from the left edge of the picture, in pixels."""
    return hundredths(across(view, tick))


def hundredths(n: int) -> str:
    """`1250` as `12.5`."""
    return f"{n // 100}.{n % 100:02}".rstrip("0").rstrip(".")
