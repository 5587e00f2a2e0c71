"""Diagnostics as text: a file per format, each a function from diagnostics and the sources they
point into to one string. Nothing here prints."""

from collections.abc import Iterable
from dataclasses import replace
from importlib import import_module

from stretto.compiler.diagnostics.diagnostic import Diagnostic
from stretto.compiler.diagnostics.printable import shortened
from stretto.compiler.diagnostics.source import Source

FORMATS = ("full", "concise", "json", "github", "sarif")
"""Their names: of the file, and of the function in it, which is loaded when it is asked for."""

__all__ = ["FORMATS", "render"]


def render(
    diagnostics: Iterable[Diagnostic],
    sources: Iterable[Source] = (),
    format: str = "full",
    colour: bool = False,
    width: int | None = None,
    encoding: str = "utf-8",
) -> str:
    """All diagnostics in one of the FORMATS, with a line break at the end of every line; "" for
    none, but for `json` and `sarif`, which say so. Words and texts that are too long are cut, their
    middle left out (`printable.shortened`). Only `full` shows source lines,
    may be coloured, and looks at how wide the screen is and which characters it has."""
    diagnostics = [_short(one) for one in diagnostics]
    if format == "full":
        if not diagnostics:
            return ""
        from stretto.compiler.diagnostics.render.full import full

        return full(diagnostics, sources, colour, width, encoding)
    text: str = getattr(import_module(f"{__name__}.{format}"), format)(diagnostics, sources)
    return text


def _short(one: Diagnostic) -> Diagnostic:
    return replace(
        one,
        message=shortened(one.message),
        labels=tuple(label._replace(text=shortened(label.text)) for label in one.labels),
        notes=tuple(map(shortened, one.notes)),
        help=one.help and shortened(one.help),
    )
