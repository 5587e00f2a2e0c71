"""`github`: workflow commands, which GitHub Actions shows beside the lines of a pull request."""

from collections.abc import Iterable

from stretto.compiler.diagnostics.diagnostic import Diagnostic
from stretto.compiler.diagnostics.printable import printable
from stretto.compiler.diagnostics.source import Source


def github(diagnostics: Iterable[Diagnostic], sources: Iterable[Source] = ()) -> str:
    """One `::error …` command each. Source: GitHub's "Workflow commands for GitHub Actions"."""
    return "".join(f"{_command(d)}\n" for d in diagnostics)


def _command(diagnostic: Diagnostic) -> str:
    fields = {"title": f"stretto ({diagnostic.code})"}
    if diagnostic.labels:
        file, line, column, end_line, end_column = diagnostic.labels[0].span
        fields |= {"file": file, "line": str(line), "endLine": str(end_line)}
        if line == end_line:
            # GitHub takes columns within one line only, and its last one is inclusive.
            fields |= {"col": str(column), "endColumn": str(max(column, end_column - 1))}
    properties = ",".join(f"{name}={_property(value)}" for name, value in fields.items())
    lines = [diagnostic.message, *diagnostic.notes]
    if diagnostic.help:
        lines.append(f"help: {diagnostic.help}")
    return f"::{diagnostic.severity} {properties}::{_escaped(chr(10).join(lines))}"


def _escaped(text: str) -> str:
    return printable(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _escaped(text).replace(":", "%3A").replace(",", "%2C")
