"""Diagnostics as text: a file per format, each a function from diagnostics and the sources they
point into to one string. Nothing here prints."""

from collections.abc import Callable, Iterable
from dataclasses import replace

from stretto.compiler.diagnostics.diagnostic import Diagnostic
from stretto.compiler.diagnostics.printable import shortened
from stretto.compiler.diagnostics.render.concise import concise
from stretto.compiler.diagnostics.render.full import full
from stretto.compiler.diagnostics.render.github import github
from stretto.compiler.diagnostics.render.json import json
from stretto.compiler.diagnostics.render.sarif import sarif
from stretto.compiler.diagnostics.source import Source

FORMATS: dict[str, Callable[[Iterable[Diagnostic], Iterable[Source]], str]] = {
    "full": full,
    "concise": concise,
    "json": json,
    "github": github,
    "sarif": sarif,
}

__all__ = ["FORMATS", "full", "render"]


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
        return full(diagnostics, sources, colour, width, encoding)
    return FORMATS[format](diagnostics, sources)


def _short(one: Diagnostic) -> Diagnostic:
    return replace(
        one,
        message=shortened(one.message),
        labels=tuple(label._replace(text=shortened(label.text)) for label in one.labels),
        notes=tuple(map(shortened, one.notes)),
        help=one.help and shortened(one.help),
    )
