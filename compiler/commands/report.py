"""Diagnostics to the user. For people (`full`) they are talk, on stderr; the formats that programs
read (`concise`, `json`, `github`) are data, on stdout."""

import sys
from collections.abc import Iterable, Sequence
from contextlib import nullcontext, suppress

from stretto.compiler.commands import screen
from stretto.compiler.commands.files import colourful
from stretto.compiler.diagnostics.diagnostic import Diagnostic
from stretto.compiler.diagnostics.render import render
from stretto.compiler.diagnostics.source import Source

DATA = ("json", "sarif")  # formats that are UTF-8 wherever they are written


def report(
    diagnostics: Sequence[Diagnostic], sources: Iterable[Source], format: str = "full"
) -> None:
    """Print them all; `json` is a list also where there is nothing to tell."""
    stream = sys.stderr if format == "full" else sys.stdout
    text = render(
        diagnostics,
        sources,
        format,
        colourful(stream),
        screen.width(stream),
        screen.encoding(stream),
    )
    if format in DATA:
        screen.write_data(text)
        return
    with suppress(OSError) if stream is sys.stderr else nullcontext():
        stream.write(text)
        stream.flush()
