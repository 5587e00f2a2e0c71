"""Colours of different kinds stay apart, also for eyes that see fewer. What these see is computed
by the matrices of Machado, Oliveira and Fernandes (2009, severity 1), how far two colours are from
each other in CIELAB (1976); from 2.3 on a difference is noticed, and 10 are plain at a glance."""

from itertools import combinations

import pytest

from stretto.compiler.show.palette import Colour, Shade, colour

SEEN = {
    "all": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "deuteranopia": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ),
    "tritanopia": (
        (1.255528, -0.076749, -0.178779),
        (-0.078411, 0.930809, 0.147602),
        (0.004733, 0.691367, 0.303900),
    ),
}


def linear(part: int) -> float:
    """A part of an sRGB colour as light."""
    x = part / 255
    return x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4


def lab(paint: Colour, eyes: str) -> tuple[float, float, float]:
    """The colour as these eyes see it, in CIELAB (D65)."""
    light = [linear(part) for part in paint]
    r, g, b = (
        min(1.0, max(0.0, sum(m * x for m, x in zip(row, light, strict=True))))
        for row in SEEN[eyes]
    )
    xyz = (
        (0.4124 * r + 0.3576 * g + 0.1805 * b) / 0.95047,
        0.2126 * r + 0.7152 * g + 0.0722 * b,
        (0.0193 * r + 0.1192 * g + 0.9505 * b) / 1.08883,
    )
    x, y, z = (t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116 for t in xyz)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def apart(a: Shade, b: Shade, eyes: str) -> float:
    """How far two shades are from each other."""
    seen = zip(lab(colour(*a), eyes), lab(colour(*b), eyes), strict=True)
    return float(sum((p - q) ** 2 for p, q in seen) ** 0.5)


@pytest.mark.parametrize("eyes", SEEN)
@pytest.mark.parametrize(
    ("pipelines", "stages", "least"), [(2, 1, 20), (1, 2, 15), (2, 2, 9), (1, 4, 6)]
)
def test_kinds_are_told_from_each_other(
    eyes: str, pipelines: int, stages: int, least: float
) -> None:
    """By colour alone, in every shade; the page has letters and textures beside."""
    shades = [(k, p, c) for k in "FBIW" for p in range(pipelines) for c in range(stages)]
    near = min((apart(a, b, eyes), a, b) for a, b in combinations(shades, 2) if a[0] != b[0])
    assert near[0] >= least, near
