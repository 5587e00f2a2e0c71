"""`sarif`: SARIF 2.1.0, which GitHub's code scanning, GitLab and editors take. Source: the OASIS
standard "Static Analysis Results Interchange Format (SARIF) Version 2.1.0".
"""

from collections.abc import Iterable
from json import dumps
from typing import Any
from urllib.parse import quote

from stretto.compiler.diagnostics.codes import CODES
from stretto.compiler.diagnostics.diagnostic import Diagnostic, Label
from stretto.compiler.diagnostics.printable import printable
from stretto.compiler.diagnostics.source import Source

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def sarif(diagnostics: Iterable[Diagnostic], sources: Iterable[Source] = ()) -> str:
    """One log with one run, also where there is nothing to tell. Only ASCII."""
    found = list(diagnostics)
    codes = sorted({one.code for one in found})
    log = {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": {"name": "stretto", "rules": [_rule(code) for code in codes]}},
                "columnKind": "unicodeCodePoints",
                "results": [_result(one, codes) for one in found],
            }
        ],
    }
    return dumps(log, indent=1) + "\n"


def _rule(code: str) -> dict[str, Any]:
    """What a code means, from the table of codes."""
    row = CODES[code]
    return {
        "id": code,
        "shortDescription": {"text": row.title},
        "fullDescription": {"text": row.explanation},
    }


def _result(one: Diagnostic, codes: list[str]) -> dict[str, Any]:
    lines = [one.message, *one.notes, *([f"help: {one.help}"] if one.help else [])]
    result: dict[str, Any] = {
        "ruleId": one.code,
        "ruleIndex": codes.index(one.code),
        "level": one.severity,
        "message": {"text": printable("\n".join(lines))},
    }
    if one.labels:
        result["locations"] = [_location(one.labels[0])]
    if one.labels[1:]:
        result["relatedLocations"] = [
            {**_location(label), "message": {"text": printable(label.text or "see here")}}
            for label in one.labels[1:]
        ]
    return result


def _location(label: Label) -> dict[str, Any]:
    """A place. An empty one has no end: a region of SARIF would else end before it begins."""
    file, line, column, end_line, end_column = label.span
    region = {"startLine": line, "startColumn": column}
    if (end_line, end_column) != (line, column):
        region |= {"endLine": end_line, "endColumn": end_column}
    place = {
        "artifactLocation": {"uri": quote(file.encode("utf-8", "backslashreplace"))},
        "region": region,
    }
    return {"physicalLocation": place}
