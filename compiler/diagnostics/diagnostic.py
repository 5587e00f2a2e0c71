"""A diagnostic is a value: what is wrong, where, and what to type instead. Nothing here prints;
`render/` turns diagnostics into text, and `cli` alone writes it.

Every arrow of the compiler returns its value or raises one `Rejected` with all it found.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from stretto.compiler.diagnostics.source import Span

Severity = Literal["error", "warning"]


class Label(NamedTuple):
    """A place in a source, and a text beside it, which may be empty."""

    span: Span
    text: str = ""


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One thing that is wrong.

    `code` is a row of `codes.CODES`. `message` is complete alone: `concise` prints no more. The
    first label is where to look, the others explain it; there may be none where no text is at
    fault (a plan file, the command line).
    """

    code: str
    message: str
    labels: tuple[Label, ...] = ()
    notes: tuple[str, ...] = ()
    help: str | None = None
    severity: Severity = "error"


class Rejected(Exception):
    """The user's file or plan is wrong; carries every diagnostic of the step that found out."""

    def __init__(self, diagnostics: Iterable[Diagnostic]):
        self.diagnostics = tuple(diagnostics)
        told = (d.message + (f" ({d.help})" if d.help else "") for d in self.diagnostics)
        super().__init__("; ".join(told))
