"""`concise`: one line each, as compilers have always printed them."""

from collections.abc import Iterable

from stretto.compiler.diagnostics.diagnostic import Diagnostic
from stretto.compiler.diagnostics.printable import one_line, printable
from stretto.compiler.diagnostics.source import Source


def concise(diagnostics: Iterable[Diagnostic], sources: Iterable[Source] = ()) -> str:
    """`FILE:LINE:COLUMN: error[CODE]: MESSAGE`; the place is left out where no text is at fault."""
    return "".join(f"{_line(d)}\n" for d in diagnostics)


def _line(diagnostic: Diagnostic) -> str:
    place = f"{one_line(str(diagnostic.labels[0].span))}: " if diagnostic.labels else ""
    text = f"{diagnostic.severity}[{diagnostic.code}]: {diagnostic.message}"
    return place + printable(text).replace("\n", " ")
