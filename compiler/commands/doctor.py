"""`stretto doctor`: what is wrong with this environment, before a run shows it. A line for each
finding, and below it what to do; exit code 1 where a run cannot work."""

import json
import os
from argparse import ArgumentParser, Namespace

from stretto.compiler.commands.examination import examine
from stretto.compiler.diagnostics.printable import printable

SIGNS = {"ok": " ", "warning": "!", "problem": "x"}

EXAMPLES = """\
  stretto doctor"""


def add(parser: ArgumentParser) -> None:
    """The flags of `doctor`."""
    parser.add_argument(
        "--json", action="store_true", help="print the findings as JSON: a list of objects"
    )


def run(chosen: Namespace) -> int:
    """Print the findings. Returns 1 where one of them is a problem, else 0."""
    findings = examine(os.environ)
    problems = sum(finding.state == "problem" for finding in findings)
    if chosen.json:
        print(json.dumps([finding._asdict() for finding in findings], indent=2))
        return 1 if problems else 0
    width = max(len(finding.check) for finding in findings)
    for finding in findings:
        print(printable(f"{SIGNS[finding.state]} {finding.check:{width}}  {finding.found}"))
        if finding.advice:
            print(printable(f"  {'':{width}}  -> {finding.advice}"))
    warnings = sum(finding.state == "warning" for finding in findings)
    print(f"{problems} problems, {warnings} warnings")
    return 1 if problems else 0
