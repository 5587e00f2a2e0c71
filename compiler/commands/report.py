"""Diagnostics to the user, in the format that was asked for. For people (`full`) they are talk, on
stderr; the formats that programs read (`concise`, `json`, `github`) are data, on stdout."""

from argparse import Namespace
from collections.abc import Iterable, Sequence

from stretto.compiler.diagnostics import Diagnostic
from stretto.compiler.source import Source


def report(diagnostics: Sequence[Diagnostic], sources: Iterable[Source], chosen: Namespace) -> None:
    format = getattr(chosen, "format", "full")
