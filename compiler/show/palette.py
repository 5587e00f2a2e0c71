"""Colours: the hue says what an operation is and which way its pipeline goes, the lightness which
of the rank's stages it belongs to. Every picture of a Program takes them from here; the table of
kinds is in `kinds`."""

from colorsys import hls_to_rgb
from functools import cache
from typing import NamedTuple

from stretto.compiler.show.kinds import STYLES


class Colour(NamedTuple):
    """Red, green and blue from 0 to 255; as a text `#rrggbb`."""

    red: int
    green: int
    blue: int

    def __str__(self) -> str:
        return f"#{self.red:02x}{self.green:02x}{self.blue:02x}"

    @property
    def ink(self) -> "Colour":
        """Black or white, whichever is read better on this colour (sRGB weights of luminance)."""
        bright = 299 * self.red + 587 * self.green + 114 * self.blue > 145_000
        return Colour(20, 22, 28) if bright else Colour(255, 255, 255)


Shade = tuple[str, int, int]
"""A colour: of a kind, a pipeline, and the place of a stage among that pipeline's on its rank."""

LIGHTER = (0, 9, 17, 24)
"""Per cent of lightness that a rank's first stage of a pipeline, its second, third and all further
ones have more."""


@cache
def colour(kind: str, pipeline: int, chunk: int = 0) -> Colour:
    """The colour of an operation of `kind` on the rank's stage number `chunk` of a pipeline.
    Further pipelines than two take the hues of the first two, turned a little."""
    hue, lightness, saturation = STYLES[kind].tones[pipeline % 2]
    hue = (hue + 20 * (pipeline // 2)) % 360
    lightness = min(lightness + LIGHTER[min(chunk, len(LIGHTER) - 1)], 90)
    rgb = hls_to_rgb(hue / 360, lightness / 100, saturation / 100)
    return Colour(*(round(255 * part) for part in rgb))
