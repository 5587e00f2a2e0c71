"""Colours: the hue says what an operation is and which way its pipeline goes, the lightness which
of the rank's stages it belongs to. Every picture of a Program takes them from here."""

from colorsys import hls_to_rgb
from functools import cache
from typing import NamedTuple

from stretto.compiler.problem.spec import Kind


class Colour(NamedTuple):
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


# Hue, lightness and saturation in percent, for the first pipeline and the second: forwards are
# cool and backwards warm, and the two stay apart for eyes that do not tell red from green.
BASE: dict[Kind, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
    "F": ((217, 58, 82), (176, 44, 62)),
    "B": ((18, 58, 84), (322, 60, 62)),
    "I": ((24, 72, 90), (322, 76, 68)),
    "W": ((44, 60, 88), (268, 70, 62)),
}
NAMES: dict[Kind, str] = {
    "F": "forward",
    "B": "backward",
    "I": "input gradient",
    "W": "weight gradient",
}


@cache
def colour(kind: Kind, pipeline: int, chunk: int = 0) -> Colour:
    """The colour of an operation of `kind` on the rank's stage number `chunk` of a pipeline.
    Further pipelines than two take the hues of the first two, turned a little."""
    hue, lightness, saturation = BASE[kind][pipeline % 2]
    hue = (hue + 20 * (pipeline // 2)) % 360
    lightness = min(lightness + (0, 9, 17, 24)[min(chunk, 3)], 90)
    rgb = hls_to_rgb(hue / 360, lightness / 100, saturation / 100)
    return Colour(*(round(255 * part) for part in rgb))
