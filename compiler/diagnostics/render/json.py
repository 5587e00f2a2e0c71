"""`json`: a list of objects; docs/json.md says what their keys mean."""

from collections.abc import Iterable
from json import dumps
from typing import Any

from stretto.compiler.diagnostics.diagnostic import Diagnostic
from stretto.compiler.diagnostics.source import Source, Span


def json(diagnostics: Iterable[Diagnostic], sources: Iterable[Source] = ()) -> str:
    """One list, one object to a line. Only ASCII, so that whatever a file contains arrives."""
    lines = ",\n".join(dumps(as_object(d)) for d in diagnostics)
    return f"[{lines}]\n"


def as_object(diagnostic: Diagnostic) -> dict[str, Any]:
    """One diagnostic with the keys of `docs/json.md`."""
    first, others = diagnostic.labels[:1], diagnostic.labels[1:]
    return {
        "code": diagnostic.code,
        "severity": diagnostic.severity,
        "message": diagnostic.message,
        **_place(first[0].span if first else None),
        "help": diagnostic.help,
        "notes": list(diagnostic.notes),
        "related": [{**_place(label.span), "message": label.text} for label in others],
    }


def _place(span: Span | None) -> dict[str, Any]:
    if span is None:
        return dict.fromkeys(("file", "line", "column", "end_line", "end_column"))
    return span._asdict()
