"""How each kind of operation is drawn: its letter, its words and its colours, for all formats.

Whoever adds a kind of operation adds one row. The rows stand in the order of the legends. Hues are
chosen so that forwards are cool and backwards warm, and the two stay apart for eyes that do not
tell red from green.
"""

from collections.abc import Iterable
from typing import NamedTuple


class Tone(NamedTuple):
    """A colour before it is lightened for a stage: the hue in degrees, lightness and saturation in
    percent."""

    hue: int
    lightness: int
    saturation: int


class KindStyle(NamedTuple):
    """What the formats need to know of a kind. `letter` stands for it in a terminal without colour
    (small for every second pipeline), `name` in legends and as the category of a trace; `tones` are
    its colours in the first pipeline and in the second; `torch` is its letter in the CSV of
    `torch.distributed.pipelining`, None where that has no such operation."""

    letter: str
    name: str
    tones: tuple[Tone, Tone]
    torch: str | None


KINDS: dict[str, KindStyle] = {
    "F": KindStyle("F", "forward", (Tone(217, 58, 82), Tone(176, 44, 62)), "F"),
    "B": KindStyle("B", "backward", (Tone(18, 58, 84), Tone(322, 60, 62)), "B"),
    "I": KindStyle("I", "input gradient", (Tone(24, 72, 90), Tone(322, 76, 68)), "I"),
    "W": KindStyle("W", "weight gradient", (Tone(44, 60, 88), Tone(268, 70, 62)), "W"),
}


def in_order(kinds: Iterable[str]) -> list[str]:
    """Those of the kinds that are given, each once, in the order of the table."""
    found = set(kinds)
    return [kind for kind in KINDS if kind in found]
