"""How each kind of operation is drawn: its colours, and what torch's CSV calls it. Letters and
words come from the table of kinds itself, `problem/kinds.py`.

Whoever adds a kind of operation adds one row. Hues are chosen so that forwards are cool and
backwards warm; lightnesses, so that kinds stay apart for eyes that do not tell red from green, or
yellow from blue, in the shades of a rank's further stages too (`tests/show/test_colours.py`).
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple

from stretto.compiler.problem.kinds import KINDS

Texture = Literal["plain", "rising", "falling", "dots"]
"""Lines that rise or fall to the right, or dots; `page/raster.js` draws them."""


class Tone(NamedTuple):
    """A colour before it is lightened for a stage: the hue in degrees, lightness and saturation in
    percent."""

    hue: int
    lightness: int
    saturation: int


class KindStyle(NamedTuple):
    """`tones`: the colours of a kind in the first pipeline and in the second. `texture`: what lies
    over them for those who do not see them. `torch`: its letter in the CSV of
    `torch.distributed.pipelining`, None where that has no such operation."""

    tones: tuple[Tone, Tone]
    torch: str | None = None
    texture: Texture = "plain"


STYLES: dict[str, KindStyle] = {
    "F": KindStyle((Tone(218, 50, 76), Tone(164, 50, 66)), torch="F"),
    "B": KindStyle((Tone(8, 46, 80), Tone(327, 55, 62)), torch="B", texture="rising"),
    "I": KindStyle((Tone(24, 65, 76), Tone(316, 80, 74)), torch="I", texture="rising"),
    "W": KindStyle((Tone(54, 57, 88), Tone(269, 68, 57)), torch="W", texture="dots"),
}
"""By the letter of the kind."""


def in_order(kinds: Iterable[str]) -> list[str]:
    """Those of the kinds that are given, each once, in the order of legends."""
    found = set(kinds)
    return [kind for kind in KINDS if kind in found]
